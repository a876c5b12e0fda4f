"""Does the processor calculate in the configured precision at speed?"""

from typing import TYPE_CHECKING

from mosaic_train.checks.report import Report
from mosaic_train.torchtitan_patches.cpu import no_accelerator

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_speed(config: "MosaicJobConfig", report: Report) -> None:
    """Warn of bfloat16 on a CPU, most of which convert every number of it back and forth.

    Args:
        config: The configuration.
        report: Where the warning goes.
    """
    if not no_accelerator():
        return
    training = config.training
    keys = ("dtype", "mixed_precision_param")
    slow = [f"training.{key}" for key in keys if getattr(training, key) == "bfloat16"]
    if not slow or _has_bfloat16_units():
        return
    report.warn(
        f"{' and '.join(slow)} {'is' if len(slow) == 1 else 'are'} bfloat16, for which this CPU "
        "has no units: a step can take several times as long as in float32; set "
        f'{" and ".join(slow)} = "float32"'
    )


def _has_bfloat16_units() -> bool:
    import torch

    # Torch's own names for the two; there are no public ones.
    asked = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(ask() for ask in asked if ask is not None)
