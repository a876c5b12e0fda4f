"""Smallest and largest values of the sections' numbers."""

import math
from collections.abc import Iterator

OWN_SECTIONS = (
    "mosaic_dataloader",
    "mosaic_validation_dataloader",
    "mosaic_tokenizer",
    "mosaic_prepare",
)

# Section dataclasses share these names with one meaning, so one table serves them all.
_AT_LEAST = {
    "num_workers": 0,
    "prefetch_factor": 1,
    "skip_samples": 0,
    "max_seq_len": 1,
    "shuffle_seed": 0,
    "shuffle_block_size": 1,
    "num_canonical_nodes": 1,
    "sampling_granularity": 1,
    "packing_lanes": 1,
    "epoch_size": 1,
    "predownload": 0,
    "cache_limit": 1,
    "proportion": 0,
    "repeat": 0,
    "choose": 0,
    "download_retry": 0,
    "vocab_size": 1,
    "seq_len": 1,
    "split_validation": 0,
    "max_document_bytes": 1,
    "shard_bytes": 1,
    "processes": 1,
}
_ABOVE_ZERO = ("download_timeout",)
# A week in seconds, as the loader has it.
_AT_MOST = {"download_timeout": 604_800}


def out_of_bounds(place: str, section: object) -> Iterator[str]:
    """Yield a sentence for each number of a section that is below its smallest value.

    Args:
        place: The section's TOML header, for the sentence.
        section: A section dataclass; values that are None or text are passed over.
    """
    for key, value in vars(section).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value):
            yield f"{place} {key} = {value}: must be a finite number"
        elif key in _AT_LEAST and value < _AT_LEAST[key]:
            yield f"{place} {key} = {value}: must be at least {_AT_LEAST[key]}"
        elif key in _ABOVE_ZERO and value <= 0:
            yield f"{place} {key} = {value}: must be above 0"
        elif key in _AT_MOST and value > _AT_MOST[key]:
            yield f"{place} {key} = {value}: must be at most {_AT_MOST[key]}"
