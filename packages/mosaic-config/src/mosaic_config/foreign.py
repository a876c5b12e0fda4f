"""Keys of mosaicml-streaming and llm-foundry that this loader leaves out on purpose."""

from typing import Any

from mosaic_config.schema import Path

_VALIDATION = "mosaic_validation_dataloader"
_SECTIONS = ("mosaic_dataloader", _VALIDATION)

_REASONS = {
    "replication": (
        "is not needed: ranks of one model replica get the same samples from the parallel mesh; "
        "remove it"
    ),
    "batch_size": "is not set here: use {batch_size}; remove it",
    "stream_name": "is not supported: streams are always streaming.Stream; remove it",
    "stream_config": (
        "is not supported: write a stream's options in [{section}.dataset.streams.<name>]"
    ),
    "timeout": (
        "is not supported: workers have no timeout; for downloads set download_timeout (seconds) "
        "in [{section}.dataset]"
    ),
}


def reason_for_key(path: Path, key: str) -> str | None:
    """Return why a known key of mosaicml-streaming has no place at a path, or None."""
    if not path or path[0] not in _SECTIONS or key not in _REASONS:
        return None
    trainer = "validation" if path[0] == _VALIDATION else "training"
    return _REASONS[key].format(section=path[0], batch_size=f"{trainer}.local_batch_size")


def reason_for_value(path: Path, value: Any) -> str | None:
    """Return why a known value of mosaicml-streaming is not taken by a key, or None."""
    if path and path[0] in _SECTIONS and path[-1] == "partition_algo" and value == "orig":
        return 'the order is always elastic, so "orig" has no meaning; use "relaxed" or remove it'
    return None
