"""Packed batches of one rank."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.packing.lane import Lane, LanePosition, Segment, TokenOutside
from mosaic_dataloader.packing.scheduler import DocumentRequest, DocumentScheduler
from mosaic_dataloader.reading.documents import Tokens
from mosaic_dataloader.reading.rows import fill_padding, fill_row


@dataclass(frozen=True)
class PackedBatch:
    """One batch of one rank, and what is true once it is handed out.

    Attributes:
        rows: Rows of the rank that are not padding.
        inputs: int64[B, T].
        labels: int64[B, T].
        lanes: Where each lane that has a row in it continues, by lane.
        targets: int64[streams], the labels that are not ignored, by the streams of their documents.
        segments: Of each of these rows, its lane and what it holds of which documents; empty unless
            that was asked for.
    """

    rows: int
    inputs: Int64Array
    labels: Int64Array
    lanes: dict[int, LanePosition]
    targets: Int64Array
    segments: list[tuple[int, list[Segment]]]


class Arrival(NamedTuple):
    """Documents that a scheduler asked for.

    Attributes:
        request: What it asked for.
        tokens: Token ids of each document.
        streams: Stream of each.
    """

    request: DocumentRequest
    tokens: list[Tokens]
    streams: list[int]


@dataclass(frozen=True)
class BatchSpec:
    """Sizes and padding of a batch."""

    batch_size: int
    seq_len: int
    pad_id: int
    streams: int


class RowPacker:
    """Makes rows of a rank's lanes, one after the other.

    Args:
        lanes: The rank's lanes, ascending.
        scheduler: Is told what is made, and what is missing.
        arrivals: What the scheduler asked for, in that order.
        spec: Of a batch.
        first: Index of the lane whose row comes first.
        most_empty: Documents without a token, one after the other in a lane, with which the lane
            is given up.
        outside: Makes an error of a lane, the number of a document in it, and one of its token ids
            that the model does not embed.
        segments: Note what rows are made of.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        scheduler: DocumentScheduler,
        arrivals: Iterator[Arrival],
        spec: BatchSpec,
        *,
        first: int,
        most_empty: int,
        outside: Callable[[int, int, int], MosaicDataError],
        segments: bool = False,
    ):
        self._lanes = lanes
        self._scheduler = scheduler
        self._arrivals = arrivals
        self._spec = spec
        self._next = first
        self._most_empty = most_empty
        self._outside = outside
        self._notes_segments = segments
        self._running = sum(not lane.ended for lane in lanes)

    def batches(self, *, drop_last: bool, at_least_one: bool) -> Iterator[PackedBatch]:
        """Batches to the end of the lanes, if they end.

        Args:
            drop_last: Leave out a last batch that is not full; otherwise it is padded.
            at_least_one: Give a batch of padding where there is no row at all.
        """
        first = True
        while True:
            batch = self._batch()
            full = batch.rows == self._spec.batch_size
            if full or (batch.rows and not drop_last) or (first and at_least_one):
                yield batch
            if not full:
                return
            first = False

    def _batch(self) -> PackedBatch:
        size, length = self._spec.batch_size, self._spec.seq_len
        inputs, labels = np.empty((size, length), np.int64), np.empty((size, length), np.int64)
        after: dict[int, LanePosition] = {}
        targets = np.zeros(self._spec.streams, np.int64)
        segments: list[tuple[int, list[Segment]]] = []
        row = 0
        while row < size and self._running:
            index = self._next_running()
            lane = self._lanes[index]
            while lane.ready <= length and not lane.complete:
                self._scheduler.needed(index)
                self._receive()
            count = min(lane.ready, length + 1)
            if count <= 1:
                # A single token has no target; it was the last one's, unless the lane has no other.
                self._running -= 1
                lane.finish()
                self._scheduler.lane_ended(index)
                after[lane.number] = lane.position
                continue
            if self._notes_segments:
                segments.append((lane.number, lane.segments(count)))
            try:
                tokens = lane.take(count, targets)
            except TokenOutside as bad:
                raise self._outside(lane.number, bad.document, bad.token_id) from bad
            fill_row(inputs, labels, row, tokens, self._spec.pad_id)
            after[lane.number] = lane.position
            self._scheduler.row_made(index)
            self._next = (self._next + 1) % len(self._lanes)
            row += 1
        for rest in range(row, size):
            fill_padding(inputs, labels, rest, self._spec.pad_id)
        return PackedBatch(row, inputs, labels, after, targets, segments)

    def _next_running(self) -> int:
        """The lane whose row is due, or, if that has ended, the next one that has not."""
        index = self._next
        while self._lanes[index].ended:
            index = (index + 1) % len(self._lanes)
        return index

    def _receive(self) -> None:
        request, tokens, streams = next(self._arrivals)
        for index, own, stream in zip(request.lanes, tokens, streams, strict=True):
            lane = self._lanes[index]
            lane.append(own, stream, request.expected)
            if lane.damaged():
                raise MosaicDataError(
                    f"lane {lane.number}: its unfinished document is shorter than it was; the data "
                    f"or the tokenizer changed"
                )
            if lane.empty > self._most_empty:
                raise MosaicDataError(
                    f"packing: {lane.empty:,} documents in a row are empty (lane {lane.number}); "
                    f"remove empty documents, or shuffle"
                )
        self._scheduler.arrived(request, [len(own) for own in tokens])
