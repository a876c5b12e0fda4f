"""One lane of a rank: its documents on their way into rows."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.reading.documents import Tokens
from mosaic_dataloader.reading.vocabulary import first_outside

# No lane is asked for more documents than this at once, however short the last ones were.
_MOST = 1024


@dataclass(frozen=True)
class LanePosition:
    """Where a lane continues.

    Attributes:
        document: Number, within the lane, of its first unfinished document.
        offset: Place in that document of the token that the next row begins with.
        finished: Documents already read to their ends, by stream; empty for none at all.
    """

    document: int = 0
    offset: int = 0
    finished: tuple[int, ...] = ()


class Segment(NamedTuple):
    """What a row holds of one document.

    Attributes:
        document: Number of the document within its lane.
        stream: Its stream.
        begin: Place in the row, of its T+1 tokens, at which the segment begins.
        offset: Place in the document of that token.
        tokens: Tokens of the segment.
        length: Tokens of the whole document.
    """

    document: int
    stream: int
    begin: int
    offset: int
    tokens: int
    length: int


class Lane:
    """Joins the documents of one lane, cuts rows from them, and forecasts what it will need.

    Args:
        position: Where it continues; the first document that arrives is the one it names.
        end: The document at which it ends; None for never.
        outside: Makes the error of a lane, the number of a document in it, and one of its token ids
            that the model does not embed.

    Attributes:
        ready: Tokens that can be taken; not positive until the unfinished document has arrived.
        ended: Whether the lane gives no more rows.
        empty: Documents without a token that arrived last, one after another.
        next_document: The document to ask for next.
        supply: Tokens, from the lane's position on, that have arrived or are expected.
        demand: Tokens that the rows planned so far need.
        planned: Rows planned that were not made.
        coming: Documents asked for that have not arrived.
        tries: How many times in a row too few were asked for.
    """

    def __init__(
        self,
        number: int,
        position: LanePosition,
        end: int | None,
        streams: int,
        outside: Callable[[int, int, int], MosaicDataError],
        vocab_size: int | None,
    ):
        self.number = number
        self.end = end
        self._outside = outside
        self._vocab_size = vocab_size
        self._document = position.document
        # Tokens of the first document that are already read; it may not have arrived yet.
        self._offset = position.offset
        self._finished = np.array(position.finished or [0] * streams, np.int64)
        self._parts: deque[tuple[Tokens, int]] = deque()
        self.ready = -position.offset
        self.ended = self.complete
        self.empty = 0
        self.next_document = position.document
        self.supply = -float(position.offset)
        self.demand = 1
        self.planned = self.coming = self.tries = 0

    @property
    def position(self) -> LanePosition:
        """Where the lane continues after the rows taken so far."""
        return LanePosition(self._document, self._offset, tuple(self._finished.tolist()))

    @property
    def complete(self) -> bool:
        """Whether all of its documents have arrived."""
        return self.end is not None and self._document + len(self._parts) >= self.end

    @property
    def exhausted(self) -> bool:
        """Whether all of its documents were asked for."""
        return self.end is not None and self.next_document >= self.end

    def ask(self, mean: float, times: int = 1) -> range:
        """The documents to read for what is missing, at ``mean`` tokens each; ``times`` as many."""
        missing = max(1.0, self.demand - self.supply)
        count = min(_MOST, max(1, -int(-missing // mean)) * times)
        if self.end is not None:
            count = min(count, self.end - self.next_document)
        first = self.next_document
        self.next_document += count
        self.coming += count
        self.supply += count * mean
        return range(first, first + count)

    def append(self, tokens: Tokens, stream: int, expected: float) -> None:
        """Take in the next document, which was expected to have so many tokens."""
        self._parts.append((tokens, stream))
        self.ready += len(tokens)
        self.supply += len(tokens) - expected
        self.coming -= 1
        self.empty = 0 if len(tokens) else self.empty + 1

    def damaged(self) -> bool:
        """Whether the unfinished document has arrived and is shorter than it was."""
        return self._offset > 0 and bool(self._parts) and len(self._parts[0][0]) <= self._offset

    def take(self, count: int, targets: Int64Array) -> Tokens:
        """The next tokens; the last of them stays the first of what is taken next.

        Args:
            count: How many; at least 2, and no more than are ready.
            targets: int64[streams], to which all of them but the first are added, each to the
                stream of its document: the first one is not a target here.

        Returns:
            integer[count].

        Raises:
            MosaicDataError: One of them is negative or beyond the vocabulary.
        """
        parts: list[Tokens] = []
        missing, offset = count, self._offset
        for tokens, stream in self._parts:
            part = tokens[offset : offset + missing]
            parts.append(part)
            # The first document may be empty.
            targets[stream] += len(part) - (missing == count and len(part) > 0)
            missing -= len(part)
            offset = 0
            if not missing:
                break
        taken = parts[0] if len(parts) == 1 else np.concatenate(parts)
        bad = first_outside(taken, self._vocab_size)
        if bad >= 0:
            owner = next(s for s in self.segments(count) if bad < s.begin + s.tokens)
            raise self._outside(self.number, owner.document, int(taken[bad]))
        self._advance(count - 1)
        return taken

    def segments(self, count: int) -> list[Segment]:
        """What `take` would take, document by document; empty ones give none."""
        found: list[Segment] = []
        begin, offset = 0, self._offset
        for number, (tokens, stream) in enumerate(self._parts, self._document):
            own = min(len(tokens) - offset, count - begin)
            if own:
                found.append(Segment(number, stream, begin, offset, own, len(tokens)))
            begin += own
            offset = 0
            if begin == count:
                break
        return found

    def pass_over(self, count: int) -> None:
        """Leave out the next tokens, fewer than are ready, and count no document as finished."""
        finished = self._finished.copy()
        self._advance(count)
        self._finished = finished

    def finish(self) -> None:
        """Leave what is ready: the epoch ends here, and the lane continues after it."""
        self.ended = True
        while self._parts:
            self._drop()
        self._offset = self.ready = 0

    def _advance(self, count: int) -> None:
        self.ready -= count
        self._offset += count
        while self._offset >= len(self._parts[0][0]):
            self._offset -= len(self._parts[0][0])
            self._drop()

    def _drop(self) -> None:
        _, stream = self._parts.popleft()
        self._finished[stream] += 1
        self._document += 1
