"""Stages end to end: from a position in the run to samples."""

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.sequence import REMOVED, EpochSequence, StoredEpochs
from mosaic_dataloader.order.stages import Stage, StageOrder
from mosaic_dataloader.util.forks import reset_in_child

# A block of so many canonical nodes takes 235 MB, and a second to place.
MOST_NODES = 256
# Stands for samples of a later epoch in a probe.
_LATER = -1
# Above any number of samples; the number of a stream takes 16 bits.
_STREAM_BITS = 46

# Keeps the epochs of a stream, given the stream alone and the options of its order.
OpenStored = Callable[[Mixture, ResolvedOrder], StoredEpochs | None]


class StageSequence:
    """The samples of a run whose mixture changes, as a random-access list; see `EpochSequence`.

    Its streams are all that the run ever had. Those that are part of the data now have their own
    epochs; the others only take their places in the blocks of earlier stages.

    Worked example: streams A of 1,000 samples and B of 50, in this order in the data. Where
    `StageOrder` draws place 7 of B's epoch 3, the sample is the one at position ``3 * 50 + 7`` of
    B's own `EpochSequence`, plus 1,000, the id of B's first sample.

    Args:
        mixture: The data; every stream's ``choose`` is all of its samples.
        samples: Samples of each stream that the run ever had.
        names: What messages call each.
        digests: What identifies the content of each; seeds its order.
        present: The number in the mixture of each of them; None for those that were removed.
        open_stored: Where the orders of long epochs are kept; None to keep them in memory.
        kept_epochs: See `EpochSequence`.
        kept_positions: See `StageOrder`.
    """

    def __init__(
        self,
        mixture: Mixture,
        options: ResolvedOrder,
        *,
        samples: Sequence[int],
        names: Sequence[str],
        digests: Sequence[str],
        present: Sequence[int | None],
        stages: Sequence[Stage],
        open_stored: OpenStored | None = None,
        kept_epochs: int = 2,
        kept_positions: int = 0,
    ):
        self.mixture = mixture
        self.options = options
        nodes = options.num_canonical_nodes
        if nodes > MOST_NODES:
            raise MosaicDataError(
                f"stages take at most {MOST_NODES} canonical nodes, and this run has {nodes}; set "
                f"num_canonical_nodes to the number of machines"
            )
        self._nodes = nodes
        self._order = StageOrder(samples, nodes, options.shuffle_seed, stages, kept=kept_positions)
        self._names = names
        self._samples = np.array(samples, np.int64)
        self._present = np.array([-1 if n is None else n for n in present], np.int64)
        self._epochs: list[EpochSequence | None] = []
        for number, (digest, own) in enumerate(zip(digests, present, strict=True)):
            if own is None:
                self._epochs.append(None)
                continue
            alone = Mixture((mixture.streams[own],))
            order = replace(
                options,
                num_canonical_nodes=nodes if self._order.in_parts(number) else 1,
                shuffle_seed=_seed(options.shuffle_seed, digest),
            )
            stored = open_stored(alone, order) if open_stored else None
            self._epochs.append(EpochSequence(alone, order, stored=stored, kept=kept_epochs))
        # Blocks are looked up in the thread that reads ahead, and in that which saves a state.
        self._lock = threading.Lock()
        reset_in_child(self)

    def after_fork(self) -> None:
        """A thread that does not exist in this child may have held the lock."""
        self._lock = threading.Lock()

    @property
    def epoch_length(self) -> int:
        """Samples of all streams together: what is called an epoch of the whole run."""
        return self.mixture.num_samples

    def check(self) -> None:
        """Nothing: streams of any size can be drawn from."""

    def require_streams(self, low: int, high: int, lanes: Sequence[int] = ()) -> None:
        """Refuse to continue where a removed stream is still to be read from.

        The last stage draws from streams in the data: only the samples up to its beginning are in
        question.

        Args:
            low: Every position before it was read.
            high: No position from here on was read.
            lanes: By lane, the next position that it reads; lanes take turns. None are needed where
                nothing lies between the two.

        Worked example: the last stage begins at position 12. Of 4 lanes, the next positions are 8,
        5, 14 and 11: positions 5, 8, 9 and 11 are not read yet, and 6, 7 and 10 are.

        Raises:
            MosaicDataError: It is; the message names it.
        """
        last = self._order.stages[-1].start
        unread = np.zeros(len(self._epochs), np.int64)
        if low < min(high, last):
            positions = np.arange(low, min(high, last), dtype=np.int64)
            with self._lock:
                streams = self._order.streams(low, min(high, last))
            left = positions >= np.array(lanes, np.int64)[positions % len(lanes)]
            unread += np.bincount(streams[left], minlength=len(unread))
        if high < last:
            unread += self.draws(high, last)
        for number, one in enumerate(self._epochs):
            if one is None and unread[number]:
                raise MosaicDataError(
                    f'stream "{self._names[number]}" was removed, and {unread[number]:,} of its '
                    f"samples come before position {last:,}, where the last stage begins, and are "
                    f"not read yet: keep its table, without a weight, until they are"
                )

    def locate(self, position: int) -> tuple[int, int]:
        """How often as many samples as there are were drawn before a position, and the rest."""
        return divmod(position, self.epoch_length)

    def prepare_next(self, position: int) -> None:
        """Order the next epochs of the streams of a stage in the background."""
        if not any(one is not None and one.stores for one in self._epochs):
            return
        with self._lock:
            taken = self._order.taken(position // self._nodes * self._nodes)
            counts = self._order.stages[self._order.stage_at(position)].counts
        for one, drawn, count in zip(self._epochs, taken.tolist(), counts, strict=True):
            if one is not None and count:
                one.prepare_next(drawn)

    def rows(self, start: int, stop: int) -> tuple[Int64Array, Int64Array]:
        """Sample ids and canonical nodes, both int64[n], at the positions ``[start, stop)``."""
        positions = np.arange(start, stop, dtype=np.int64)
        return self.ids_at(positions), self.canonical_nodes(start, stop)

    def canonical_nodes(self, start: int, stop: int) -> Int64Array:
        """Canonical nodes, int64[n], at the positions ``[start, stop)``."""
        return np.arange(start, stop, dtype=np.int64) % self._nodes

    def phase(self, start: int, stop: int) -> int:
        """The canonical node of ``start``; the nodes always follow one another."""
        return start % self._nodes

    def epochs(self, start: int, stop: int) -> Int64Array:
        """For each position its own stream's epoch, int64[n]."""
        with self._lock:
            found: Int64Array = self._order.draws(np.arange(start, stop, dtype=np.int64)).epochs
        return found

    def ids_at(self, positions: Int64Array) -> Int64Array:
        """Sample ids, int64[n], at positions, int64[n].

        Raises:
            MosaicDataError: A position draws from a stream that was removed from the data.
        """
        with self._lock:
            streams, epochs, places = self._order.draws(positions)
        ids = np.empty_like(epochs)
        own_positions = epochs * self._samples[streams] + places
        for stream in np.unique(streams).tolist():
            sequence = self._epochs[stream]
            if sequence is None:
                raise MosaicDataError(
                    f'stream "{self._names[stream]}" was removed, and the order still draws from '
                    f"it; restore it"
                )
            own = np.flatnonzero(streams == stream)
            offset = self.mixture.stream_offsets[self._present[stream]]
            ids[own] = sequence.ids_at(own_positions[own]) + offset
        return ids

    def next_ids(self, position: int, count: int) -> Int64Array:
        """What identifies the samples from a position on; see ``probe_ids``."""
        positions = np.arange(position, position + count, dtype=np.int64)
        found: Int64Array = self.probe_ids(positions[None])[0]
        return found

    def probe_ids(self, positions: Int64Array) -> Int64Array:
        """What identifies the samples at positions, whatever the streams' order in the data.

        A stream's number in the run and the sample's in the stream; -1 for a sample of a later
        epoch than the list's first of its stream, whose order may not exist yet; ``REMOVED`` where
        the stream was removed. ``positions`` are int64[lists, n], each list ascending.
        """
        with self._lock:
            found = self._order.draws(positions.ravel())
        streams, epochs, places = (part.astype(np.int64).reshape(positions.shape) for part in found)
        ids = np.full(positions.shape, _LATER, np.int64)
        for stream in np.unique(streams).tolist():
            own, sequence = streams == stream, self._epochs[stream]
            if sequence is None:
                ids[own] = REMOVED
                continue
            first = np.where(own, epochs, np.iinfo(np.int64).max).min(axis=1, keepdims=True)
            own &= epochs == first
            at = epochs[own] * self._samples[stream] + places[own]
            ids[own] = sequence.ids_at(at) + (stream << _STREAM_BITS)
        return ids

    def count_per_stream(self, start: int, size: int, count: int) -> Int64Array:
        """Samples of each stream in consecutive batches, int64[count, streams]."""
        if len(self.mixture.streams) == 1:
            return np.full((count, 1), size, np.int64)
        with self._lock:
            streams = self._order.streams(start, start + count * size)
        return self.mixture.count_streams(self._present[streams].reshape(count, size))

    def draws(self, start: int, stop: int) -> Int64Array:
        """How often ``[start, stop)`` draws from each stream of the run, int64[streams]."""
        with self._lock:
            return self._drawn_before(stop) - self._drawn_before(start)

    def _drawn_before(self, position: int) -> Int64Array:
        rest = position % self._nodes
        taken = self._order.taken(position - rest)
        if rest:
            streams = self._order.streams(position - rest, position)
            taken = taken + np.bincount(streams, minlength=len(taken))
        return taken


# What a run reads from. Both classes have the same methods.
SampleSequence = EpochSequence | StageSequence


def _seed(run: int, digest: str) -> int:
    """The seed of a stream's own order: of the run and of the stream's content, not its place."""
    found = hashlib.sha256(f"{run} {digest}".encode()).digest()
    # So that an epoch's number can be added to it.
    return int.from_bytes(found[:6], "little")
