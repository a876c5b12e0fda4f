"""Starting a new run later in the order."""

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.options import SettledOrder


def check_skip(skip_samples: int, order: SettledOrder) -> None:
    """See that a run may begin there.

    Raises:
        MosaicDataError: It would begin in the middle of a batch in which its order is built.
    """
    if order.unit and skip_samples % order.unit:
        below = skip_samples // order.unit * order.unit
        raise MosaicDataError(
            f"skip_samples = {skip_samples} ends inside a global batch of {order.unit}, and "
            f"batching_method = {order.batching_method!r} orders data by it; use {below} or "
            f"{below + order.unit}"
        )
