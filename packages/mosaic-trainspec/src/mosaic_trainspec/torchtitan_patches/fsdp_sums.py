"""FSDP: make every model sum gradients, by sums that every backend has.

The Trainer divides the loss by the targets of all ranks, so that gradients are to be summed, while
FSDP averages by default. TorchTitan makes it sum in the function that parallelizes each of its
models; a function that was written for an older version does not. This can go once the Trainer
itself makes all FSDP modules sum.

FSDP folds a gradient's factor into the reduction (PREMUL_SUM), which gloo does not have: without an
accelerator gradients are reduced by plain sums. This can go once gloo has it, or once FSDP leaves
it out for a factor of 1.
"""

from typing import Any

from mosaic_trainspec.device import no_accelerator

ANSWERS = ("models/llama3/infra/parallelize.py:284: module.set_gradient_divide_factor(1.0)",)


def sum_gradients(model: Any) -> None:
    """Have all FSDP modules of a model that was parallelized sum gradients."""
    from torch.distributed.fsdp import FSDPModule

    plain_sums = no_accelerator()
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            if plain_sums:
                module.set_force_sum_reduction_for_comms(True)
