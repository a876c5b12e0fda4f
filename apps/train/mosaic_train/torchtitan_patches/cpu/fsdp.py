"""FSDP over gloo."""

from typing import Any

from mosaic_train.torchtitan_patches.upstream import Answers

ANSWERS = (
    Answers("models/llama3/infra/parallelize.py", 284, "module.set_gradient_divide_factor(1.0)"),
)


def reduce_by_plain_sums(model: Any) -> None:
    """Have the FSDP modules of a model reduce gradients by plain sums.

    FSDP folds a gradient's factor into the reduction (PREMUL_SUM), which gloo does not have. This
    can go once gloo has it, or once FSDP leaves it out for a factor of 1.

    Args:
        model: Any model that was parallelized.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_force_sum_reduction_for_comms(True)
