"""torchtitan 0.3's training command on a machine without an accelerator: for tests and laptops.

`python -m mosaic_titan.cpu --module llama3 --config llama3_debugmodel …` in place of
`python -m torchtitan.train …`, also under torchrun (over gloo). Replaced are the device, which
torchtitan takes to be "cuda"; sums over gloo, which cannot scale as it sums; and flex attention, by
a dense one with the same masks. CUDA graphs are off, and parameters are
float32.
"""

import os
import sys
import types
from collections.abc import Sequence
from typing import Any

import torch


class _CpuDevice(types.ModuleType):
    """A device module for the CPU; what it lacks is `torch.cpu`'s."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cpu, name)

    def current_device(self) -> int:
        return 0

    def set_device(self, device: object) -> None:
        """There is one."""

    def get_device_name(self, device: object = None) -> str:
        return "CPU"

    def get_device_properties(self, device: object = None) -> Any:
        pages = os.sysconf("SC_PHYS_PAGES")
        return types.SimpleNamespace(total_memory=os.sysconf("SC_PAGE_SIZE") * pages)

    def memory_stats(self, device: object = None) -> dict[str, int]:
        """Nothing is measured."""
        return {}

    def reset_peak_memory_stats(self, device: object = None) -> None:
        """Nothing is measured."""

    def empty_cache(self) -> None:
        """Nothing is cached."""


def enable_cpu() -> None:
    """Have torchtitan run on CPU in this process. Call it before a Trainer is made."""
    _bind_device()
    _sum_plainly()
    _attend_densely()


def _bind_device() -> None:
    """Replace device type and module wherever they were copied to by now."""
    import torchtitan.train  # noqa: F401
    from torchtitan.tools import utils

    device = _CpuDevice("mosaic_titan_cpu")
    for name, module in list(sys.modules.items()):
        if name.startswith("torchtitan."):
            if getattr(module, "device_type", None) == "cuda":
                module.device_type = "cpu"  # type: ignore[attr-defined]
            if getattr(module, "device_module", None) is torch.cuda:
                module.device_module = device  # type: ignore[attr-defined]
    # Otherwise it reports a utilization by a GPU's peak.
    utils.get_peak_flops = lambda device_name: float("nan")


def _sum_plainly() -> None:
    """Have FSDP reduce gradients by plain sums: gloo has no PREMUL_SUM."""
    from torch.distributed.fsdp import FSDPModule
    from torchtitan.distributed import fsdp

    original = fsdp.disable_fsdp_gradient_division

    def plainly(model: torch.nn.Module) -> None:
        original(model)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_force_sum_reduction_for_comms(True)

    for name, module in list(sys.modules.items()):
        if name.startswith("torchtitan.") and hasattr(module, original.__name__):
            setattr(module, original.__name__, plainly)


def _attend_densely() -> None:
    """Compute flex attention as plain attention with a dense form of the same mask."""
    from torch.nn.attention import flex_attention
    from torchtitan.models.common import attention, decoder

    def make_mask(
        mask_mod: Any, b: Any, h: Any, q_len: int, kv_len: int, *, device: Any, **_: Any
    ) -> Any:
        mask: Any = flex_attention.create_block_mask(mask_mod, b, h, q_len, kv_len, device)
        mask.dense = flex_attention.create_mask(mask_mod, b, h, q_len, kv_len, device)
        return mask

    def attend(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        *,
        block_mask: Any,
        score_mod: Any,
        scale: float | None,
        enable_gqa: bool,
        return_aux: Any,
        kernel_options: Any,
    ) -> tuple[torch.Tensor, Any]:
        if score_mod is not None or return_aux.lse:
            raise NotImplementedError("mosaic_titan.cpu has no attention with sinks or a score_mod")
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, attn_mask=block_mask.dense, scale=scale, enable_gqa=enable_gqa
        )
        return out, None

    attention.FlexAttention.compiled_flex_attn = staticmethod(attend)  # type: ignore[method-assign]
    for module in (attention, decoder):
        setattr(module, "create_attention_mask", make_mask)  # noqa: B010


def main(arguments: Sequence[str] | None = None) -> None:
    """Run torchtitan's own command on the CPU."""
    enable_cpu()
    from torchtitan import train

    if arguments is not None:
        sys.argv[1:] = arguments
    # Alone, without torchrun.
    for name, value in (
        ("RANK", "0"),
        ("LOCAL_RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("MASTER_ADDR", "localhost"),
        ("MASTER_PORT", "0"),
    ):
        os.environ.setdefault(name, value)
    # bfloat16 is slow without units for it. Before the others, which may say otherwise.
    sys.argv[1:1] = [
        *("--training.disable-cuda-graphs", "--training.mixed-precision-param", "float32")
    ]
    train.main()


if __name__ == "__main__":
    main()
