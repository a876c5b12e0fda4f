"""Mixed precision on CPU."""

import warnings


def accept_float32_autocast() -> None:
    """Silence torch's warning that autocast to float32 is no autocast.

    TorchTitan enters autocast also where `training.mixed_precision_param` is float32, which is
    the faster choice on CPUs without bfloat16 units; autocast then does nothing, as wanted.
    """
    warnings.filterwarnings("ignore", message="In CPU autocast, but the target dtype is not")
