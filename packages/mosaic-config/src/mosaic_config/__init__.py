"""TorchTitan's `JobConfig` extended for MosaicML Streaming data, and its strict manager."""

from mosaic_config.errors import ConfigError
from mosaic_config.job_config import MosaicJobConfig
from mosaic_config.manager import MosaicConfigManager
from mosaic_config.sections import (
    MosaicDataloader,
    MosaicDataset,
    MosaicPrepare,
    MosaicStream,
    MosaicTokenizer,
)
from mosaic_config.validate import validate

__all__ = [
    "ConfigError",
    "MosaicConfigManager",
    "MosaicDataloader",
    "MosaicDataset",
    "MosaicJobConfig",
    "MosaicPrepare",
    "MosaicStream",
    "MosaicTokenizer",
    "validate",
]
