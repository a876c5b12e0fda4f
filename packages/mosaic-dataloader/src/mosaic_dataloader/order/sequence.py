"""Epochs end to end: from a position in the run to samples."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from mosaic_dataloader.order.epoch import ListedEpoch, Order, build_epoch, require_samples
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.shuffles import shuffle_of
from mosaic_dataloader.util.forks import reset_in_child

# Shorter epochs are ordered in some milliseconds, in less time than a process takes to start.
_SHORT = 1 << 15
# Positions that batches are looked up ahead, at the most; twice as many where shards are fetched.
LOOKED_UP = 1 << 16
# Positions whose streams are counted at a time.
_DRAWS_AT_ONCE = 1 << 20
# Epochs of a few samples are many; then some are built again.
_MOST_KEPT = 1024
# In place of a sample id: its stream was removed from the data.
REMOVED = -2


@dataclass(frozen=True)
class EpochStart:
    """Where the present order begins: epoch ``epoch`` starts at position ``samples``.

    (0, 0) unless the data were changed under a checkpoint on purpose.
    """

    samples: int = 0
    epoch: int = 0


class StoredEpochs(Protocol):
    """Epochs that are kept outside of this process's memory, as far as that is possible."""

    def load(self, epoch: int) -> ListedEpoch | None:
        """The order of an epoch, computed if need be; None where it cannot be kept."""

    def prepare(self, epoch: int) -> None:
        """Start computing the order of an epoch in the background, unless it is there."""

    def holds(self, epoch: int) -> bool:
        """Whether the order of an epoch is there."""

    def release(self, order: ListedEpoch) -> None:
        """Free what a loaded order takes, in the background; it is not used again."""


