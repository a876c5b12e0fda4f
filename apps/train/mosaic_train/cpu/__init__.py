"""Training without an accelerator: what torchtitan 0.2.2 lacks for it, one idea per module."""

from typing import Any

from mosaic_train.cpu.attention import attend_to_own_heads
from mosaic_train.cpu.binding import bind_device
from mosaic_train.cpu.experts import count_integers_on_cpu, run_experts_one_by_one
from mosaic_train.cpu.flops import leave_peak_flops_unknown
from mosaic_train.cpu.fsdp import parallelize_on_cpu
from mosaic_train.cpu.precision import accept_float32_autocast

__all__ = ["adapt_spec", "enable_cpu", "no_accelerator"]


def no_accelerator() -> bool:
    """Whether this machine has no device that TorchTitan would use."""
    from torch._utils import _get_available_device_type

    return _get_available_device_type() is None


def enable_cpu() -> None:
    """Have TorchTitan run on CPU in this process. Call it before a Trainer is made."""
    bind_device()
    leave_peak_flops_unknown()
    accept_float32_autocast()
    count_integers_on_cpu()
    attend_to_own_heads()


def adapt_spec(spec: Any) -> None:
    """Have a model run on CPU.

    Args:
        spec: Our own TrainSpec. It is changed in place.
    """
    parallelize_on_cpu(spec)
    run_experts_one_by_one(spec.model_args)
