"""Without an accelerator TorchTitan takes "cuda" for granted; have it take the CPU.

This can go once upstream falls back on "cpu".
"""

import sys
import types
from typing import Any

import torch

from mosaic_train.torchtitan_patches.cpu import memory
from mosaic_train.torchtitan_patches.upstream import Answers

ANSWERS = (Answers("tools/utils.py", 37, 'device_type = _get_available_device_type() or "cuda"'),)


def bind_device() -> None:
    """Replace TorchTitan's device type and module wherever they are bound already.

    `torchtitan.tools.utils` decides at import, and several modules copy both names; some of those
    come in with the first import of anything of torchtitan, so that there is no moment in between.
    """
    import torchtitan.components.metrics
    import torchtitan.distributed.utils
    import torchtitan.tools.profiling  # noqa: F401

    device = CpuDevice("mosaic_train_cpu")
    for name, module in list(sys.modules.items()):
        if not name.startswith("torchtitan."):
            continue
        # Only names that came from the tools module: a model may have its own of that name.
        if getattr(module, "device_type", None) == "cuda":
            module.device_type = "cpu"  # type: ignore[attr-defined]
        if getattr(getattr(module, "device_module", None), "__name__", "") == "torch.cuda":
            module.device_module = device  # type: ignore[attr-defined]


class CpuDevice(types.ModuleType):
    """`torch.cpu` with what TorchTitan asks of a device module besides: name and memory figures."""

    def __getattr__(self, name: str) -> Any:
        """Everything else: streams, synchronization and the like."""
        return getattr(torch.cpu, name)

    def set_device(self, device: object) -> None:
        """There is one CPU device; nothing to choose."""

    def current_device(self) -> int:
        """Index of the device, as an accelerator's module gives it."""
        return 0

    def get_device_name(self, device: object = None) -> str:
        """The processor's name."""
        return memory.processor_name()

    def get_device_properties(self, device: object = None) -> Any:
        """`total_memory` in bytes: what this process may use."""
        return types.SimpleNamespace(total_memory=memory.machine_bytes())

    def reset_peak_memory_stats(self, device: object = None) -> None:
        """Start a new peak."""
        memory.reset_peak()

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def memory_stats(self, device: object = None) -> dict[str, int]:
        """The process's resident set since the last reset, under an accelerator's keys."""
        peak = memory.peak_bytes()
        return {
            "active_bytes.all.peak": peak,
            "reserved_bytes.all.peak": peak,
            "num_alloc_retries": 0,
            "num_ooms": 0,
        }
