"""`--export`: a checkpoint as a folder that Hugging Face's transformers loads."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_train.errors import TrainError
from mosaic_trainspec.checks import (
    ChosenModel,
    MetaModel,
    build_meta_model,
    compare_weights,
    complete_steps,
    find_model,
    is_distributed,
    load_entries,
    own_folder,
)

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

logger = logging.getLogger("mosaic_train")

# TorchTitan's adapters of the models that transformers computes in the same way.
_LLAMA3, _QWEN3 = "Llama3StateDictAdapter", "Qwen3StateDictAdapter"
_SAMPLE_TOKENS = 64


def export(config: "MosaicJobConfig", folder: str, step: int | None) -> None:
    """Write a checkpoint as weights, config and tokenizer; load them and print a sample.

    Args:
        config: The configuration that it was trained with; `checkpoint.export_dtype` is the type
            of the weights.
        folder: Where to write; made, and empty if it exists.
        step: The step of the checkpoint; None for the last one.

    Raises:
        TrainError: The folder is not empty, there is no such checkpoint, or transformers has no
            model like it.
        TrainSpecError: The model is unknown, or the checkpoint is of another one.
        MosaicDataError: The tokenizer cannot be loaded.
    """
    from mosaic_dataloader import build_mosaic_tokenizer

    target = Path(folder)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise TrainError(f"--export {folder}: it exists and is not an empty folder; name another")
    model = find_model(config)
    _check_model(model)
    source = _checkpoint(config, step)
    tokenizer = build_mosaic_tokenizer(config)
    meta_model = build_meta_model(config, model)
    assert meta_model is not None, "a model with an adapter can be built"
    weights = _hf_weights(config, model, meta_model, source)
    hf_config = _hf_config(model, meta_model)
    if tokenizer is not None:
        hf_config.bos_token_id, hf_config.eos_token_id = tokenizer.bos_id, tokenizer.eos_id

    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(hf_config)
    missing, unexpected = built.load_state_dict(weights, strict=False, assign=True)
    tied = {"lm_head.weight"} if hf_config.tie_word_embeddings else set()
    assert set(missing) <= tied and not unexpected, (missing, unexpected)
    built.tie_weights()
    built.save_pretrained(target)
    if tokenizer is None:
        logger.info("wrote %s to %s; no tokenizer: mosaic_tokenizer.name is empty", source, target)
        return
    # A tokenizer without a class of its own also returns token types, which `generate` refuses.
    own = tokenizer.tokenizer
    own.model_input_names = own.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    own.save_pretrained(target)
    logger.info("wrote %s to %s", source, target)
    _print_sample(target)


def _checkpoint(config: "MosaicJobConfig", step: int | None) -> Path:
    """The folder of a complete checkpoint of the run."""
    own = own_folder(config)
    steps = complete_steps(own)
    if not steps:
        raise TrainError(
            f"--export: {own} holds no complete checkpoint; train first, or correct "
            "checkpoint.folder or job.dump_folder"
        )
    if step is not None and step not in steps:
        raise TrainError(
            f"--at-step {step}: there is no complete checkpoint of that step in {own}; there are "
            f"those of {', '.join(map(str, steps))}"
        )
    return own / f"step-{steps[-1] if step is None else step}"


def _hf_weights(
    config: "MosaicJobConfig", model: ChosenModel, meta_model: MetaModel, source: Path
) -> dict[str, Any]:
    """The weights of a checkpoint under transformers' names, in `checkpoint.export_dtype`."""
    import torch
    from torchtitan.config import TORCH_DTYPE_MAP

    if not is_distributed(source):  # checkpoint.last_save_in_hf
        from safetensors.torch import load_file

        files = sorted(source.glob("*.safetensors"))
        weights = {name: value for file in files for name, value in load_file(file).items()}
    else:
        compare_weights(source, model, meta_model, "checkpoint.folder")
        entries = {name: torch.empty(shape) for name, shape in meta_model.shapes.items()}
        load_entries(source, entries)
        weights = model.spec.state_dict_adapter(model.args, None).to_hf(entries)
    dtype = TORCH_DTYPE_MAP[config.checkpoint.export_dtype]
    return {name: value.to(dtype) for name, value in weights.items()}


def _adapter(model: ChosenModel) -> str:
    return getattr(model.spec.state_dict_adapter, "__name__", "")


def _check_model(model: ChosenModel) -> None:
    """Check that transformers has a model like it."""
    adapter = _adapter(model)
    if adapter == _LLAMA3:
        return
    # The biases by which TorchTitan balances experts have no place in transformers' model.
    if adapter == _QWEN3 and model.args.qk_norm and not model.args.moe_enabled:
        return
    raise TrainError(
        f"--export writes llama3 models and qwen3 models without experts, and {model.name} is "
        "neither"
        + ("; checkpoint.last_save_in_hf = true saves the weights alone" if adapter else "")
    )


def _hf_config(model: ChosenModel, meta_model: MetaModel) -> Any:
    """The configuration of the same model in transformers."""
    from transformers import LlamaConfig, Qwen3Config

    args = model.args
    common = {
        "vocab_size": args.vocab_size,
        "hidden_size": args.dim,
        "intermediate_size": meta_model.shapes["layers.0.feed_forward.w1.weight"][0],
        "num_hidden_layers": args.n_layers,
        "num_attention_heads": args.n_heads,
        "num_key_value_heads": args.n_kv_heads or args.n_heads,
        "rms_norm_eps": args.norm_eps,
        "rope_theta": args.rope_theta,
        "max_position_embeddings": args.max_seq_len,
    }
    if _adapter(model) == _QWEN3:
        return Qwen3Config(
            **common, head_dim=args.head_dim, tie_word_embeddings=args.enable_weight_tying
        )
    rope = args.rope_scaling_args
    return LlamaConfig(
        **common,
        tie_word_embeddings=False,
        rope_scaling={
            "rope_type": "llama3",
            "factor": rope.scaling_factor,
            "low_freq_factor": rope.low_freq_factor,
            "high_freq_factor": rope.high_freq_factor,
            "original_max_position_embeddings": rope.original_max_position_embeddings,
        },
    )


def _print_sample(folder: Path) -> None:
    """Load what was written, and print a document as the model makes one up."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    # A document begins where the one before it has ended.
    begin = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.bos_token_id
    if begin is None:
        logger.info("no sample: the tokenizer has no token that begins a document")
        return
    torch.manual_seed(0)
    prompt = torch.tensor([[begin]])
    made = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=_SAMPLE_TOKENS,
        do_sample=True,
        pad_token_id=begin,
    )
    print(f"sample: {tokenizer.decode(made[0, 1:], skip_special_tokens=True)}", flush=True)
