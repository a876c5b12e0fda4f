"""Tokens of one lane, on their way into rows."""

from collections import deque
from typing import NamedTuple

import numpy as np

from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.packing.state import LanePosition
from mosaic_dataloader.reading.documents import Tokens
from mosaic_dataloader.reading.vocabulary import first_outside


class Piece(NamedTuple):
    """What a row holds of one document.

    Attributes:
        document: Number of the document within its lane.
        stream: Its stream.
        begin: Place in the row, of its T+1 tokens, at which the piece begins.
        offset: Place in the document of that token.
        tokens: Tokens of the piece.
        length: Tokens of the whole document.
    """

    document: int
    stream: int
    begin: int
    offset: int
    tokens: int
    length: int


class TokenOutside(Exception):
    """A row would hold a token id that the model does not embed.

    Args:
        document: Number of the document within its lane.
        token_id: The id.
    """

    def __init__(self, document: int, token_id: int):
        super().__init__(document, token_id)
        self.document = document
        self.token_id = token_id


class LaneBuffer:
    """Joins documents that arrive in order, and cuts rows from them.

    Args:
        position: Where the lane goes on; the first document that arrives is the one it names.
        streams: How many streams there are.
        vocab_size: Token ids that the model embeds; None if that is not known.
    """

    def __init__(self, position: LanePosition, streams: int, vocab_size: int | None = None):
        self._vocab_size = vocab_size
        self._document = position.document
        # Tokens of the first document that lie behind; it may not have arrived yet.
        self._offset = position.offset
        self._finished = np.array(position.finished or [0] * streams, np.int64)
        self._parts: deque[tuple[Tokens, int]] = deque()
        self._ready = -position.offset

    @property
    def ready(self) -> int:
        """Tokens that can be taken; not positive until the unfinished document has arrived."""
        return self._ready

    @property
    def arrived(self) -> int:
        """The number of the document that is to arrive next."""
        return self._document + len(self._parts)

    @property
    def position(self) -> LanePosition:
        """Where the lane goes on after the rows taken so far."""
        return LanePosition(self._document, self._offset, tuple(self._finished.tolist()))

    def append(self, tokens: Tokens, stream: int) -> None:
        """Take in the next document."""
        self._parts.append((tokens, stream))
        self._ready += len(tokens)

    def damaged(self) -> bool:
        """Whether the unfinished document has arrived and is shorter than it was."""
        return self._offset > 0 and bool(self._parts) and len(self._parts[0][0]) <= self._offset

    def take(self, count: int, targets: Int64Array) -> Tokens:
        """The next tokens; the last of them stays the first of what is taken next.

        Args:
            count: How many; at least 2, and no more than are ready.
            targets: int64[streams], to which all of them but the first are added, each to the
                stream of its document: the first one is no target here.

        Returns:
            integer[count].

        Raises:
            TokenOutside: One of them is negative or beyond the vocabulary. Nothing is taken.
        """
        pieces: list[Tokens] = []
        missing, offset = count, self._offset
        for tokens, stream in self._parts:
            piece = tokens[offset : offset + missing]
            pieces.append(piece)
            # The first document may be empty.
            targets[stream] += len(piece) - (missing == count and len(piece) > 0)
            missing -= len(piece)
            offset = 0
            if not missing:
                break
        taken = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        bad = first_outside(taken, self._vocab_size)
        if bad >= 0:
            owner = next(p for p in self.pieces(count) if bad < p.begin + p.tokens)
            raise TokenOutside(owner.document, int(taken[bad]))
        self._advance(count - 1)
        return taken

    def pieces(self, count: int) -> list[Piece]:
        """What `take` would take, document by document; empty ones give none.

        Args:
            count: As for `take`.
        """
        found: list[Piece] = []
        begin, offset = 0, self._offset
        for number, (tokens, stream) in enumerate(self._parts, self._document):
            own = min(len(tokens) - offset, count - begin)
            if own:
                found.append(Piece(number, stream, begin, offset, own, len(tokens)))
            begin += own
            offset = 0
            if begin == count:
                break
        return found

    def finish(self) -> None:
        """Leave what is ready: the epoch ends here, and the lane goes on behind it."""
        while self._parts:
            self._drop()
        self._offset = self._ready = 0

    def _advance(self, count: int) -> None:
        self._ready -= count
        self._offset += count
        while self._offset >= len(self._parts[0][0]):
            self._offset -= len(self._parts[0][0])
            self._drop()

    def _drop(self) -> None:
        _, stream = self._parts.popleft()
        self._finished[stream] += 1
        self._document += 1
