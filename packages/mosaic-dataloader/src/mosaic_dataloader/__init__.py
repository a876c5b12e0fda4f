"""A stateful, parallel-aware dataloader for MosaicML Streaming (MDS) data sets.

The public names are loaded when first used, so that importing the package costs little.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mosaic_dataloader.errors import MosaicDataError

if TYPE_CHECKING:
    from mosaic_dataloader.builders import (
        build_mosaic_dataloader,
        build_mosaic_tokenizer,
        build_mosaic_validation_dataloader,
    )
    from mosaic_dataloader.dataset import StreamingTextDataset
    from mosaic_dataloader.loader import MosaicParallelAwareDataloader

__version__ = "0.1.0"

__all__ = [
    "MosaicDataError",
    "MosaicParallelAwareDataloader",
    "StreamingTextDataset",
    "build_mosaic_dataloader",
    "build_mosaic_tokenizer",
    "build_mosaic_validation_dataloader",
]

_HOME = {
    "MosaicParallelAwareDataloader": "loader",
    "StreamingTextDataset": "dataset",
    "build_mosaic_dataloader": "builders",
    "build_mosaic_tokenizer": "builders",
    "build_mosaic_validation_dataloader": "builders",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
