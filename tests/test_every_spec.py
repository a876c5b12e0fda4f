"""Spec by spec: TorchTitan's text models get the project's data, and compute with them on CPU.

Most of it in one process and without ranks, then each under FSDP; `test_models.py` trains some of
them as they are.
"""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from integration_support.client import Numbered, RankServer, stream
from streaming import MDSWriter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.nn.attention.flex_attention import (
    BlockMask,
    create_block_mask,
    create_mask,
    flex_attention,
)
from torchtitan import experiments, models
from torchtitan.distributed.utils import maybe_enable_amp
from torchtitan.protocols import train_spec as titan_registry
from torchtitan.train import Trainer
from transformers import LlamaConfig, PreTrainedTokenizerFast

from mosaic_config import MosaicConfigManager
from mosaic_dataloader import build_mosaic_tokenizer
from mosaic_train.checks.tokenizer import check_vocabulary
from mosaic_train.errors import TrainError
from mosaic_train.spec import register_spec
from mosaic_trainspec import TrainSpecError
from mosaic_trainspec.checks import find_model
from mosaic_trainspec.model_inputs import prepare_model_inputs
from mosaic_trainspec.torchtitan_patches import patch_model
from mosaic_trainspec.torchtitan_patches.cpu import (
    count_integers_on_cpu,
    run_experts_one_by_one,
)

SEQ_LEN, ROWS = 32, 2
BACKEND = "transformers_modeling_backend"
STEP = re.compile(r"step:\s*(\d+).*?loss:\s*([\d.]+)")
#: What flex attention was called with since the test began.
FLEX_MASKS: list[BlockMask] = []
#: How attention goes, and the embeddings: what the flavors of each text model say of themselves.
FLAVORS = [
    ("llama3", "debugmodel", "sdpa", 2048),
    ("llama3", "debugmodel_flex_attn", "flex", 2048),
    ("llama3", "debugmodel_varlen_attn", "varlen", 2048),
    ("llama3_ft", "debugmodel", "sdpa", 2048),
    ("llama4", "debugmodel", "sdpa", 2048),
    ("llama4", "debugmodel_irope", "flex", 2048),
    ("qwen3", "debugmodel", "sdpa", 2048),
    ("qwen3", "debugmodel_moe", "sdpa", 2048),
    ("deepseek_v3", "debugmodel", "sdpa", 2048),
    ("deepseek_v3", "debugmodel_flex_attn", "flex", 2048),
    ("gpt_oss", "debugmodel", "flex", 201088),
    ("simple_fsdp.llama3", "debugmodel", "sdpa", 2048),
    ("simple_fsdp.deepseek_v3", "debugmodel", "sdpa", 2048),
    (BACKEND, "debugmodel", "sdpa", 512),
]
#: What does not come in on a machine without a GPU and with torchtitan's own dependencies only.
MISSING = {
    "autoparallel.llama3": "needs the Python module 'autoparallel'",
    "autoparallel.deepseek_v3": "needs the Python module 'autoparallel'",
    "autoparallel.local_map_deepseek_v3": "needs the Python module 'autoparallel'",
    "flux": "is not a text model (it needs images)",
    "vlm": "is not a text model (it needs images next to the text)",
}
# Checked before it is imported: `apps/train/tests/test_app_mistakes.py`.
CUDA_GRAPHS = {"compiler_toolkit.llama3", "compiler_toolkit.deepseek_v3"}


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the app does on a machine without a GPU, for this test only; and nothing is compiled."""
    import torchtitan.models.attention as attention

    monkeypatch.setattr(titan_registry, "_extra_train_specs", {})
    monkeypatch.setattr(torch, "histc", torch.histc)
    count_integers_on_cpu()
    FLEX_MASKS.clear()

    def flex(*args: Any, block_mask: BlockMask, **options: Any) -> Any:
        FLEX_MASKS.append(block_mask)
        return flex_attention(*args, block_mask=block_mask, **options)

    monkeypatch.setattr(attention.FlexAttentionWrapper, "_compiled_flex_attn", flex)
    on_cpu = partial(create_block_mask, device="cpu")
    monkeypatch.setattr(attention, "_compiled_create_block_mask", on_cpu)


def write_tokenizer(folder: Path, entries: int) -> Path:
    """A tokenizer whose largest id is `entries - 1`; of those below, some have no word."""
    known = [number for number in range(2, 500) if number != 5]
    words = {f"w{number}": number for number in (*known, entries - 1)}
    words |= {"<unk>": 0, "</s>": 1}
    core = Tokenizer(WordLevel(words, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>").save_pretrained(folder)
    return folder


def configure(folder: Path, name: str, flavor: str, entries: int) -> Any:
    """A configuration with data of its own: rows that end documents with token 1."""
    data = folder / "data"
    rng = np.random.default_rng(5)
    if not data.exists():
        columns = {"tokens": "ndarray:int32"}
        with MDSWriter(out=str(data), columns=columns, size_limit=2000) as writer:
            for _ in range(40):
                row = rng.integers(2, 500, SEQ_LEN + 1, dtype=np.int32)
                row[[7, 20]] = 1
                writer.write({"tokens": row})
    backend = folder / "hf"
    LlamaConfig(architectures=["LlamaForCausalLM"], vocab_size=512).save_pretrained(backend)
    (folder / "config.toml").write_text(
        f"""
