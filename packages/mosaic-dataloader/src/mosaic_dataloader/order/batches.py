"""The sequence of batches that one rank reads, as requests for samples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mosaic_dataloader.order.assign import rows_of_rank, rows_of_rank_by_phase
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.sequence import LOOKED_UP
from mosaic_dataloader.order.skip import Range, Skip
from mosaic_dataloader.order.stage_sequence import SampleSequence

# A rank's samples looked up at a time, and all ranks' together. numpy costs microseconds a call
# whatever the size, which for a single small batch is as much as copying its rows.
_BLOCK = 4096
# Rows whose streams are counted at a time: with fewer, calls cost more than what they compute; more
# leave the processor's cache.
_COUNTED = 1 << 15
NOTHING_SKIPPED = Skip()


class BatchRequest(NamedTuple):
    """What one rank reads for one global batch.

    Attributes:
        start: Position of the first row of the global batch.
        stop: Position after its last row.
        ids: int64[batch_size], the rank's sample ids; -1 where a row is padding.
        shards: Shard of each of these rows; -1 where it is padding.
        places: Place of each within its shard.
        per_stream: int64[streams], samples of the whole global batch from each stream.
        own_per_stream: int64[streams], those of them that are this rank's.
    """

    start: int
    stop: int
    ids: Int64Array
    shards: list[int]
    places: list[int]
    per_stream: Int64Array
    own_per_stream: Int64Array


@dataclass(frozen=True)
class Layout:
    """Who reads: this rank among the data-parallel ranks, and rows per rank and micro-batch."""

    rank: int
    world_size: int
    batch_size: int

    @property
    def global_batch(self) -> int:
        """Rows of one micro-batch over all ranks."""
        return self.batch_size * self.world_size

    @property
    def most_batches(self) -> int:
        """How many batches are looked up together at the most."""
        return max(1, min(_BLOCK // self.batch_size, LOOKED_UP // self.global_batch))


def endless_batches(
    sequence: SampleSequence, layout: Layout, position: int, skip: Skip = NOTHING_SKIPPED
) -> Iterator[BatchRequest]:
    """Full batches from ``position`` on, across epoch ends, without end."""
    count = 1
    while True:
        sequence.prepare_next(position)
        for request in _next_batches(sequence, layout, position, count, skip):
            yield request
            position = request.stop
        # Few at first, so that the first batch waits for little.
        count = min(2 * count, layout.most_batches)


def one_pass(
    sequence: SampleSequence,
    layout: Layout,
    position: int,
    *,
    drop_last: bool,
    last: bool = False,
    skip: Skip = NOTHING_SKIPPED,
) -> Iterator[BatchRequest]:
    """Batches from ``position`` to the end of its epoch, equally many for every rank.

    The partial batch at the end is left out with ``drop_last``, and otherwise padded to full size.
    ``last`` says that no other epoch will follow.
    """
    _, place = sequence.locate(position)
    end = position + sequence.epoch_length - place
    left = end - position - (skip.before(end) - skip.before(position))
    while full := min(left // layout.global_batch, layout.most_batches):
        if not last:
            sequence.prepare_next(position)
        for request in _next_batches(sequence, layout, position, full, skip):
            left -= layout.global_batch
            # After the last row, what is left out until the end is passed as well.
            position = request.stop if left else end
            yield request._replace(stop=position)
    if left and not drop_last:
        stretches = skip.stretches(position, left)
        ids, nodes = _joined_rows(sequence, stretches)
        canonical, rank = sequence.options.num_canonical_nodes, layout.rank
        own = ids[
            rows_of_rank(nodes, canonical, rank, layout.world_size, batch=layout.global_batch)
        ]
        yield _request(sequence, stretches[0][0], end, ids, own, layout.batch_size - len(own))


def _next_batches(
    sequence: SampleSequence, layout: Layout, position: int, count: int, skip: Skip
) -> Iterator[BatchRequest]:
    """Up to ``count`` batches: those before the next skipped position, or the one it lies in."""
    start, free = skip.stretch(position)
    full = min(count, free // layout.global_batch)
    if full:
        yield from _full_batches(sequence, layout, start, full)
        return
    stretches = skip.stretches(start, layout.global_batch)
    ids, _ = _joined_rows(sequence, stretches)
    own = ids[own_rows_of_batch(sequence, layout, stretches)]
    yield _request(sequence, start, stretches[-1][1], ids, own)


def own_rows_of_batch(
    sequence: SampleSequence, layout: Layout, stretches: list[Range]
) -> Int64Array:
    """The rank's rows, int64[batch_size], within the batch whose rows lie in some stretches."""
    if len(stretches) == 1:
        found: Int64Array = own_rows(sequence, layout, stretches[0][0], 1)[0]
        return found
    nodes = np.concatenate([sequence.canonical_nodes(*stretch) for stretch in stretches])
    canonical = sequence.options.num_canonical_nodes
    return rows_of_rank(nodes, canonical, layout.rank, layout.world_size)


