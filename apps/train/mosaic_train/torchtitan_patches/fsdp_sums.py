"""FSDP of a user's own model: make it sum gradients, as TorchTitan's models do.

The Trainer divides the loss by the targets of all ranks, so that gradients are to be summed, while
FSDP averages by default. TorchTitan makes it sum in the function that parallelizes each of its
models; a function that was written for an older version does not. This can go once the Trainer
itself makes all FSDP modules sum.
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
