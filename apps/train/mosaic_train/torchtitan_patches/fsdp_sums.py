"""FSDP of a model of one's own: have it sum gradients, as TorchTitan's models do.

The Trainer divides the loss by the targets of all ranks, so that gradients are to be summed, while
FSDP averages unless told otherwise. TorchTitan tells it so in the function that parallelizes each
of its models; one that was written for an older version does not. This can go once the Trainer
itself tells all FSDP modules.
"""

from typing import Any

from mosaic_train.torchtitan_patches.upstream import Answers

ANSWERS = (
    Answers("models/llama3/infra/parallelize.py", 284, "module.set_gradient_divide_factor(1.0)"),
)


def sum_gradients(model: Any) -> None:
    """Have all FSDP modules of a model sum gradients.

    Args:
        model: Any model that was parallelized.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
