"""Keeping count where documents are packed: rows for the run, a position for each lane."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.batches import BatchRequest, Layout
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.options import SettledOrder
from mosaic_dataloader.order.sequence import EpochSequence, EpochStart
from mosaic_dataloader.packing.batches import PackedBatch
from mosaic_dataloader.packing.lanes import Lanes, check_lanes, default_lanes, lanes_of_rank
from mosaic_dataloader.packing.state import LanePosition, SavedLane, lane_key
from mosaic_dataloader.reading.document_length import rows_of_epoch
from mosaic_dataloader.state.bookkeeping import Bookkeeping
from mosaic_dataloader.state.identity import PROBED_IN_LANE, lane_probes
from mosaic_dataloader.state.mark import Mark
from mosaic_dataloader.state.position import KEY, Position
from mosaic_dataloader.state.tokens import TokenCount
from mosaic_dataloader.storage.stored_orders import StoredOrders

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset

# Epochs of few documents are passed quickly, and not by all lanes at once.
_KEPT_SAMPLES = 1 << 21


class PackedBookkeeping(Bookkeeping):
    """The position of a packed run, as far as one rank knows it.

    ``samples_seen`` counts rows, which all ranks know; documents are counted lane by lane.

    Args:
        dataset: The data.
        order: The order, settled at the run's first start.
        layout: The rank.
        lanes: Lanes of the run; settled by the options and the layout where None.
        samples_seen: Rows handed out by all ranks together.
        origin: Where the present order begins, in rows, and with which epoch.
        positions: Where each of the rank's lanes goes on; by default at its first document.
        tokens: Target tokens of each stream; none by default.
        skipped: Documents of the order that the run left out at its start. Rows know nothing of
            them, so they are not in ``samples_seen``.

    Raises:
        MosaicDataError: The ranks do not divide the lanes.
    """

    def __init__(
        self,
        dataset: "StreamingTextDataset",
        order: SettledOrder,
        layout: Layout,
        lanes: int | None = None,
        samples_seen: int = 0,
        origin: EpochStart | None = None,
        positions: Mapping[int, LanePosition] | None = None,
        tokens: TokenCount | None = None,
        skipped: int = 0,
    ):
        super().__init__(dataset, order, samples_seen, origin, skipped=skipped, tokens=tokens)
        self._layout = layout
        settled = lanes or dataset.packing_lanes or default_lanes(layout.world_size)
        check_lanes(settled, layout.world_size, saved=lanes is not None)
        self.lane_count = settled
        length = dataset.mixture.epoch_samples
        # Positions of documents count from where the order begins, for rows do not tell them.
        self.timeline = EpochSequence(
            dataset.mixture,
            order,
            EpochStart(0, self.origin.epoch),
            StoredOrders(dataset.orders_dir, dataset.mixture, order),
            kept=max(4, min(2 + 4 * settled // length, _KEPT_SAMPLES // length)),
        )
        self.marks.append(self.mark._replace(lanes=dict(positions or {})))
        # What a state held of lanes, those of other ranks too.
        self._loaded: dict[str, Any] = {}
        self._loaded_at = 0
        self._saved_probes: list[str | None] = []

    @cached_property
    def lanes(self) -> Lanes:
        """The lanes of the run."""
        return Lanes(
            self.lane_count,
            self._dataset.mixture.epoch_samples,
            self.order.num_canonical_nodes,
        )

    @cached_property
    def own_lanes(self) -> list[int]:
        """The lanes of this rank, ascending."""
        return lanes_of_rank(
            self.lane_count,
            self._layout.rank,
            self._layout.world_size,
            self._dataset.order_options.num_canonical_nodes,
        )

    @property
    def first_slot(self) -> int:
        """Place, among the rank's lanes, of the one that its next row comes from."""
        world_size, residue = self._layout.world_size, self.own_lanes[0]
        row = self.samples_seen + (residue - self.samples_seen) % world_size
        return row % self.lane_count // world_size

    def beginning(self) -> "PackedBookkeeping":
        """The books of a run of the same lanes that has not begun."""
        return PackedBookkeeping(self._dataset, self.order, self._layout, self.lane_count)

    def reading_all_lanes(self, row: int) -> "PackedBookkeeping":
        """The books of a single rank that reads all lanes, at ``row`` or a row before it.

        It is the nearest one at which all lanes are known: the present one if they are all this
        rank's, that of the state that was loaded if it held them all, or else the order's first.
        """
        begin, positions = self.origin.samples, None
        if self._loaded_at <= row and len(self._loaded) == self.lane_count:
            begin = self._loaded_at
            positions = {
                n: self._lane_position(n, self._saved_lane(self._loaded, n, begin))
                for n in range(self.lane_count)
            }
        if self._layout.world_size == 1 and begin <= self.samples_seen <= row:
            begin, positions = self.samples_seen, dict(self.mark.lanes)
        return PackedBookkeeping(
            self._dataset,
            self.order,
            Layout(0, 1, 1),
            self.lane_count,
            begin,
            self.origin,
            positions,
            skipped=self.skipped,
        )

    def positions(self) -> list[LanePosition]:
        """Where each of the rank's lanes goes on."""
        return self._positions(self.mark)

    def _positions(self, mark: Mark) -> list[LanePosition]:
        lanes = mark.lanes
        return [lanes.get(lane) or self._first(lane) for lane in self.own_lanes]

    def _first(self, lane: int) -> LanePosition:
        """Where a lane begins; an order that began in mid-run begins with a whole epoch."""
        if not self.skipped or self.origin != EpochStart():
            return LanePosition()
        return LanePosition(self.lanes.first_from(lane, self.skipped))

    def locate(self, lanes: Int64Array, documents: Int64Array) -> Int64Array:
        """Sample ids, int64[n], of lanes' documents; see `Lanes.positions`."""
        positions = self.lanes.positions(lanes, documents)
        if not len(positions):
            return positions
        self.timeline.prepare_next(int(positions.max()))
        return self.timeline.ids_at(positions)

    @property
    def epoch(self) -> int:
        """The epoch that the rank's hindmost lane is in, from 0."""
        return self.origin.epoch + self.epochs_behind()

    @property
    def epochs_seen(self) -> float:
        """How far the rank's lanes are, on average, in epochs."""
        behind = sum(position.document for position in self.positions())
        share = len(self.own_lanes) / self.lane_count
        return self.origin.epoch + behind / (share * self._dataset.mixture.epoch_samples)

    def epochs_behind(self) -> int:
        """The epoch of the rank's hindmost lane, counted from the order's beginning."""
        return min(
            self.lanes.epoch(lane, position.document)
            for lane, position in zip(self.own_lanes, self.positions(), strict=True)
        )

    def after(self, before: Mark, batch: BatchRequest | PackedBatch, targets: Int64Array) -> Mark:
        """Where a run stands after another batch."""
        assert isinstance(batch, PackedBatch)
        return Mark(
            before.samples_seen + batch.rows * self._layout.world_size,
            before.seen,
            before.targets + targets,
            {**before.lanes, **batch.lanes},
        )

    def pass_ended(self, epoch: int) -> None:
        """Note that a finite pass over an epoch, counted from the order's beginning, has ended."""
        lanes = dict(self.mark.lanes)
        for lane, position in zip(self.own_lanes, self.positions(), strict=True):
            end = self.lanes.first_of_epoch(lane, epoch + 1)
            if position.document >= end:
                continue
            documents = np.arange(position.document, end, dtype=np.int64)
            ids = self.locate(np.full(len(documents), lane, np.int64), documents)
            counts = self._dataset.mixture.count_per_stream(ids[None])[0]
            finished = counts + np.array(position.finished or 0, np.int64)
            lanes[lane] = LanePosition(end, 0, tuple(finished.tolist()))
        self.marks.append(self.mark._replace(lanes=lanes))

    def per_stream(self) -> dict[str, int]:
        """Documents of this rank's lanes that were handed out to their ends, by stream name."""
        total = np.zeros(len(self._dataset.mixture.streams), np.int64)
        for lane in self.mark.lanes.values():
            if lane.finished:
                total += np.array(lane.finished, np.int64)
        names = [s.name for s in self._dataset.mixture.streams]
        return dict(zip(names, total.tolist(), strict=True))

    def state(self) -> dict[str, str]:
        """The entries of a checkpoint: the run's, and one for each of the rank's lanes."""
        mark = self.mark
        own = self._positions(mark)
        lanes = np.array(self.own_lanes, np.int64)
        places = self.lanes.positions(lanes, np.array([p.document for p in own], np.int64))
        begun = self._begun(mark)
        probes = self._lane_probes(own) if begun else [None] * len(own)
        none = (0,) * len(self._dataset.mixture.streams)
        entries = {
            lane_key(lane): SavedLane(
                place, position.offset, position.finished or none, mark.samples_seen, probed
            ).to_json()
            for lane, place, position, probed in zip(
                self.own_lanes, places.tolist(), own, probes, strict=True
            )
        }
        return {KEY: self._position(mark).to_json(), **entries}

    def _resumed(self, saved: Position, state: Mapping[str, Any]) -> "PackedBookkeeping":
        """The books of a run of the same data and options.

        Args:
            saved: The run's entry.
            state: The entries of at least this rank's lanes.

        Raises:
            MosaicDataError: The state lacks one of these lanes, or one is not of this run.
        """
        books = PackedBookkeeping(
            self._dataset,
            saved.identity.order,
            self._layout,
            saved.identity.packing_lanes,
            saved.samples_seen,
            saved.origin,
            tokens=self._tokens(saved, fits=True),
            skipped=saved.skipped,
        )
        books.timeline.check()
        for lane in range(self.own_lanes[0], books.lane_count, self._layout.world_size):
            # Before a list is made of them: there may be as many as the state likes to say.
            _require_lane(state, lane)
        lanes = {
            lane: books._saved_lane(state, lane, saved.samples_seen) for lane in books.own_lanes
        }
        books._saved_probes = [saved_lane.probe for saved_lane in lanes.values()]
        positions = {lane: books._lane_position(lane, one) for lane, one in lanes.items()}
        books.marks.append(books.mark._replace(lanes=positions))
        keys = map(lane_key, range(books.lane_count))
        books._loaded = {key: state[key] for key in keys if key in state}
        books._loaded_at = saved.samples_seen
        return books

    def _restarted(self, saved: Position) -> "PackedBookkeeping":
        """The books of a run whose epoch begins anew, with what is now."""
        return PackedBookkeeping(
            self._dataset,
            self.order,
            self._layout,
            self.lane_count,
            saved.samples_seen,
            EpochStart(saved.samples_seen, saved.epoch),
            tokens=self._tokens(saved, fits=False),
            skipped=saved.skipped,
        )

    def _follows(self, saved: Position) -> bool:
        """Whether the order gives each of this rank's lanes the documents that were to follow."""
        known = [number for number, one in enumerate(self._saved_probes) if one is not None]
        if not known:
            return True
        present = self._lane_probes(self._positions(self.mark))
        return all(present[number] == self._saved_probes[number] for number in known)

    def _probe(self, mark: Mark) -> None:
        """Rows tell no documents: the lanes have probes of their own."""

    def _lane_probes(self, positions: Sequence[LanePosition]) -> list[str]:
        """The probes of this rank's lanes, where they stand at ``positions``."""
        lanes = np.repeat(np.array(self.own_lanes, np.int64), PROBED_IN_LANE)
        first = np.array([position.document for position in positions], np.int64)[:, None]
        documents = first + np.arange(PROBED_IN_LANE)
        found = self.lanes.positions(lanes, documents.ravel()).reshape(documents.shape)
        # The first one again in place of those of a later epoch, whose order may not exist yet.
        length = self._dataset.mixture.epoch_samples
        found = np.where(found // length == found[:, :1] // length, found, found[:, :1])
        return lane_probes(self.timeline.ids_at(found.ravel()).reshape(found.shape))

    def _saved_lane(self, state: Mapping[str, Any], lane: int, samples_seen: int) -> SavedLane:
        key = _require_lane(state, lane)
        saved = SavedLane.from_json(key, state[key], len(self._dataset.mixture.streams))
        if saved.samples_seen != samples_seen:
            raise MosaicDataError(
                f"the saved data state's {key} was saved after {saved.samples_seen:,} rows and its "
                f'"{KEY}" after {samples_seen:,}; take both from the same checkpoint'
            )
        return saved

    def _lane_position(self, lane: int, saved: SavedLane) -> LanePosition:
        return LanePosition(self.lanes.document(lane, saved.position), saved.offset, saved.finished)

    @property
    def _lane_count(self) -> int | None:
        return self.lane_count

    def _begun(self, mark: Mark) -> bool:
        """Whether a row of the present order was handed out."""
        return mark.samples_seen > self.origin.samples

    def _epoch_samples(self, begun: bool) -> int:
        """About how many rows an epoch gives, by the sizes that the indexes tell."""
        return rows_of_epoch(self._dataset)

    def _open_options(self) -> list[str]:
        own = [] if self._dataset.packing_lanes else ["packing_lanes"]
        return [*super()._open_options(), *own]


def _require_lane(state: Mapping[str, Any], lane: int) -> str:
    """The key of a lane that a state holds.

    Raises:
        MosaicDataError: It does not.
    """
    key = lane_key(lane)
    if key not in state:
        raise MosaicDataError(
            f"the saved data state has no {key}, a lane of this rank: every rank saves its own "
            f"lanes, so join the states of all ranks, as torch.distributed.checkpoint does"
        )
    return key
