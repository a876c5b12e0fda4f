"""Target tokens by stream, summed over the ranks now and then."""

from collections.abc import Callable

import numpy as np
import torch

from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.state.mark import Mark

SumOverRanks = Callable[[torch.Tensor], torch.Tensor]


class TokenCount:
    """Target tokens: those of all ranks up to a position, and this rank's own since.

    How many tokens a row of another rank holds is not known here, so the sum needs the ranks to
    talk to one another, which a loader never does by itself.

    Args:
        total: int64[streams], of all ranks together, up to the position ``at``.
        at: That position.
        begin: The position at which this rank begins to count; ``at`` where None.

    Attributes:
        total: As given, and what was added since.
        at: The position up to which that goes.
    """

    def __init__(self, total: Int64Array, at: int, begin: int | None = None):
        self.total = total
        self.at = at
        self._begin = at if begin is None else begin
        # Of this rank's targets, those that are in the total.
        self._settled = np.zeros_like(total)

    def unsettled(self, mark: Mark) -> Int64Array:
        """Targets of this rank, int64[streams], that are not in the total yet."""
        return mark.targets - self._settled

    def settle(self, mark: Mark, sum_over_ranks: SumOverRanks | None) -> None:
        """Add what the ranks have counted since the last call; all of them call it together.

        Args:
            mark: How far this rank has come; the position is the same on all ranks.
            sum_over_ranks: Given this rank's int64[streams], returns the sum over all ranks; None
                where there is only one.
        """
        if sum_over_ranks is None and mark.samples_seen == self._begin:
            # Nothing was handed out since: what was loaded is saved as it was.
            return
        counted = torch.from_numpy(self.unsettled(mark))
        if sum_over_ranks is not None:
            counted = sum_over_ranks(counted)
        self.total = self.total + counted.cpu().numpy().astype(np.int64)
        self.at = mark.samples_seen
        self._settled = mark.targets
