"""Without an accelerator TorchTitan takes "cuda" for granted; have it take the CPU.

This can go once upstream falls back on "cpu".
"""

import sys

from mosaic_train.torchtitan_patches.cpu.device import CpuDevice
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
