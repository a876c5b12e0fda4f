"""The sequence of batches that one rank reads, as requests for samples."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mosaic_dataloader.order.assign import rows_of_rank, rows_of_rank_partial
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.timeline import Timeline


@dataclass(frozen=True)
class BatchRequest:
    """What one rank reads for one global batch.

    Attributes:
        start: Position of the run at which the global batch begins.
        stop: Position after it.
        ids: int64[batch_size], the rank's sample ids; -1 where a row is padding.
        per_stream: int64[streams], samples of the whole global batch from each stream.
    """

    start: int
    stop: int
    ids: Int64Array
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
    while True:
        yield _full_batch(timeline, layout, position)
        position += layout.global_batch


def one_pass(
    timeline: Timeline, layout: Layout, position: int, *, drop_last: bool
) -> Iterator[BatchRequest]:
    """Batches from ``position`` to the end of its epoch.

    Args:
        timeline: The order.
        layout: The rank.
        position: Where to begin.
        drop_last: Leave out the partial batch at the end; otherwise it is padded to full size.
            Either way every rank gets equally many batches.
    """
    _, place = timeline.locate(position)
    end = position + timeline.epoch_length - place
    while position + layout.global_batch <= end:
        yield _full_batch(timeline, layout, position)
        position += layout.global_batch
    if position < end and not drop_last:
        ids, nodes = timeline.rows(position, end)
        own = ids[rows_of_rank_partial(nodes, layout.rank, layout.world_size)]
        padded = np.full(layout.batch_size, -1, np.int64)
        padded[: len(own)] = own
        yield BatchRequest(position, end, padded, timeline.mixture.count_per_stream(ids))


def _full_batch(timeline: Timeline, layout: Layout, position: int) -> BatchRequest:
    stop = position + layout.global_batch
    ids, nodes = timeline.rows(position, stop)
    if timeline.options.batching_method == "device_per_stream":
        # A unit already lies machine after machine, device after device.
        first = layout.rank * layout.batch_size
        own = ids[first : first + layout.batch_size]
    else:
        own = ids[rows_of_rank(nodes, layout.rank, layout.world_size)]
    return BatchRequest(position, stop, own, timeline.mixture.count_per_stream(ids))
