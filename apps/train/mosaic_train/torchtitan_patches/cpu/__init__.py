"""Training without an accelerator: what torchtitan 0.2.2 lacks for it, one idea per module."""

from mosaic_train.torchtitan_patches.cpu import (
    attention,
    binding,
    experts,
    flops,
    fsdp,
    precision,
)
from mosaic_train.torchtitan_patches.cpu.experts import run_experts_one_by_one
from mosaic_train.torchtitan_patches.cpu.fsdp import reduce_by_plain_sums

__all__ = [
    "PATCHES",
    "enable_cpu",
    "no_accelerator",
    "reduce_by_plain_sums",
    "run_experts_one_by_one",
]

PATCHES = (attention, binding, experts, flops, fsdp, precision)


def no_accelerator() -> bool:
    """Whether this machine has no device that TorchTitan would use."""
    from torch._utils import _get_available_device_type

    return _get_available_device_type() is None


def enable_cpu() -> None:
    """Have TorchTitan run on CPU in this process. Call it before a Trainer is made."""
    binding.bind_device()
    flops.leave_peak_flops_unknown()
    precision.accept_float32_autocast()
    experts.count_integers_on_cpu()
    attention.attend_to_own_heads()
