"""Options of TorchTitan's that this trainer takes and does nothing with."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.report import Report

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# By what they begin with: what is read in their place.
_UNUSED = {
    "training.dataset": "the data are those of [mosaic_dataloader.dataset]",
    "training.dataloader.": "the loader's options are those of [mosaic_dataloader]",
    "validation.dataset": "the data are those of [mosaic_validation_dataloader.dataset]",
    "validation.dataloader.": "the loader's options are those of [mosaic_validation_dataloader]",
    "memory_estimation.": "a script of TorchTitan's own estimates; here the checks do",
}


def check_unused(config: "MosaicJobConfig", report: Report) -> None:
    """Warn of options without effect that are set to other values than their defaults."""
    from torchtitan.config import JobConfig

    defaults = _flat(asdict(JobConfig()))
    given = _flat(asdict(config))
    for option, default in defaults.items():
        for begin, instead in _UNUSED.items():
            if option.startswith(begin) and given[option] != default:
                report.warn(
                    f"{option} = {given[option]!r} has no effect here: {instead}; remove it"
                )


def _flat(tables: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Values by section and key."""
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        # Free keys of a tokenizer or of streams are no options of TorchTitan's.
        if isinstance(value, dict) and not name.startswith("mosaic_"):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = value
    return flat
