"""Page-locked batches, for asynchronous copies to a GPU."""

from collections.abc import Callable

import torch

from mosaic_dataloader.errors import MosaicDataError


def pinner(
    pin_memory: bool,
) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[], None] | None]:
    """How to pin a tensor, and what a thread that pins has to do first.

    Raises:
        MosaicDataError: Pinning was asked for and there is no accelerator to copy to.
    """
    if not pin_memory:
        return (lambda tensor: tensor), None
    if not torch.cuda.is_available():
        raise MosaicDataError("pin_memory = true needs a CUDA device; set it to false")
    device = torch.cuda.current_device()
    # A new thread starts on device 0 and would make a context there.
    return torch.Tensor.pin_memory, lambda: torch.cuda.set_device(device)
