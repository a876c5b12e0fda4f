"""Packed batches of one rank."""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.packing.lane import Lane, LanePosition, Segment
from mosaic_dataloader.packing.scheduler import DocumentRequest, DocumentScheduler
from mosaic_dataloader.reading.documents import Tokens
from mosaic_dataloader.reading.positions import Boundaries, joined_ends
from mosaic_dataloader.reading.rows import IGNORE_INDEX, fill_padding, fill_row


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
        ends: int64[K], where documents end (see `reading.positions`); None unless that was asked
            for.
    """

    rows: int
    inputs: Int64Array
    labels: Int64Array
    lanes: dict[int, LanePosition]
    targets: Int64Array
    segments: list[tuple[int, list[Segment]]]
    ends: Int64Array | None = None


# Documents that a scheduler asked for, and the token ids of each.
Arrival = tuple[DocumentRequest, list[Tokens]]


class LeftOut(NamedTuple):
    """Rows that are left out of training.

    Attributes:
        batch: The batch, from 0, in which they are passed over.
        row: The rank's rows of that batch that come before them.
        rows: How many, a multiple of the rank's lanes.
    """

    batch: int
    row: int
    rows: int


class RowPacker:
    """Makes rows of a rank's lanes, one after the other.

    Args:
        lanes: The rank's lanes, ascending.
        scheduler: Is notified of what is made, and what is missing.
        arrivals: What the scheduler asked for, in that order.
        first: Index of the lane whose row comes first.
        most_empty: More documents without a token, one after the other in a lane, are an error.
        segments: Note what rows are made of.
        boundaries: What is done about the documents of a row; None for nothing.
        left_out: Rows to leave out, in their order. Lanes that end leave out none.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        scheduler: DocumentScheduler,
        arrivals: Iterator[Arrival],
        *,
        batch_size: int,
        seq_len: int,
        pad_id: int,
        streams: int,
        first: int,
        most_empty: int,
        segments: bool = False,
        boundaries: Boundaries | None = None,
        left_out: Sequence[LeftOut] = (),
    ):
        self._boundaries = boundaries
        self._left_out = deque(left_out)
        self._number = 0
        self._lanes = lanes
        self._scheduler = scheduler
        self._arrivals = arrivals
        self._size, self._length = batch_size, seq_len
        self._pad_id, self._streams = pad_id, streams
        self._next = first
        self._most_empty = most_empty
        self._notes_segments = segments
        self._running = sum(not lane.ended for lane in lanes)

    def batches(self, *, drop_last: bool, at_least_one: bool) -> Iterator[PackedBatch]:
        """Batches to the end of the lanes, if they end.

        A last batch that is not full is padded, or left out with ``drop_last``. Where there is no
        row, ``at_least_one`` gives a batch of padding.
        """
        first = True
        while True:
            batch = self._batch()
            full = batch.rows == self._size
            if full or (batch.rows and not drop_last) or (first and at_least_one):
                yield batch
            if not full:
                return
            first = False

    def _batch(self) -> PackedBatch:
        size, length = self._size, self._length
        inputs, labels = np.empty((size, length), np.int64), np.empty((size, length), np.int64)
        after: dict[int, LanePosition] = {}
        targets = np.zeros(self._streams, np.int64)
        segments: list[tuple[int, list[Segment]]] = []
        ends: list[Int64Array] = []
        row = 0
        while self._running:
            while self._left_out and self._left_out[0][:2] == (self._number, row):
                self._pass_over(self._left_out.popleft().rows, after)
            if row == size:
                break
            index = self._next_running()
            lane = self._lanes[index]
            self._wait_for_row(index)
            count = min(lane.ready, length + 1)
            if count <= 1:
                # A single token has no target; it was the last one's, unless the lane has no other.
                self._running -= 1
                lane.finish()
                self._scheduler.lane_ended(index)
                after[lane.number] = lane.position
                continue
            if self._notes_segments or self._boundaries:
                own = lane.segments(count)
                segments.append((lane.number, own))
            fill_row(inputs, labels, row, lane.take(count, targets), self._pad_id)
            if self._boundaries:
                ends.append(document_ends(own))
                if self._boundaries.mask:
                    _mask(own, labels[row], targets)
            after[lane.number] = lane.position
            self._scheduler.row_made(index)
            self._next = (self._next + 1) % len(self._lanes)
            row += 1
        self._number += 1
        for rest in range(row, size):
            fill_padding(inputs, labels, rest, self._pad_id)
        return PackedBatch(
            row,
            inputs,
            labels,
            after,
            targets,
            segments if self._notes_segments else [],
            joined_ends(ends, range(row), length) if self._boundaries else None,
        )

    def _wait_for_row(self, index: int) -> None:
        """Receive documents until a lane has a whole row, or all that it ever has."""
        lane = self._lanes[index]
        while lane.ready <= self._length and not lane.complete:
            self._scheduler.needed(index)
            self._receive()

    def _pass_over(self, count: int, after: dict[int, LanePosition]) -> None:
        """Leave out rows, and note in ``after`` where their lanes continue.

        Where the next one begins is known only when their documents are read.
        """
        for _ in range(count):
            index = self._next
            self._wait_for_row(index)
            lane = self._lanes[index]
            lane.pass_over(self._length)
            after[lane.number] = lane.position
            self._scheduler.row_made(index)
            self._next = (self._next + 1) % len(self._lanes)

    def _next_running(self) -> int:
        """The lane whose row is due, or, if that has ended, the next one that has not."""
        index = self._next
        while self._lanes[index].ended:
            index = (index + 1) % len(self._lanes)
        return index

    def _receive(self) -> None:
        request, tokens = next(self._arrivals)
        for index, own, stream in zip(request.lanes, tokens, request.streams, strict=True):
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


def document_ends(segments: Sequence[Segment]) -> Int64Array:
    """Places, in a row, of the tokens that end a document."""
    return np.array(
        [s.begin + s.tokens - 1 for s in segments if s.offset + s.tokens == s.length], np.int64
    )


def _mask(segments: Sequence[Segment], labels: Int64Array, targets: Int64Array) -> None:
    """Ignore the labels that would predict the first token of the next document."""
    for segment in segments[1:]:
        # The row's first token is the input of its first label.
        labels[segment.begin - 1] = IGNORE_INDEX
        targets[segment.stream] -= 1
