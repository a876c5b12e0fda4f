"""Keeping count: what was handed out, in which order, of which data."""

import copy
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.batches import BatchRequest
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.options import SettledOrder
from mosaic_dataloader.order.sequence import EpochSequence, EpochStart
from mosaic_dataloader.state.identity import compare, order_difference, probe
from mosaic_dataloader.state.mark import Mark
from mosaic_dataloader.state.position import KEY, Position
from mosaic_dataloader.state.tokens import SumOverRanks, TokenCount
from mosaic_dataloader.storage.stored_orders import StoredOrders

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset
    from mosaic_dataloader.packing.batches import PackedBatch

logger = logging.getLogger(__name__)


class Bookkeeping:
    """The position of a run and what identifies it.

    Args:
        dataset: The data.
        order: The order, settled at the run's first start.
        samples_seen: Samples of the order that all ranks together have behind them.
        origin: Where the present order begins.
        seen: Samples handed out of each stream; none by default.
        skipped: Those of ``samples_seen`` that the run left out at its start.
        tokens: Target tokens of each stream; none by default.

    Attributes:
        marks: What was handed out so far is the last one. A batch is counted by adding its mark.
        tokens: Target tokens of each stream.
    """

    def __init__(
        self,
        dataset: "StreamingTextDataset",
        order: SettledOrder,
        samples_seen: int = 0,
        origin: EpochStart | None = None,
        seen: list[int] | None = None,
        skipped: int = 0,
        tokens: TokenCount | None = None,
    ):
        self._dataset = dataset
        self.order = order
        self.origin = origin or EpochStart()
        stored = StoredOrders(dataset.orders_dir, dataset.mixture, order)
        self.timeline = EpochSequence(dataset.mixture, order, self.origin, stored)
        count = len(dataset.mixture.streams)
        none = np.zeros(count, np.int64)
        begin = Mark(samples_seen, np.array(seen, np.int64) if seen else none, none, {})
        self.marks: deque[Mark] = deque([begin])
        self.skipped = skipped
        self.tokens = tokens or TokenCount(none, samples_seen)

    def snapshot(self) -> Self:
        """These books as they stand now, whatever another thread hands out from here on."""
        still = copy.copy(self)
        still.tokens = copy.copy(self.tokens)
        # After the tokens: they are never counted beyond the mark.
        still.marks = deque([self.mark])
        return still

    @property
    def samples_seen(self) -> int:
        """Samples of the order that all ranks together have behind them."""
        return self.mark.samples_seen

    def after(self, before: Mark, batch: "BatchRequest | PackedBatch", targets: Int64Array) -> Mark:
        """Where a run stands after another batch. Nothing is counted by that; see ``marks``.

        Args:
            before: Where it stands before.
            batch: What the batch holds.
            targets: int64[streams], this rank's target tokens in it.
        """
        assert isinstance(batch, BatchRequest)
        return Mark(
            batch.stop, before.seen + batch.per_stream, before.targets + targets, before.lanes
        )

    @property
    def mark(self) -> Mark:
        """What was handed out so far."""
        return self.marks[-1]

    def drop_passed_marks(self) -> None:
        """Forget all marks but the last ones; called in the background, where batches are made."""
        # One more than is needed: a thread that was given up may do the same at this moment.
        while len(self.marks) > 2:
            self.marks.popleft()

    @property
    def epoch(self) -> int:
        """The epoch that the next sample belongs to, from 0."""
        return self.timeline.locate(self.samples_seen)[0]

    @property
    def epochs_seen(self) -> float:
        """The position in epochs: 1.25 is a quarter of the way through the second one."""
        epoch, place = self.timeline.locate(self.samples_seen)
        return epoch + place / self.timeline.epoch_length

    def skip_to(self, position: int) -> None:
        """Go on to a position without counting what lies before it as seen."""
        self.marks.append(self.mark._replace(samples_seen=position))

    def settle_tokens(self, sum_over_ranks: SumOverRanks | None) -> None:
        """Add the target tokens counted since the last call; see `TokenCount.settle`."""
        self.tokens.settle(self.mark, sum_over_ranks)

    def per_stream(self) -> dict[str, int]:
        """Samples handed out, by stream name."""
        return self._by_name(self.mark.seen)

    def tokens_per_stream(self) -> dict[str, int]:
        """Target tokens that were summed over the ranks, by stream name."""
        return self._by_name(self.tokens.total)

    def _by_name(self, counts: Int64Array) -> dict[str, int]:
        names = [s.name for s in self._dataset.mixture.streams]
        return dict(zip(names, counts.tolist(), strict=True))

    def state(self) -> dict[str, str]:
        """The entries of a checkpoint."""
        mark = self.mark
        return {KEY: self._position(mark).to_json()}

    def _position(self, mark: Mark) -> Position:
        """What a checkpoint holds of the whole run; the same on all ranks."""
        begun, lanes = self._begun(mark), self._lane_count
        return Position(
            samples_seen=mark.samples_seen,
            origin=self.origin,
            epoch_samples=self._epoch_samples(begun),
            identity=self._dataset.identity.to_save(self.order, lanes, begun=begun),
            seen=tuple(mark.seen.tolist()),
            tokens=tuple(self.tokens.total.tolist()),
            skipped=self.skipped,
            tokens_at=self.tokens.at,
            probe=self._probe(mark) if begun else None,
        )

    def continued(self, state: Mapping[str, Any]) -> "Bookkeeping":
        """The books of the run that a saved state belongs to, for the present data.

        Raises:
            MosaicDataError: The state cannot be read, or its run had other data or options.
        """
        saved = Position.from_json(state[KEY])
        known = self._dataset.identity
        present = known.to_compare(self.order, self._lane_count, saved.identity)
        found = compare(saved.identity, present, self._open_options())
        if not found:
            books = self._resumed(saved, state)
            if books._follows(saved):
                return books
            found = [order_difference(saved.identity, saved.samples_seen)]
        what = "; ".join(found)
        if self._dataset.on_data_change != "restart_epoch":
            raise MosaicDataError(
                f"the checkpoint does not fit the present data or options: {what}. Restore what "
                f'changed, or set on_data_change = "restart_epoch" in '
                f"[mosaic_dataloader.dataset] to begin the checkpoint's epoch anew with what is now"
            )
        logger.warning(
            "data or options changed (%s); epoch %d begins anew after %d samples",
            what,
            saved.epoch,
            saved.samples_seen,
        )
        return self._restarted(saved)

    def _resumed(self, saved: Position, state: Mapping[str, Any]) -> "Bookkeeping":
        """The books of a run of the same data and options."""
        return Bookkeeping(
            self._dataset,
            saved.identity.order,
            saved.samples_seen,
            saved.origin,
            list(saved.seen),
            saved.skipped,
            self._tokens(saved, fits=True),
        )

    def _restarted(self, saved: Position) -> "Bookkeeping":
        """The books of a run whose epoch begins anew, with what is now."""
        return Bookkeeping(
            self._dataset,
            self.order,
            saved.samples_seen,
            EpochStart(saved.samples_seen, saved.epoch),
            self._carried_over(saved, saved.seen),
            saved.skipped,
            self._tokens(saved, fits=False),
        )

    def _follows(self, saved: Position) -> bool:
        """Whether the order gives the samples that were to follow the saved position.

        The order is built for it, a moment before the first batch would have it built.
        """
        if saved.probe is None:
            return True
        self.timeline.check()
        return self._probe(self.mark) == saved.probe

    def _probe(self, mark: Mark) -> str | None:
        return probe(self.timeline, mark.samples_seen)

    @property
    def _lane_count(self) -> int | None:
        return None

    def _begun(self, mark: Mark) -> bool:
        """Whether a batch of the present order was handed out.

        Until then the order need not exist: under this layout it may not even be possible, while
        the state that is to be loaded has one that is.
        """
        return mark.samples_seen > max(self.origin.samples, self.skipped)

    def _epoch_samples(self, begun: bool) -> int:
        """Samples in an epoch; 0 before the first one is counted."""
        return self.timeline.epoch_length if begun else 0

    def _open_options(self) -> list[str]:
        """Options left to their defaults; a saved value stands for them."""
        given = self._dataset.order_options
        names = ("num_canonical_nodes", "shuffle_block_size")
        return [name for name in names if getattr(given, name) is None]

    def _carried_over(self, saved: Position, counts: Sequence[int]) -> list[int]:
        """Counts of streams that still go by the same name; others start at 0."""
        names = [stream.name for stream in saved.identity.streams]
        before = dict(zip(names, counts, strict=True))
        return [before.get(s.name, 0) for s in self._dataset.mixture.streams]

    def _tokens(self, saved: Position, *, fits: bool) -> TokenCount:
        if saved.tokens_at != saved.samples_seen:
            logger.info(
                "the checkpoint counts target tokens up to sample %d of %d: call settle_tokens "
                "before state_dict to have them all; those in between are missing from now on",
                saved.tokens_at,
                saved.samples_seen,
            )
        # Streams of data that fit are the same in their order, and may have other names by now.
        total = saved.tokens if fits else self._carried_over(saved, saved.tokens)
        return TokenCount(np.array(total, np.int64), saved.tokens_at, saved.samples_seen)
