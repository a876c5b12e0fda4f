"""TorchTitan divides by an A100's peak where it knows no device; a CPU's is better left open.

This can go once upstream reports no utilization for a device that it does not know.
"""

from mosaic_train.torchtitan_patches.upstream import Answers

ANSWERS = (
    Answers(
        "tools/utils.py",
        80,
        'result = subprocess.run(["lspci"], stdout=subprocess.PIPE, text=True)',
    ),
)


def leave_peak_flops_unknown() -> None:
    """Report a model FLOPS utilization of nan instead of one measured by a GPU's peak.

    It also spares the `lspci` call, which fails with a warning where there is none.
    """
    from torchtitan.tools import utils

    utils.get_peak_flops = _unknown


def _unknown(device_name: str) -> float:
    return float("nan")
