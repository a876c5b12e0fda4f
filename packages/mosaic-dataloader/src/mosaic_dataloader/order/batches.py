"""The sequence of batches that one rank reads, as requests for samples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mosaic_dataloader.order.assign import (
    rows_of_rank,
    rows_of_rank_by_phase,
    rows_of_rank_partial,
)
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.sequence import LOOKED_UP, SampleSequence

# A rank's samples looked up at a time, and all ranks' together. numpy costs microseconds a call
# whatever the size, which for a single small batch is as much as copying its rows.
_BLOCK = 4096
# Rows whose streams are counted at a time: with fewer, calls cost more than what they compute; more
# leave the processor's cache.
_COUNTED = 1 << 15


class BatchRequest(NamedTuple):
    """What one rank reads for one global batch.

    Attributes:
        start: Position of the run at which the global batch begins.
        stop: Position after it.
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
    sequence: SampleSequence, layout: Layout, position: int
) -> Iterator[BatchRequest]:
    """Full batches from ``position`` on, across epoch ends, without end."""
    count = 1
    while True:
        sequence.prepare_next(position)
        yield from _full_batches(sequence, layout, position, count)
        position += count * layout.global_batch
        # Few at first, so that the first batch waits for little.
        count = min(2 * count, layout.most_batches)


def one_pass(
    sequence: SampleSequence,
    layout: Layout,
    position: int,
    *,
    drop_last: bool,
    last: bool = False,
) -> Iterator[BatchRequest]:
    """Batches from ``position`` to the end of its epoch.

    Args:
        sequence: The order.
        layout: The rank.
        position: Where to begin.
        drop_last: Leave out the partial batch at the end; otherwise it is padded to full size.
            Either way every rank gets equally many batches.
        last: No other epoch will follow.
    """
    _, place = sequence.locate(position)
    end = position + sequence.epoch_length - place
    while full := min((end - position) // layout.global_batch, layout.most_batches):
        if not last:
            sequence.prepare_next(position)
        yield from _full_batches(sequence, layout, position, full)
        position += full * layout.global_batch
    if position < end and not drop_last:
        ids, nodes = sequence.rows(position, end)
        canonical = sequence.options.num_canonical_nodes
        own = ids[
            rows_of_rank_partial(
                nodes, canonical, layout.global_batch, layout.rank, layout.world_size
            )
        ]
        padding = [-1] * (layout.batch_size - len(own))
        shards, places = (part.tolist() + padding for part in sequence.mixture.locate(own))
        padded = np.concatenate([own, np.array(padding, np.int64)])
        counts, mine = (sequence.mixture.count_per_stream(part[None])[0] for part in (ids, own))
        yield BatchRequest(position, end, padded, shards, places, counts, mine)


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
