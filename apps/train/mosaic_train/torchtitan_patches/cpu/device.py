"""`torch.cpu` with what TorchTitan asks of a device module besides: a name, and memory figures."""

import types
from typing import Any

import torch

from mosaic_train.torchtitan_patches.cpu import memory


class CpuDevice(types.ModuleType):
    """A device module for the CPU. What it lacks is `torch.cpu`'s."""

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
