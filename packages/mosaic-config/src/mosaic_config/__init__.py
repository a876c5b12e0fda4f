"""TorchTitan's `JobConfig` extended for MosaicML Streaming data, and its strict manager.

The names are loaded when first used: most of them need TorchTitan, which takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from mosaic_config.validation import validate

_HOME = {
    "ConfigError": "errors",
    "MosaicConfigManager": "manager",
    "MosaicDataloader": "sections",
    "MosaicDataset": "sections",
    "MosaicJobConfig": "job_config",
    "MosaicPrepare": "sections",
    "MosaicStream": "sections",
    "MosaicTokenizer": "sections",
    "validate": "validation",
}

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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