[job]
dump_folder = "{folder}/out"
[model]
name = "{name}"
flavor = "{flavor}"
[training]
seq_len = {SEQ_LEN}
local_batch_size = {ROWS}
[mosaic_tokenizer]
name = "{write_tokenizer(folder / f"words-{entries}", entries)}"
[mosaic_dataloader.dataset]
local = "{data}"
shuffle = true
"""
    )
    own = ["--job.custom_config_module", f"torchtitan.experiments.{BACKEND}.job_config"]
    own += ["--hf_transformers.model", str(backend)]
    argv = ["--job.config_file", str(folder / "config.toml"), *(own if name == BACKEND else [])]
    return MosaicConfigManager().parse_args(argv)


def same(one: Any, other: Any) -> bool:
    """Whether two masks let the same tokens see one another."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, BlockMask):
        rows, heads = one.kv_num_blocks.shape[:2]
        dense = [
            create_mask(mask.mask_mod, rows, heads, SEQ_LEN, SEQ_LEN, device="cpu")
            for mask in (one, other)
        ]
        return dense[0].equal(dense[1])
    if isinstance(one, torch.Tensor):
        return one.equal(other)
    return type(one) is type(other) and all(
        same(a, b) if isinstance(a, torch.Tensor) else a == b
        for a, b in zip(one, other, strict=True)
    )


def layers(model: Any) -> list[Any]:
    return list(model.layers.values())


@pytest.mark.parametrize(("name", "flavor", "attention", "embedded"), FLAVORS)
def test_it_takes_our_batches(
    tmp_path: Path, cpu: None, name: str, flavor: str, attention: str, embedded: int
) -> None:
    # The largest tokenizer that fits; with one entry more the run would not begin.
    config = configure(tmp_path, name, flavor, embedded)
    chosen = find_model(config)
    check_vocabulary(config, chosen, build_mosaic_tokenizer(config))
    larger = configure(tmp_path, name, flavor, embedded + 1)
    with pytest.raises(TrainError) as refused:
        check_vocabulary(larger, find_model(larger), build_mosaic_tokenizer(larger))
    assert f"a vocabulary of {embedded + 1}, but {name} {flavor} embeds only {embedded}" in str(
        refused.value
    )

    # From here as TorchTitan's Trainer: spec, tokenizer, loader, model.
    spec = titan_registry.get_train_spec(register_spec(config))
    run_experts_one_by_one(spec.model_args)
    tokenizer = spec.build_tokenizer_fn(config)
    assert tokenizer.get_vocab_size() == embedded
    assert tokenizer.eos_id == 1
    loader = spec.build_dataloader_fn(
        dp_world_size=2, dp_rank=1, tokenizer=tokenizer, job_config=config
    )
    batch, labels = next(iter(loader))
    loader.close()
    assert batch.keys() == {"input"}
    tokens = batch["input"]
    for tensor in (tokens, labels):
        assert (tensor.shape, tensor.dtype) == ((ROWS, SEQ_LEN), torch.int64)
        assert tensor.is_contiguous()
    assert labels[:, :-1].equal(tokens[:, 1:])
    assert (labels >= 0).all()

    args = spec.model_args[flavor]
    args.update_from_config(config)
    assert getattr(args, "attn_type", "sdpa") == attention
    # Small, so that it is made in a moment: with layers of each kind.
    args.n_layers, args.vocab_size = 4 if flavor == "debugmodel_irope" else 2, min(embedded, 2048)
    if hasattr(args, "moe_inter_dim"):
        args.moe_inter_dim = 64
    with torch.device("meta"):
        model = spec.model_cls(args)
    patch_model(model)
    torch.manual_seed(7)
    model.to_empty(device="cpu")
    with torch.no_grad():
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.fill_(torch.nan)  # as bad as memory can be
        model.init_weights(buffer_device=torch.device("cpu"))

    # What its own train step makes of a batch is what our validation makes of it.
    trainer: Any = SimpleNamespace(
        model_args=args,
        model_parts=[model],
        tokenizer=tokenizer,
        parallel_dims=SimpleNamespace(cp_enabled=False),
    )
    taken, targets, first, every = Trainer.post_dataloading_process(trainer, batch, labels)
    ours = prepare_model_inputs(
        batch,
        labels,
        model_parts=[model],
        model_args=args,
        tokenizer=tokenizer,
        parallel_dims=trainer.parallel_dims,
        job_config=config,
        device=torch.device("cpu"),
    )
    assert ours.tokens.equal(taken)
    assert ours.labels.equal(targets)
    assert ours.first_stage == first == {}
    assert ours.every_stage.keys() == every.keys()
    assert ("attention_masks" in every) == (attention != "sdpa")
    if attention != "sdpa":
        assert same(ours.every_stage["attention_masks"], every["attention_masks"])
    if attention == "varlen":  # its kernel is a GPU's
        assert every["attention_masks"].cu_seq_q.tolist()[:3] == [0, 8, 21]
        return

    model.train()
    amp = maybe_enable_amp(
        SimpleNamespace(fsdp_enabled=False, tp_enabled=False, pp_enabled=False),  # type: ignore[arg-type]
        "bfloat16" if name == "gpt_oss" else "float32",
        "cpu",
    )
    with amp, torch.set_grad_enabled(attention == "sdpa"):  # flex attention has no backward on CPU
        logits = model(taken, **first, **every)
        assert logits.shape == (ROWS, SEQ_LEN, args.vocab_size)
        # TorchTitan's losses are sums; the Trainer divides.
        loss = spec.build_loss_fn(config)(logits, targets) / targets.numel()
    # Of so many tokens none is much likelier than another.
    assert float(loss) == pytest.approx(np.log(args.vocab_size), abs=1.5)
    if flavor == "debugmodel_irope":
        masks = every["attention_masks"]
        kinds = [masks["rope" if layer.attention.use_rope else "nope"] for layer in layers(model)]
        assert [id(mask) for mask in FLEX_MASKS] == [id(mask) for mask in kinds]
        assert len({id(mask) for mask in kinds}) == 2
    if attention == "sdpa":
        loss.backward()
        idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert not {n for n in idle if "expert" not in n}, idle