class EpochSequence:
    """The endless sequence of epochs as a random-access list.

    Args:
        origin: Where the sequence begins.
        stored: Where the orders of long epochs are kept for all processes of the machine; None to
            keep them in memory.
        kept: Epochs held ready, beside the short ones that are looked up ahead. Usually the one
            being read and the next one; a third would only take memory.
    """

    def __init__(
        self,
        mixture: Mixture,
        options: ResolvedOrder,
        origin: EpochStart | None = None,
        stored: StoredEpochs | None = None,
        kept: int = 2,
    ):
        self.mixture = mixture
        self.options = options
        self.origin = origin or EpochStart()
        # Short ones are built sooner than a process starts, and evaluated ones are lists nowhere.
        listed = options.batching_method != "random" or shuffle_of(options).evaluate is None
        worth_it = mixture.epoch_samples > _SHORT and listed
        self._stored = stored if worth_it else None
        self._kept = kept
        self._orders: OrderedDict[int, Order] = OrderedDict()
        # States are saved in one thread while another reads ahead: the first lock is
        # held for moments, the second while an order is built, so that none is built twice.
        self._guard, self._building = threading.Lock(), threading.Lock()
        reset_in_child(self)
        self._prepared = -1

    @property
    def stores(self) -> bool:
        """Whether epochs are long enough to be kept outside of this process's memory."""
        return self._stored is not None

    @cached_property
    def epoch_length(self) -> int:
        """Samples in an epoch; the same in all of them."""
        if self.options.batching_method == "random":
            return self.mixture.epoch_samples
        return len(self.epoch(self.origin.epoch))

    def check(self) -> None:
        """Check that the order can be built, as far as that is cheap.

        Raises:
            MosaicDataError: The data are too few for it, or the layout does not fit it.
        """
        if self.options.batching_method == "random":
            require_samples(self.mixture, self.options)
        else:
            # Only building an epoch shows whether the data fill a batch; its length is kept.
            _ = self.epoch_length

    def require_streams(self, low: int, high: int, lanes: Sequence[int] = ()) -> None:
        """Do nothing: an order of epochs has only streams that are in the data."""

    def epoch(self, number: int) -> Order:
        """The order of one epoch, built when first asked for."""
        order = self._ready(number)
        if order is not None:
            return order
        with self._building:
            order = self._ready(number)
            if order is None:
                order = self._stored.load(number) if self._stored else None
                order = order or build_epoch(self.mixture, self.options, number)
                self._keep(number, order)
        return order

    def after_fork(self) -> None:
        """A thread that does not exist in this child may have held the locks."""
        self._guard, self._building = threading.Lock(), threading.Lock()

    def _ready(self, number: int) -> Order | None:
        """The order of an epoch if it is there, now the last one to be dropped."""
        with self._guard:
            order = self._orders.get(number)
            if order is not None:
                self._orders.move_to_end(number)
            return order

    def _keep(self, number: int, order: Order) -> None:
        with self._guard:
            self._orders[number] = order
            # Of short epochs, several lie between what is handed out and what is looked up.
            ahead = min(2 * LOOKED_UP // max(1, len(order)), _MOST_KEPT)
            surplus = max(0, len(self._orders) - self._kept - ahead)
            gone = [self._orders.popitem(last=False)[1] for _ in range(surplus)]
        for old in gone:
            if self._stored is not None and isinstance(old, ListedEpoch):
                self._stored.release(old)

    def prepare_next(self, position: int) -> None:
        """Order the epoch after that of ``position`` in the background, before it is needed.

        In the first epoch this begins when a quarter of it is read: a run that ends in its first
        epoch needs no second one. A run that has come to its second epoch will need the next one:
        this begins early, but not in the first moments, in which the order changes and one more
        process would slow training down.
        """
        stored = self._stored
        if stored is None:
            return
        epoch, place = self.locate(position)
        first = epoch == self.origin.epoch
        if epoch > self._prepared and place >= self.epoch_length // (4 if first else 64):
            self._prepared = epoch
            with self._building:
                stored.prepare(epoch + 1)
        # Mapped before it is needed, so that the change itself costs nothing.
        late = place >= self.epoch_length // 8 * 7
        if late and epoch + 1 not in self._orders and stored.holds(epoch + 1):
            self.epoch(epoch + 1)

    def locate(self, position: int) -> tuple[int, int]:
        """Epoch and place within it of a position of the run."""
        epochs, place = divmod(position - self.origin.samples, self.epoch_length)
        return self.origin.epoch + epochs, place

    def rows(self, start: int, stop: int) -> tuple[Int64Array, Int64Array]:
        """Sample ids and canonical nodes, both int64[n], at ``[start, stop)``.

        Runs across as many epoch ends as lie between.
        """
        parts = [order.rows(*places) for order, *places in self._parts(start, stop)]
        return _joined([ids for ids, _ in parts]), _joined([nodes for _, nodes in parts])

    def canonical_nodes(self, start: int, stop: int) -> Int64Array:
        """Canonical nodes, int64[stop - start], at the positions ``[start, stop)`` of the run."""
        parts = self._parts(start, stop)
        return _joined([order.canonical_nodes(*places) for order, *places in parts])

    def phase(self, start: int, stop: int) -> int | None:
        """The canonical node of ``start``, if the nodes follow one another from there to ``stop``.

        None where an epoch ends in between, or where the nodes do not follow a formula.
        """
        if self.options.batching_method != "random":
            return None
        canonical = self.options.num_canonical_nodes
        _, place = self.locate(start)
        interleaved = self.epoch_length // canonical * canonical
        return place % canonical if place + stop - start <= interleaved else None

    def ids_at(self, positions: Int64Array) -> Int64Array:
        """Sample ids at positions of the run, both int64 of the same shape."""
        epochs, places = np.divmod(positions - self.origin.samples, self.epoch_length)
        first, last = int(epochs.min()), int(epochs.max())
        if first == last:
            return self.epoch(self.origin.epoch + first).ids_at(places)
        ids = np.empty_like(positions)
        # Only those that occur: packed lanes may lie many short epochs apart.
        for number in np.unique(epochs).tolist():
            own = epochs == number
            ids[own] = self.epoch(self.origin.epoch + number).ids_at(places[own])
        return ids

    def next_ids(self, position: int, count: int) -> Int64Array:
        """Sample ids, int64[n], from a position of the run on: ``count``, or to its epoch's end.

        Which epochs are held ready stays as it is, if this one is among them.
        """
        number, place = self.locate(position)
        order = self._orders.get(number) or self.epoch(number)
        return order.ids_at(np.arange(place, min(place + count, len(order)), dtype=np.int64))

    def probe_ids(self, positions: Int64Array) -> Int64Array:
        """Sample ids at positions; the first one's in place of those of a later epoch.

        ``positions`` are int64[lists, n], each list ascending.
        """
        epochs = (positions - self.origin.samples) // self.epoch_length
        here = np.where(epochs == epochs[:, :1], positions, positions[:, :1])
        return self.ids_at(here.ravel()).reshape(positions.shape)

    def epochs(self, start: int, stop: int) -> Int64Array:
        """The epochs, int64[stop - start], of the positions ``[start, stop)`` of the run."""
        positions = np.arange(start, stop, dtype=np.int64)
        return self.origin.epoch + (positions - self.origin.samples) // self.epoch_length

    def draws(self, start: int, stop: int) -> Int64Array:
        """How often positions ``[start, stop)`` draw from each stream, int64[streams].

        Whole epochs are known without being looked at, unless the order is built batch by batch.
        """
        chosen = np.array([size.choose for size in self.mixture.streams], np.int64)
        counts = np.zeros_like(chosen)
        stretches = [(start, stop)]
        whole = self.locate(stop)[0] - self.locate(start)[0] - 1
        if whole > 0 and self.options.batching_method == "random":
            counts += whole * chosen
            first = start + self.epoch_length - self.locate(start)[1]
            stretches = [(start, first), (first + whole * self.epoch_length, stop)]
        for begin, end in stretches:
            for position in range(begin, end, _DRAWS_AT_ONCE):
                size = min(_DRAWS_AT_ONCE, end - position)
                counts += self.count_per_stream(position, size, 1)[0]
        return counts

    def count_per_stream(self, start: int, size: int, count: int) -> Int64Array:
        """Samples of each stream in consecutive batches, int64[count, streams].

        The first begins at the position ``start`` of the run; each has ``size`` rows.
        """
        if len(self.mixture.streams) == 1:
            return np.full((count, 1), size, np.int64)
        numbers = [
            self.mixture.stream_of(order.rows(*places)[0])
            if isinstance(order, ListedEpoch)
            else order.streams(*places)
            for order, *places in self._parts(start, start + count * size)
        ]
        return self.mixture.count_streams(_joined(numbers).reshape(count, size))

    def _parts(self, start: int, stop: int) -> Iterator[tuple[Order, int, int]]:
        """The epochs that ``[start, stop)`` runs across, with the places in them."""
        while start < stop:
            epoch, place = self.locate(start)
            count = min(stop - start, self.epoch_length - place)
            yield self.epoch(epoch), place, place + count
            start += count


def _joined(parts: list[Int64Array]) -> Int64Array:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
