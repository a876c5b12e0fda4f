"""Turn any TorchTitan text TrainSpec into one that trains and validates on Mosaic streams."""

from mosaic_trainspec.errors import TrainSpecError
from mosaic_trainspec.registry import register_mosaic_train_spec
from mosaic_trainspec.transform import get_mosaic_train_spec
from mosaic_trainspec.validator import MosaicValidator
from mosaic_trainspec.validator_builder import build_mosaic_validator

__all__ = [
    "MosaicValidator",
    "TrainSpecError",
    "build_mosaic_validator",
    "get_mosaic_train_spec",
    "register_mosaic_train_spec",
]