def test_every_name_is_accounted_for(tmp_path: Path, cpu: None) -> None:
    """A name that a new TorchTitan adds is noticed here; what cannot be had is said in one line."""
    known = models._supported_models | experiments._supported_experiments
    assert {name for name, *_ in FLAVORS} | MISSING.keys() | CUDA_GRAPHS == known
    config = configure(tmp_path, "llama3", "debugmodel", 2048)
    for name, message in MISSING.items():
        config.model.name = name
        with pytest.raises(TrainSpecError) as refused:
            register_spec(config)
        assert message in str(refused.value)
        assert name in str(refused.value)
        assert "\n" not in str(refused.value)
    # Whatever of a model is small enough to be tried is tried above, under one name of its class.
    tried = {(name, flavor) for name, flavor, *_ in FLAVORS}
    specs = {name: titan_registry.get_train_spec(name) for name, _ in tried}
    for spec in specs.values():
        small = {flavor for flavor in spec.model_args if "debug" in flavor}
        alike = {
            name for name, other in specs.items() if issubclass(spec.model_cls, other.model_cls)
        }
        assert small <= {flavor for name, flavor in tried if name in alike}


# Flex and varlen attention cannot be trained on CPU.
TRAINED = [(name, flavor, False) for name, flavor, kind, _ in FLAVORS if kind == "sdpa"]
#: Experts, the other FSDP, and tied weights under the names of Hugging Face's: what
#: is particular about the others is in these as well. A soak trains all.
ALWAYS = [("llama4", False), ("simple_fsdp.llama3", False), (BACKEND, True)]


@pytest.mark.parametrize(
    ("name", "flavor", "tied"),
    [
        pytest.param(*case, marks=() if case[::2] in ALWAYS else pytest.mark.soak)
        for case in [*TRAINED, (BACKEND, "debugmodel", True)]
    ],
)
def test_two_ranks_share_it_and_one_resumes(
    ranks: RankServer, numbered: Numbered, name: str, flavor: str, tied: bool
) -> None:
    """What two GPUs get by default is FSDP; its checkpoint is read by a single rank."""
    options = ["--model.name", name, "--model.flavor", flavor, "--training.steps", "2"]
    options += ["--training.global_batch_size", "4", "--training.local_batch_size", "2"]
    options += ["--checkpoint.enable", "--checkpoint.interval", "1", *stream("a", numbered.local)]
    shrink: str | None = name
    if name == BACKEND:
        told, shrink = ranks.new_folder("hf"), None
        size = {"vocab_size": 2048, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
        (told / "config.json").write_text(json.dumps(size | {"tie_word_embeddings": tied}))
        options += ["--job.custom_config_module", f"torchtitan.experiments.{BACKEND}.job_config"]
        options += ["--hf_transformers.model", str(told)]
    two = ranks.train(2, *options, shrink=shrink).succeeded()
    assert "Applied FSDP" in two.log(0) or "dp mode=fully_shard" in two.log(0)
    folder = ranks.new_folder("one")
    target = folder / "out" / "checkpoint"
    target.mkdir(parents=True)
    (target / "step-1").symlink_to(two.folder / "out" / "checkpoint" / "step-1")
    loaded = {"shrink": shrink, "loads_weights": True}
    one = ranks.train(1, *options, folder=folder, **loaded).succeeded()
    seen, after = ({s: float(v) for s, v in STEP.findall(run.log(0))} for run in (two, one))
    assert list(seen) == ["1", "2"]
    assert after == {"2": pytest.approx(seen["2"], rel=1e-3)}
