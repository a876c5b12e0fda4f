"""Mixed precision on CPU."""

import warnings

from mosaic_train.torchtitan_patches.upstream import Answers

ANSWERS = (Answers("distributed/utils.py", 260, "return torch.autocast("),)


def accept_float32_autocast() -> None:
    """Silence torch's warning that autocast to float32 does nothing.

    TorchTitan enters autocast also where `training.mixed_precision_param` is float32, which is
    the faster choice on CPUs without bfloat16 units; autocast then does nothing, as wanted. This
    can go once upstream leaves autocast out there.
    """
    warnings.filterwarnings("ignore", message="In CPU autocast, but the target dtype is not")
