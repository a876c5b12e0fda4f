"""The sequence of batches that one rank reads, as requests for samples."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mosaic_dataloader.order.assign import rows_of_rank, rows_of_rank_partial
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.timeline import Timeline

# Samples of the order looked up at a time. numpy costs microseconds a call whatever the size, which
# for a single small batch is as much as copying its rows.
_BLOCK = 4096


class BatchRequest(NamedTuple):
    """What one rank reads for one global batch.

    Attributes:
        start: Position of the run at which the global batch begins.
        stop: Position after it.
        ids: int64[batch_size], the rank's sample ids; -1 where a row is padding.
        shards: Shard of each of these rows; -1 where it is padding.
        places: Place of each within its shard.
        per_stream: int64[streams], samples of the whole global batch from each stream.
    """

    start: int
    stop: int
    ids: Int64Array
    shards: list[int]
    places: list[int]
    per_stream: Int64Array


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


def endless_batches(timeline: Timeline, layout: Layout, position: int) -> Iterator[BatchRequest]:
    """Full batches from ``position`` on, across epoch ends, without end."""
    count = 1
    while True:
        timeline.prepare_next(position)
        yield from _full_batches(timeline, layout, position, count)
        position += count * layout.global_batch
        # Few at first, so that the first batch waits for little.
        count = min(2 * count, max(1, _BLOCK // layout.global_batch))


def one_pass(
    timeline: Timeline,
    layout: Layout,
    position: int,
    *,
    drop_last: bool,
    last: bool = False,
) -> Iterator[BatchRequest]:
    """Batches from ``position`` to the end of its epoch.

    Args:
        timeline: The order.
        layout: The rank.
        position: Where to begin.
        drop_last: Leave out the partial batch at the end; otherwise it is padded to full size.
            Either way every rank gets equally many batches.
        last: No other epoch will follow.
    """
    _, place = timeline.locate(position)
    end = position + timeline.epoch_length - place
    most = max(1, _BLOCK // layout.global_batch)
    while full := min((end - position) // layout.global_batch, most):
        if not last:
            timeline.prepare_next(position)
        yield from _full_batches(timeline, layout, position, full)
        position += full * layout.global_batch
    if position < end and not drop_last:
        ids, nodes = timeline.rows(position, end)
        own = ids[rows_of_rank_partial(nodes, layout.rank, layout.world_size)]
        padding = [-1] * (layout.batch_size - len(own))
        shards, places = (part.tolist() + padding for part in timeline.mixture.locate(own))
        padded = np.concatenate([own, np.array(padding, np.int64)])
        counts = timeline.mixture.count_per_stream(ids[None])[0]
        yield BatchRequest(position, end, padded, shards, places, counts)


def _full_batches(
    timeline: Timeline, layout: Layout, position: int, count: int
) -> Iterator[BatchRequest]:
    """``count`` batches, looked up together."""
    size = layout.global_batch
    ids, nodes = (
        part.reshape(count, size) for part in timeline.rows(position, position + count * size)
    )
    if timeline.options.batching_method == "device_per_stream":
        # A unit already lies machine after machine, device after device.
        first = layout.rank * layout.batch_size
        own = ids[:, first : first + layout.batch_size]
    elif layout.world_size == 1:
        own = ids
    else:
        rows = rows_of_rank(nodes, layout.rank, layout.world_size)
        own = np.take_along_axis(ids, rows, axis=1)
    per_stream = timeline.mixture.count_per_stream(ids)
    shards, places = (part.tolist() for part in timeline.mixture.locate(own))
    for number in range(count):
        start = position + number * size
        yield BatchRequest(
            start, start + size, own[number], shards[number], places[number], per_stream[number]
        )
