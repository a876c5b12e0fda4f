"""Turn any TorchTitan text TrainSpec into one that trains and validates on Mosaic streams.

The names are loaded when first used: most of them need TorchTitan, which takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mosaic_trainspec.errors import TrainSpecError

if TYPE_CHECKING:
    from mosaic_trainspec.checks import Report, check_job
    from mosaic_trainspec.metrics import log_data_metrics
    from mosaic_trainspec.registry import register_mosaic_train_spec
    from mosaic_trainspec.torchtitan_patches import check_torchtitan, patch_spec, patch_torchtitan
    from mosaic_trainspec.transform import get_mosaic_train_spec
    from mosaic_trainspec.validator import MosaicValidator
    from mosaic_trainspec.validator_builder import build_mosaic_validator

_HOME = {
    "MosaicValidator": "validator",
    "Report": "checks",
    "build_mosaic_validator": "validator_builder",
    "check_job": "checks",
    "check_torchtitan": "torchtitan_patches",
    "get_mosaic_train_spec": "transform",
    "log_data_metrics": "metrics",
    "patch_spec": "torchtitan_patches",
    "patch_torchtitan": "torchtitan_patches",
    "register_mosaic_train_spec": "registry",
}

__all__ = [
    "MosaicValidator",
    "Report",
    "TrainSpecError",
    "build_mosaic_validator",
    "check_job",
    "check_torchtitan",
    "get_mosaic_train_spec",
    "log_data_metrics",
    "patch_spec",
    "patch_torchtitan",
    "register_mosaic_train_spec",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
