"""The sections that `MosaicJobConfig` adds to TorchTitan's `JobConfig`."""

from mosaic_config.sections.data import (
    MosaicDataloader,
    MosaicDataset,
    MosaicStream,
    MosaicTokenizer,
)
from mosaic_config.sections.prepare import MosaicPrepare

__all__ = [
    "MosaicDataloader",
    "MosaicDataset",
    "MosaicPrepare",
    "MosaicStream",
    "MosaicTokenizer",
]
