"""Batches in which there is nothing to predict.

Where no rank has a target the Trainer divides 0 by 0: the loss is NaN, and where the loss is
computed in parallel gradients may be. The loss is 0 then, and so is the gradient.

Where only some ranks have none, each of them has the mean loss 0 / 0, of which the largest over all
ranks (`loss_metrics/global_max_loss`) comes out as NaN or not, depending on the reduction. Such a
rank takes no part in it. A loss that really is NaN shows in `loss_metrics/global_avg_loss`.

This can go once upstream keeps its divisors from being 0.
"""

from typing import Any

ANSWERS = (
    "train.py:523: (torch.sum(torch.stack(losses)) / global_valid_tokens).to(self.device)",
    "train.py:538: loss = loss_sum / global_valid_tokens",
    "train.py:623: local_avg_loss = loss * global_valid_tokens / local_valid_tokens",
    "train.py:626: dist_utils.dist_max(local_avg_loss, loss_mesh),",
)


def at_least_one(global_valid_tokens: Any) -> Any:
    """The number of targets that a loss is divided by.

    It comes from all ranks and micro-batches of a step: as a number, or as a tensor of one if no
    rank has other rows.
    """
    import torch

    if isinstance(global_valid_tokens, torch.Tensor):
        return global_valid_tokens.clamp(min=1)  # on its device: nothing waits for that
    return max(float(global_valid_tokens), 1.0)


def leave_out_of_maxima() -> None:
    """Leave ranks without targets out of the largest mean loss."""
    import math

    import torch
    from torchtitan.distributed import utils

    original: Any = utils.dist_max

    def dist_max(x: torch.Tensor, *where: Any, **more: Any) -> float:
        largest: float = original(torch.where(x.isnan(), -math.inf, x), *where, **more)
        return 0.0 if largest == -math.inf else largest

    utils.dist_max = dist_max