def _joined_rows(sequence: SampleSequence, stretches: list[Range]) -> tuple[Int64Array, Int64Array]:
    """Sample ids and canonical nodes, both int64[n], of the positions in stretches."""
    parts = [sequence.rows(*stretch) for stretch in stretches]
    ids, nodes = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ids, nodes


def _request(
    sequence: SampleSequence,
    start: int,
    stop: int,
    ids: Int64Array,
    own: Int64Array,
    padding: int = 0,
) -> BatchRequest:
    """The request for a rank's part of one batch, padded with rows that are not there."""
    missing = [-1] * padding
    shards, places = (part.tolist() + missing for part in sequence.mixture.locate(own))
    padded = np.concatenate([own, np.array(missing, np.int64)])
    counts, mine = (sequence.mixture.count_per_stream(part[None])[0] for part in (ids, own))
    return BatchRequest(start, stop, padded, shards, places, counts, mine)


def _full_batches(
    sequence: SampleSequence, layout: Layout, position: int, count: int
) -> Iterator[BatchRequest]:
    """``count`` batches, looked up together."""
    size = layout.global_batch
    if layout.world_size == 1:
        own = sequence.rows(position, position + count * size)[0].reshape(count, size)
        per_stream = own_per_stream = sequence.mixture.count_per_stream(own)
    else:
        begins = position + size * np.arange(count, dtype=np.int64)[:, None]
        own = sequence.ids_at((begins + own_rows(sequence, layout, position, count)).ravel())
        own = own.reshape(count, layout.batch_size)
        per_stream = _count_streams(sequence, position, size, count)
        own_per_stream = sequence.mixture.count_per_stream(own)
    shards, places = (part.tolist() for part in sequence.mixture.locate(own))
    for number in range(count):
        start = position + number * size
        yield BatchRequest(
            start,
            start + size,
            own[number],
            shards[number],
            places[number],
            per_stream[number],
            own_per_stream[number],
        )


def own_rows(sequence: SampleSequence, layout: Layout, position: int, count: int) -> Int64Array:
    """The rank's rows within each of ``count`` batches, int64[1 or count, batch_size]."""
    rank, world_size, size = layout.rank, layout.world_size, layout.global_batch
    if sequence.options.batching_method == "device_per_stream":
        # The batch already lies machine after machine, device after device.
        begin = rank * layout.batch_size
        return np.arange(begin, begin + layout.batch_size)[None]
    stop = position + count * size
    canonical = sequence.options.num_canonical_nodes
    first = sequence.phase(position, stop)
    if first is not None and size % canonical == 0:
        # Every batch begins with the same node.
        return rows_of_rank_by_phase(first, canonical, size, rank, world_size)[None]
    nodes = sequence.canonical_nodes(position, stop).reshape(count, size)
    return rows_of_rank(nodes, canonical, rank, world_size)


def _count_streams(sequence: SampleSequence, position: int, size: int, count: int) -> Int64Array:
    """Samples of each stream in ``count`` batches, int64[count, streams]."""
    at_once = max(1, _COUNTED // size)
    return np.concatenate(
        [
            sequence.count_per_stream(position + size * first, size, min(at_once, count - first))
            for first in range(0, count, at_once)
        ]
    )
