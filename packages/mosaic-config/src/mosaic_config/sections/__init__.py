"""The sections that `MosaicJobConfig` adds to TorchTitan's `JobConfig`."""

from mosaic_config.sections.data import (
    MosaicDataloader,
    MosaicDataset,
    MosaicPrepare,
    MosaicStream,
    MosaicTokenizer,
)

__all__ = [
    "MosaicDataloader",
    "MosaicDataset",
    "MosaicPrepare",
    "MosaicStream",
    "MosaicTokenizer",
]
