"""The sections that `MosaicJobConfig` adds to TorchTitan's `JobConfig`."""

from mosaic_config.sections.dataloader import MosaicDataloader
from mosaic_config.sections.dataset import MosaicDataset
from mosaic_config.sections.prepare import MosaicPrepare
from mosaic_config.sections.stream import MosaicStream
from mosaic_config.sections.tokenizer import MosaicTokenizer

__all__ = [
    "MosaicDataloader",
    "MosaicDataset",
    "MosaicPrepare",
    "MosaicStream",
    "MosaicTokenizer",
]
