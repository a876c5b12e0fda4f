"""Training without an accelerator: what torchtitan 0.2.2 lacks for it.

Each function says what upstream does and when it can go once that has changed.
"""

import math
import platform
import re
import resource
import sys
import types
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mosaic_trainspec.device import machine_bytes

ANSWERS = (
    'tools/utils.py:37: device_type = _get_available_device_type() or "cuda"',
    'tools/utils.py:80: result = subprocess.run(["lspci"], stdout=subprocess.PIPE, text=True)',
    "distributed/utils.py:260: return torch.autocast(",
    "models/attention.py:191: return F.scaled_dot_product_attention(",
    "models/moe/moe.py:348: num_tokens_per_expert = torch.histc(",
    "models/moe/moe.py:399: num_tokens_per_expert = torch.histc(",
    "models/moe/moe.py:37: "
    "use_grouped_mm: bool = True  # grouped mm or for-loop for the experts computation",
)


def enable_cpu() -> None:
    """Have TorchTitan run on CPU in this process. Call it before a Trainer is made."""
    _bind_device()
    _leave_peak_flops_unknown()
    _accept_float32_autocast()
    count_integers_on_cpu()
    _attend_to_own_heads()


def _bind_device() -> None:
    """Replace TorchTitan's device type and module, "cuda" otherwise, wherever they are bound.

    `torchtitan.tools.utils` decides at import, and several modules copy both names; some of those
    come in with the first import of anything of torchtitan, so that there is no moment in between.
    This can go once upstream falls back on "cpu".
    """
    import torchtitan.components.metrics
    import torchtitan.distributed.utils
    import torchtitan.tools.profiling  # noqa: F401

    device = CpuDevice("mosaic_trainspec_cpu")
    for name, module in list(sys.modules.items()):
        if not name.startswith("torchtitan."):
            continue
        # Only names that came from the tools module: a model may have its own of that name.
        if getattr(module, "device_type", None) == "cuda":
            module.device_type = "cpu"  # type: ignore[attr-defined]
        if getattr(getattr(module, "device_module", None), "__name__", "") == "torch.cuda":
            module.device_module = device  # type: ignore[attr-defined]


class CpuDevice(types.ModuleType):
    """`torch.cpu`, with the device's name and memory figures, which TorchTitan asks for too."""

    def __getattr__(self, name: str) -> Any:
        """Everything else: streams, synchronization and the like."""
        import torch

        return getattr(torch.cpu, name)

    def current_device(self) -> int:
        """Index of the device, as an accelerator's module gives it."""
        return 0

    def get_device_name(self, device: object = None) -> str:
        """The processor's name as the kernel gives it, else its architecture."""
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        return match[1].strip() if match else platform.machine()

    def get_device_properties(self, device: object = None) -> Any:
        """`total_memory` in bytes: what this process may use."""
        return types.SimpleNamespace(total_memory=machine_bytes())

    def reset_peak_memory_stats(self, device: object = None) -> None:
        """Let the peak start again at what is resident now, where the kernel can."""
        try:
            Path("/proc/self/clear_refs").write_text("5")  # man 5 proc: resets VmHWM
        except OSError:
            return  # a sandbox that forbids it: the figure is that of the whole run

    def empty_cache(self) -> None:
        """Nothing is cached."""

    def memory_stats(self, device: object = None) -> dict[str, int]:
        """The process's resident set since the last reset, under an accelerator's keys."""
        peak = _peak_bytes()
        return {
            "active_bytes.all.peak": peak,
            "reserved_bytes.all.peak": peak,
            "num_alloc_retries": 0,
            "num_ooms": 0,
        }


def _peak_bytes() -> int:
    """Largest resident set since the last reset, or since the start where a sandbox hides that."""
    match = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    kilobytes = int(match[1]) if match else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * 1024


def _leave_peak_flops_unknown() -> None:
    """Report a model FLOPS utilization of nan instead of one measured by an A100's peak.

    It also spares the `lspci` call, which fails with a warning where there is none. This can go
    once upstream reports no utilization for a device that it does not know.
    """
    from torchtitan.tools import utils

    utils.get_peak_flops = lambda device_name: math.nan


def _accept_float32_autocast() -> None:
    """Silence torch's warning that autocast to float32 does nothing.

    TorchTitan enters autocast also where `training.mixed_precision_param` is float32, which is
    the faster choice on CPUs without bfloat16 units; autocast then does nothing, as wanted. This
    can go once upstream leaves autocast out there.
    """
    warnings.filterwarnings("ignore", message="In CPU autocast, but the target dtype is not")


def count_integers_on_cpu() -> None:
    """Give `torch.histc` a CPU form for integers, with which a router counts tokens per expert.

    Torch has it for accelerators only. This can go once upstream counts with `torch.bincount`.
    """
    import torch

    original: Any = torch.histc

    def histc(input: Any, *args: Any, **kwargs: Any) -> Any:
        if input.is_floating_point() or input.device.type != "cpu":
            return original(input, *args, **kwargs)
        # Double precision has all integers up to 2**53.
        return original(input.double(), *args, **kwargs).to(input.dtype)

    torch.histc = histc


def _attend_to_own_heads() -> None:
    """Have attention over DTensors computed on each rank's own heads.

    PyTorch's fused attention for CPU has no sharding strategy. It needs none where tensor
    parallelism has shared the heads out: each is computed for itself. Models that keep DTensors up
    to there (qwen3) need this; the others pass plain tensors. This can go once PyTorch has that
    strategy.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torchtitan.models.attention import ScaledDotProductAttentionWrapper as Attention

    original: Any = Attention.forward
    # Of [batch, heads, length, head size]. Cut along the others, a rank cannot compute alone.
    alone = (Replicate(), Shard(0), Shard(1))

    def forward(self: Any, q: Any, k: Any, v: Any, **options: Any) -> Any:
        if not isinstance(q, DTensor) or any(placement not in alone for placement in q.placements):
            return original(self, q, k, v, **options)
        mesh, placements = q.device_mesh, q.placements
        own = (tensor.redistribute(mesh, placements).to_local() for tensor in (q, k, v))
        return DTensor.from_local(original(self, *own, **options), mesh, placements)

    Attention.forward = forward  # type: ignore[method-assign]


def run_experts_one_by_one(model_args: Mapping[str, Any]) -> None:
    """Have every flavor of a TrainSpec multiply expert by expert. Changes the flavors in place.

    Multiplying all at once (grouped_mm) sorts the tokens with a Triton kernel. Most models of
    TorchTitan 0.2.2 leave it by themselves where there is no recent GPU, but not all. This can go
    once qwen3 leaves it, too.
    """
    for args in model_args.values():
        experts = getattr(args, "moe_args", None)
        if experts is not None:
            experts.use_grouped_mm = False
