"""Do tokenizer, row length and number format go with the model?"""

from typing import TYPE_CHECKING, Any

from mosaic_trainspec.checks.model import ChosenModel
from mosaic_trainspec.checks.report import Report
from mosaic_trainspec.errors import TrainSpecError

if TYPE_CHECKING:
    from torchtitan.config import JobConfig


def check_vocabulary(config: Any, model: ChosenModel, tokenizer: Any) -> None:
    """Check that the model embeds all ids of the tokenizer that `mosaic_tokenizer` names."""
    embedded = model.vocab_size
    # Ids may have gaps, so that the largest can exceed the number of entries.
    needed = max(tokenizer.tokenizer.get_vocab().values()) + 1
    if embedded is not None and needed > embedded:
        large = [
            f"{name} has {args.vocab_size}"
            for name, args in model.spec.model_args.items()
            if (getattr(args, "vocab_size", None) or 0) >= needed
        ]
        raise TrainSpecError(
            f"tokenizer {config.mosaic_tokenizer.name!r} has a vocabulary of {needed}, but "
            f"{model.name} embeds only {embedded}: choose a smaller tokenizer "
            f"(mosaic_tokenizer.name) or a flavor that embeds more"
            + (f" ({', '.join(large[:3])})" if large else "")
        )


def check_document_masks(config: Any, model: ChosenModel, tokenizer: Any) -> None:
    """Check that TorchTitan can make the masks that the flavor's attention takes.

    It makes them with the tokenizer (None if `mosaic_tokenizer` names none).
    """
    if model.attention not in ("flex", "varlen"):
        return
    if tokenizer is None:
        raise TrainSpecError(
            f"{model.name} uses {model.attention} attention, whose masks TorchTitan makes with the "
            "tokenizer: set mosaic_tokenizer.name to the one that the data is made with"
        )
    if getattr(model.args, "attn_mask_type", "causal") != "block_causal":
        return
    if tokenizer.eos_id is None:
        raise TrainSpecError(
            f"{model.name} keeps documents apart by the EOS token (attn_mask_type is "
            f"block_causal), and tokenizer {config.mosaic_tokenizer.name!r} has none: set "
            "mosaic_tokenizer.kwargs.eos_token to the token that ends documents, or choose "
            "another tokenizer or flavor"
        )


def check_max_seq_len(config: "JobConfig", model: ChosenModel, report: Report) -> None:
    """Compare the row lengths with the positions that the model knows.

    TorchTitan's models take `training.seq_len` for their maximum, whatever the flavor says, so that
    longer rows only cost quality; but validation cannot exceed it.
    """
    most = getattr(model.args, "max_seq_len", None)
    if most is None:
        return
    length = config.training.seq_len
    if length > most:
        report.warn(
            f"training.seq_len {length} exceeds the {most} positions that {model.name} is made "
            "for: later positions get rotations that it was not tuned for, and weights trained "
            f"elsewhere do not know them; {most} or less has no such cost"
        )
    if config.validation.enable and config.validation.seq_len > length:
        raise TrainSpecError(
            f"validation.seq_len {config.validation.seq_len} exceeds training.seq_len {length}, "
            f"for which {model.name} computes its positions: set it to {length} or less"
        )


def check_precision(config: "JobConfig", model: ChosenModel, world_size: int) -> None:
    """Check that `training.mixed_precision_param` is one that the model can compute in.

    The parallel degrees are known to make `world_size`, the ranks of the whole run.
    """
    half = config.training.mixed_precision_param != "float32"
    if model.attention == "varlen" and not half:
        raise TrainSpecError(
            f"{model.name} uses varlen attention, which has no kernel for float32: "
            'set training.mixed_precision_param = "bfloat16"'
        )
    # Its layers are made in bfloat16, its embedding and output in float32.
    if not model.is_gpt_oss:
        return
    parallelism = config.parallelism
    fixed = parallelism.tensor_parallel_degree * parallelism.pipeline_parallel_degree
    # FSDP, also that of context parallelism, converts all to one format. Without it autocast does,
    # which TorchTitan leaves out under tensor and pipeline parallelism.
    if world_size > fixed * parallelism.data_parallel_replicate_degree:
        return
    if fixed > 1:
        raise TrainSpecError(
            f"{model.name} has layers in bfloat16 and others in float32, which only FSDP "
            "converts to one format under tensor or pipeline parallelism: start more ranks, for a "
            "parallelism.data_parallel_shard_degree of 2 or more"
        )
    if not half:
        raise TrainSpecError(
            f"{model.name} has layers in bfloat16, which need autocast where there is no FSDP: "
            'set training.mixed_precision_param = "bfloat16", or start more ranks'
        )
