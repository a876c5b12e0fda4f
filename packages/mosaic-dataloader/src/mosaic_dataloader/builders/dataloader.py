"""TorchTitan's dataloader builders."""

import inspect
import os
from typing import Any

from mosaic_dataloader.builders.options import as_options, section
from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.loader.dataloader import (
    MosaicParallelAwareDataloader,
    ValidationDataloader,
)

TRAINING = "mosaic_dataloader"
VALIDATION = "mosaic_validation_dataloader"


def build_mosaic_dataloader(
    *,
    dp_world_size: int,
    dp_rank: int,
    tokenizer: Any,
    job_config: Any,
    vocab_size: int | None = None,
) -> MosaicParallelAwareDataloader:
    """Build the training loader from ``[mosaic_dataloader]`` and ``[training]``.

    Args:
        dp_world_size: Size of the trainer's batch mesh.
        dp_rank: Rank in it.
        tokenizer: Encodes text columns; None where all streams hold tokens.
        job_config: Read by attribute: ``mosaic_dataloader``, ``training.local_batch_size``,
            ``training.seq_len``.
        vocab_size: Token ids that the model embeds, which its arguments know and the configuration
            does not; see ``StreamingTextDataset``.

    Raises:
        MosaicDataError: An option or the data cannot be used; the message says what to change.
    """
    training = section(job_config, "training")
    options = as_options(section(job_config, TRAINING))
    dataset = build_dataset(job_config, tokenizer, TRAINING, training.seq_len, vocab_size)
    return MosaicParallelAwareDataloader(
        dataset,
        dp_rank=dp_rank,
        dp_world_size=dp_world_size,
        batch_size=training.local_batch_size,
        num_nodes=num_nodes(),
        **_loader_options(options, ("drop_last", "skip_samples")),
    )


def build_mosaic_validation_dataloader(
    *,
    dp_world_size: int,
    dp_rank: int,
    tokenizer: Any,
    job_config: Any,
    vocab_size: int | None = None,
) -> ValidationDataloader:
    """Build the validation loader from ``[mosaic_validation_dataloader]`` and ``[validation]``.

    Every iteration is the same finite pass, with equally many batches on all ranks; the last one
    is padded with rows whose labels are all ignored.

    Raises:
        MosaicDataError: The section is missing, or an option or the data cannot be used.
    """
    validation = section(job_config, "validation")
    options = as_options(section(job_config, VALIDATION))
    dataset = build_dataset(job_config, tokenizer, VALIDATION, validation.seq_len, vocab_size)
    return ValidationDataloader(
        dataset,
        dp_rank=dp_rank,
        dp_world_size=dp_world_size,
        batch_size=validation.local_batch_size,
        num_nodes=num_nodes(),
        # Refused by name where it is set.
        **_loader_options(options, ("skip_samples",)),
    )


def build_dataset(
    job_config: Any, tokenizer: Any, name: str, seq_len: int, vocab_size: int | None = None
) -> StreamingTextDataset:
    """Open the data of one loader section, without starting anything.

    Args:
        job_config: The configuration.
        tokenizer: See ``build_mosaic_dataloader``.
        name: ``mosaic_dataloader`` or ``mosaic_validation_dataloader``.
        seq_len: Tokens in a row.
        vocab_size: See ``build_mosaic_dataloader``.

    Raises:
        MosaicDataError: An option or the data cannot be used.
    """
    loader = as_options(section(job_config, name))
    options = as_options(loader.get("dataset", {}))
    if loader.get("name", "text") != "text":
        raise MosaicDataError(f'[{name}] name = {loader["name"]!r} must be "text"')
    streams = {n: as_options(s) for n, s in as_options(options.pop("streams", {})).items()}
    if not streams and not options.get("remote") and not options.get("local"):
        raise MosaicDataError(
            f"[{name}.dataset] names no data; add [{name}.dataset.streams.NAME] with remote and/or "
            f"local"
        )
    longest = options.pop("max_seq_len", None)
    if longest is not None and longest != seq_len:
        trained = "training" if name == TRAINING else "validation"
        raise MosaicDataError(
            f"[{name}.dataset] max_seq_len = {longest} contradicts {trained}.seq_len = {seq_len}; "
            f"make them equal or leave max_seq_len out"
        )
    if options.pop("partition_algo", "relaxed") != "relaxed":
        raise MosaicDataError(
            f'[{name}.dataset] partition_algo must be "relaxed": the order never depends on the '
            f"number of machines"
        )
    known = set(inspect.signature(StreamingTextDataset.__init__).parameters) - {
        "self",
        "tokenizer",
        "seq_len",
        "vocab_size",
    }
    unknown = sorted(set(options) - known)
    if unknown:
        raise MosaicDataError(f"[{name}.dataset] has no option {unknown[0]!r}")
    return StreamingTextDataset(
        tokenizer=tokenizer,
        seq_len=seq_len,
        streams=streams or None,
        vocab_size=vocab_size,
        **options,
    )


def num_nodes() -> int:
    """Machines of this run, by what torchrun tells; it sets defaults at a run's first start."""
    groups = os.environ.get("GROUP_WORLD_SIZE")
    if groups:
        return int(groups)
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, int(os.environ.get("WORLD_SIZE", "1")) // local)


def _loader_options(options: dict[str, Any], more: tuple[str, ...]) -> dict[str, Any]:
    names = ("num_workers", "prefetch_factor", "pin_memory", "persistent_workers", *more)
    return {name: options[name] for name in names if name in options}
