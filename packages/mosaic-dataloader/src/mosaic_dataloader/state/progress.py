"""What a run is made of: its order, how far it has come, and what it counts on its way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch

from mosaic_dataloader.order.mixture import Int64Array, TokenMean
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.sequence import EpochStart
from mosaic_dataloader.order.skip import Skip
from mosaic_dataloader.packing.lane import LanePosition
from mosaic_dataloader.state.stages import RunStages

SumOverRanks = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class RunOrder:
    """What a run keeps from its first start on: the order that its positions count in.

    Attributes:
        options: The order's options, resolved.
        start: Where the order begins.
        skipped: Samples of the order that the run left out at its start.
        lanes: Packing lanes; None where documents are not packed, or where the data set's options
            and the layout are to decide.
        stages: The mixture of a run with stages; None where the order is one of epochs.
        means: Tokens of a sample of each stream in the data, where proportions count tokens or
            there are stages; else none.
        skip: Positions that the run leaves out, and those that it has left out so far.
    """

    options: ResolvedOrder
    start: EpochStart = field(default_factory=EpochStart)
    skipped: int = 0
    lanes: int | None = None
    stages: RunStages | None = None
    means: tuple[TokenMean, ...] = ()
    skip: Skip = field(default_factory=Skip)


@dataclass(frozen=True)
class EpochPass:
    """A finite iteration, to the end of the epoch that it begins in.

    Attributes:
        drop_last: Leave out a last batch that is not full; otherwise it is padded.
        repeated: The same pass is all that is ever read: no other epoch follows it. It has at least
            one batch, if only of padding.
    """

    drop_last: bool
    repeated: bool = False


class Progress(NamedTuple):
    """What is true once a certain batch, and all before it, were handed out.

    It is made where its batch is, in the background, comes through the queue with it, and is never
    changed: handing out a batch is nothing but replacing the progress before it.

    Attributes:
        samples_seen: Position of the run: samples of the order that all ranks together were handed,
            skipped at the start or left out; with packing, rows that they were handed or left out.
        seen: int64[streams], samples of each stream that all ranks were handed. With packing 0:
            each lane counts its documents.
        targets: int64[streams], target tokens that this rank was handed since its run was opened.
        lanes: With packing, where each of the rank's lanes that gave a row continues.
    """

    samples_seen: int
    seen: Int64Array
    targets: Int64Array
    lanes: Mapping[int, LanePosition]


@dataclass(frozen=True)
class Counters:
    """What a run has counted, over all ranks.

    Attributes:
        rows: Rows that were handed out.
        samples: Samples of each stream that were handed out to their ends; with packing each is a
            document. None where this rank knows its own only (see
            `MosaicParallelAwareDataloader.counters`).
        target_tokens: Labels of each stream that are not ignored, up to the last
            ``sync_token_counts``.
        epochs: 1.25 is a quarter of the way through the second one. With packing, of the documents
            that this rank's lanes have read.
    """

    rows: int
    samples: dict[str, int] | None
    target_tokens: dict[str, int]
    epochs: float


class TokenCount(NamedTuple):
    """Target tokens: those of all ranks up to a position, and this rank's own in them.

    How many tokens a row of another rank holds is not known here, so the sum needs the ranks to
    talk to one another, which a loader never does by itself.

    Attributes:
        total: int64[streams], target tokens of all ranks.
        at: The position up to which they are counted.
        own: int64[streams], this rank's targets that are in the total.
        begin: The position at which this rank began to count.
    """

    total: Int64Array
    at: int
    own: Int64Array
    begin: int

    def synced(self, progress: Progress, sum_over_ranks: SumOverRanks | None) -> "TokenCount":
        """With what the ranks have counted since; all of them call it together.

        Args:
            progress: How far this rank has come; the position is the same on all ranks.
            sum_over_ranks: Given this rank's int64[streams], returns the sum over all ranks; None
                where there is only one.
        """
        if sum_over_ranks is None and progress.samples_seen == self.begin:
            # Nothing was handed out since: what was loaded is saved as it was.
            return self
        total = self.total + summed(progress.targets - self.own, sum_over_ranks)
        return self._replace(total=total, at=progress.samples_seen, own=progress.targets)


def summed(counts: Int64Array, sum_over_ranks: SumOverRanks | None) -> Int64Array:
    """Counts, int64[n], of all ranks together; as they are where there is no way to sum them."""
    if sum_over_ranks is None:
        return counts
    total: Int64Array = sum_over_ranks(torch.from_numpy(counts)).cpu().numpy().astype(np.int64)
    return total
