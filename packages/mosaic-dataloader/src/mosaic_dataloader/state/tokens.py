"""Target tokens by stream, summed over the ranks now and then."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.state.mark import Mark

SumOverRanks = Callable[[torch.Tensor], torch.Tensor]


class _Counted(NamedTuple):
    """What was counted at one moment.

    Attributes:
        total: int64[streams], target tokens of all ranks.
        at: The position up to which they are counted.
        own: int64[streams], this rank's targets that are in the total.
    """

    total: Int64Array
    at: int
    own: Int64Array


class TokenCount:
    """Target tokens: those of all ranks up to a position, and this rank's own since.

    How many tokens a row of another rank holds is not known here, so the sum needs the ranks to
    talk to one another, which a loader never does by itself.

    Args:
        total: int64[streams], of all ranks together, up to the position ``at``.
        at: That position.
        begin: The position at which this rank begins to count; ``at`` where None.
    """

    def __init__(self, total: Int64Array, at: int, begin: int | None = None):
        self._begin = at if begin is None else begin
        # Replaced as a whole: another thread may be saving it.
        self._counted = _Counted(total, at, np.zeros_like(total))

    @property
    def total(self) -> Int64Array:
        """Target tokens of all ranks by stream, as given, and what was added since."""
        return self._counted.total

    @property
    def at(self) -> int:
        """The position up to which they are counted."""
        return self._counted.at

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
        before = self._counted
        counted = torch.from_numpy(mark.targets - before.own)
        if sum_over_ranks is not None:
            counted = sum_over_ranks(counted)
        total = before.total + counted.cpu().numpy().astype(np.int64)
        self._counted = _Counted(total, mark.samples_seen, mark.targets)
