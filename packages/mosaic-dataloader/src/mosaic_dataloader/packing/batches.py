"""Packed batches of one rank."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.packing.buffers import LaneBuffer, Piece, TokenOutside
from mosaic_dataloader.packing.plan import DocumentRequest, Plan
from mosaic_dataloader.packing.state import LanePosition
from mosaic_dataloader.reading.documents import Tokens
from mosaic_dataloader.reading.positions import Boundaries, joined_ends
from mosaic_dataloader.reading.rows import IGNORE_INDEX, fill_padding, fill_row


@dataclass(frozen=True)
class PackedBatch:
    """One batch of one rank, and what is true once it is handed out.

    Attributes:
        rows: Rows of the rank that are no padding.
        inputs: int64[B, T].
        labels: int64[B, T].
        lanes: Where each lane that has a row in it goes on, by lane.
        targets: int64[streams], the labels that are not ignored, by the streams of their documents.
        pieces: Of each of these rows, its lane and what it holds of which documents; empty unless
            that was asked for.
        ends: int64[K], where documents end (see `reading.positions`); None unless that was asked
            for.
    """

    rows: int
    inputs: Int64Array
    labels: Int64Array
    lanes: dict[int, LanePosition]
    targets: Int64Array
    pieces: list[tuple[int, list[Piece]]]
    ends: Int64Array | None = None


class Arrival(NamedTuple):
    """Documents that a plan asked for.

    Attributes:
        request: What it asked for.
        tokens: Token ids of each document.
        streams: Stream of each.
    """

    request: DocumentRequest
    tokens: list[Tokens]
    streams: list[int]


@dataclass(frozen=True)
class Shape:
    """Sizes and padding of a batch, and the token ids that the model embeds."""

    batch_size: int
    seq_len: int
    pad_id: int
    vocab_size: int | None = None


class LaneRows:
    """Makes rows of a rank's lanes, one after the other.

    Args:
        lanes: The rank's lanes, ascending.
        starts: Where each goes on.
        ends: The document at which each ends; None for never.
        slot: Place, among the lanes, of the one whose row comes first.
        streams: How many streams there are.
        shape: Of a batch.
        most_empty: Documents without a token, one after the other in a lane, with which the lane
            is given up.
        outside: Makes an error of a lane, the number of a document in it, and one of its token ids
            that the model does not embed.
        pieces: Note what rows are made of.
        boundaries: What is done about the documents of a row; None for nothing.
    """

    def __init__(
        self,
        lanes: Sequence[int],
        starts: Sequence[LanePosition],
        ends: Sequence[int | None],
        *,
        slot: int,
        streams: int,
        shape: Shape,
        most_empty: int,
        outside: Callable[[int, int, int], MosaicDataError],
        pieces: bool = False,
        boundaries: Boundaries | None = None,
    ):
        self._boundaries = boundaries
        self._lanes = lanes
        self._buffers = [LaneBuffer(start, streams, shape.vocab_size) for start in starts]
        self._outside = outside
        self._ends = ends
        self._slot = slot
        self._streams = streams
        self._shape = shape
        self._most_empty = most_empty
        self._notes_pieces = pieces
        self._empty = [0] * len(lanes)
        self._live = {
            n
            for n, (b, end) in enumerate(zip(self._buffers, ends, strict=True))
            if end is None or b.arrived < end
        }

    def batches(
        self, plan: Plan, documents: Iterator[Arrival], *, drop_last: bool, at_least_one: bool
    ) -> Iterator[PackedBatch]:
        """Batches to the end of the lanes, if they end.

        Args:
            plan: Knows what is made.
            documents: What it asked for, in that order.
            drop_last: Leave out a last batch that is not full; otherwise it is padded.
            at_least_one: Give a batch of padding where there is no row at all.
        """
        first = True
        while True:
            batch = self._batch(plan, documents)
            full = batch.rows == self._shape.batch_size
            if full or (batch.rows and not drop_last) or (first and at_least_one):
                yield batch
            if not full:
                return
            first = False

    def _batch(self, plan: Plan, documents: Iterator[Arrival]) -> PackedBatch:
        size, length = self._shape.batch_size, self._shape.seq_len
        inputs, labels = np.empty((size, length), np.int64), np.empty((size, length), np.int64)
        after: dict[int, LanePosition] = {}
        targets = np.zeros(self._streams, np.int64)
        pieces: list[tuple[int, list[Piece]]] = []
        ends: list[Int64Array] = []
        row = 0
        while row < size and self._live:
            slot = self._next_live()
            buffer = self._buffers[slot]
            while buffer.ready <= length and not self._complete(slot):
                plan.wait_for(slot)
                self._receive(plan, documents)
            count = min(buffer.ready, length + 1)
            if count <= 1:
                # A single token has no target; it was the last one's, unless the lane has no other.
                self._live.discard(slot)
                buffer.finish()
                plan.finished(slot)
                after[self._lanes[slot]] = buffer.position
                continue
            if self._notes_pieces or self._boundaries:
                own = buffer.pieces(count)
                pieces.append((self._lanes[slot], own))
            try:
                tokens = buffer.take(count, targets)
            except TokenOutside as bad:
                lane = self._lanes[slot]
                raise self._outside(lane, bad.document, bad.token_id) from bad
            fill_row(inputs, labels, row, tokens, self._shape.pad_id)
            if self._boundaries:
                ends.append(document_ends(own))
                if self._boundaries.mask:
                    _mask(own, labels[row], targets)
            after[self._lanes[slot]] = buffer.position
            plan.made(slot)
            self._slot = (self._slot + 1) % len(self._lanes)
            row += 1
        for rest in range(row, size):
            fill_padding(inputs, labels, rest, self._shape.pad_id)
        return PackedBatch(
            row,
            inputs,
            labels,
            after,
            targets,
            pieces if self._notes_pieces else [],
            joined_ends(ends, range(row), length) if self._boundaries else None,
        )

    def _next_live(self) -> int:
        """The lane whose turn it is, or, if that has ended, the next one that has not."""
        slot = self._slot
        while slot not in self._live:
            slot = (slot + 1) % len(self._lanes)
        return slot

    def _complete(self, slot: int) -> bool:
        end = self._ends[slot]
        return end is not None and self._buffers[slot].arrived >= end

    def _receive(self, plan: Plan, documents: Iterator[Arrival]) -> None:
        request, tokens, streams = next(documents)
        for slot, own, stream in zip(request.slots, tokens, streams, strict=True):
            buffer = self._buffers[slot]
            buffer.append(own, stream)
            if buffer.damaged():
                raise MosaicDataError(
                    f"lane {self._lanes[slot]}: its unfinished document is shorter than it was; "
                    f"the data or the tokenizer changed"
                )
            self._empty[slot] = 0 if len(own) else self._empty[slot] + 1
            if self._empty[slot] > self._most_empty:
                raise MosaicDataError(
                    f"packing: {self._empty[slot]:,} documents in a row are empty (lane "
                    f"{self._lanes[slot]}); remove empty documents, or shuffle"
                )
        plan.arrived(request, [len(own) for own in tokens])


def document_ends(pieces: Sequence[Piece]) -> Int64Array:
    """Places, in a row, of the tokens that end a document."""
    return np.array(
        [p.begin + p.tokens - 1 for p in pieces if p.offset + p.tokens == p.length], np.int64
    )


def _mask(pieces: Sequence[Piece], labels: Int64Array, targets: Int64Array) -> None:
    """Ignore the labels that would predict the first token of the next document."""
    for piece in pieces[1:]:
        # The row's first token is the input of its first label.
        labels[piece.begin - 1] = IGNORE_INDEX
        targets[piece.stream] -= 1
