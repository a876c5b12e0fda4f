"""Batches in which there is nothing to predict.

Where no rank has a target the Trainer divides 0 by 0: the loss is NaN, and where the loss is
computed in parallel gradients may be. The loss is 0 then, and so is the gradient.

Where only some ranks have none, each of them has the mean loss 0 / 0, of which the largest over all
ranks (`loss_metrics/global_max_loss`) comes out as NaN or not, as the reduction pleases. Such a
rank takes no part in it. A loss that really is NaN shows in `loss_metrics/global_avg_loss`.

This can go once upstream keeps its divisors from being 0.
"""

import functools
from typing import Any

from mosaic_train.torchtitan_patches.upstream import Answers

ANSWERS = (
    Answers(
        "train.py",
        523,
        "(torch.sum(torch.stack(losses)) / global_valid_tokens).to(self.device)",
    ),
    Answers("train.py", 538, "loss = loss_sum / global_valid_tokens"),
    Answers("train.py", 623, "local_avg_loss = loss * global_valid_tokens / local_valid_tokens"),
    Answers("train.py", 626, "dist_utils.dist_max(local_avg_loss, loss_mesh),"),
)


def allow_no_targets() -> None:
    """Have the Trainer take batches without targets. Call it after `scale_gradients`."""
    import torch
    from torchtitan.train import Trainer

    original: Any = Trainer.forward_backward_step
    if hasattr(original, "mosaic_targets"):
        return

    @functools.wraps(original)  # the mark of the other patch of this method included
    def forward_backward_step(self: Any, *, global_valid_tokens: Any, **batch: Any) -> Any:
        # A number, or a tensor of one where no rank has other rows.
        tokens = (
            global_valid_tokens.clamp(min=1)  # on its device: nothing waits for that
            if isinstance(global_valid_tokens, torch.Tensor)
            else max(float(global_valid_tokens), 1.0)
        )
        return original(self, global_valid_tokens=tokens, **batch)

    forward_backward_step.mosaic_targets = True  # type: ignore[attr-defined]
    Trainer.forward_backward_step = forward_backward_step  # type: ignore[method-assign]
    _leave_out_of_maxima()


def _leave_out_of_maxima() -> None:
    import math

    import torch
    from torchtitan.distributed import utils

    original = utils.dist_max

    def dist_max(x: torch.Tensor, *where: Any, **more: Any) -> float:
        largest = original(torch.where(x.isnan(), -math.inf, x), *where, **more)
        return 0.0 if largest == -math.inf else largest

    utils.dist_max = dist_max
