"""Guessing which documents the next rows need."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mosaic_dataloader.packing.lane import Lane


@dataclass
class DocumentRequest:
    """Documents to read.

    Attributes:
        lanes: Of each, the index of its lane among the rank's lanes.
        documents: Its number in the lane.
        expected: Tokens that each was expected to have.
        shards: Shard of each, once they are located.
        places: Place of each within its shard, likewise.
        streams: Stream of each, likewise.
    """

    lanes: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    expected: float = 0.0
    shards: list[int] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    streams: list[int] = field(default_factory=list)


class DocumentScheduler:
    """Decides which documents are read next, in the order in which rows are likely to need them.

    It walks over the rows to come, some way ahead of those that are made, and asks for as many
    documents as each needs if they are of mean length. What then turns out to be missing is asked
    for first.

    Args:
        lanes: The rank's lanes.
        first: Index of the lane whose row comes first.
        seq_len: Targets in a row, T.
        mean: Tokens that a document is expected to have, before any has been read.
        block: Documents in a request, more or less.
        ahead: Rows to plan ahead of those that were made, at most.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        first: int,
        seq_len: int,
        mean: float,
        block: int,
        ahead: int,
    ):
        self._lanes = lanes
        self._next = first
        self._seq_len = seq_len
        self._block = block
        self._ahead = ahead
        self._planned = 0
        # Counts as a few documents, so that the first ones do not mislead.
        self._documents, self._tokens = 8.0, 8.0 * max(1.0, mean)
        # Lanes that lack tokens, in the order in which that was found.
        self._short: dict[int, None] = {}
        # The first batch is to wait for little.
        self._first_block = 8

    @property
    def mean(self) -> float:
        """Tokens of a document."""
        return max(1.0, self._tokens / self._documents)

    def request(self) -> DocumentRequest:
        """What to read next; empty where enough is under way."""
        wanted = DocumentRequest(expected=self.mean)
        for index in self._short:
            lane = self._lanes[index]
            self._ask(wanted, index, 1 << min(lane.tries, 10))
            lane.tries += 1
        self._short.clear()
        idle = 0
        block = min(self._first_block, self._block)
        while len(wanted.lanes) < block and self._planned < self._ahead and idle < len(self._lanes):
            index = self._next
            lane = self._lanes[index]
            self._next = (index + 1) % len(self._lanes)
            if lane.exhausted:
                idle += 1
                continue
            idle = 0
            self._planned += 1
            lane.planned += 1
            lane.demand += self._seq_len
            if lane.supply < lane.demand:
                self._ask(wanted, index)
        self._first_block = min(2 * self._first_block, self._block)
        return wanted

    def arrived(self, request: DocumentRequest, lengths: Sequence[int]) -> None:
        """Note how long the documents of a request turned out to be; their lanes have them."""
        self._documents += len(lengths)
        self._tokens += sum(lengths)
        for index in dict.fromkeys(request.lanes):
            lane = self._lanes[index]
            if lane.supply >= lane.demand:
                lane.tries = 0
            else:
                self._add_short(index)

    def needed(self, index: int) -> None:
        """Note that the next row needs more of a lane than has arrived."""
        if not self._lanes[index].coming:
            self._add_short(index)

    def row_made(self, index: int) -> None:
        """Note that a row of a lane was made."""
        if self._lanes[index].planned:
            self._lanes[index].planned -= 1
            self._planned -= 1

    def lane_ended(self, index: int) -> None:
        """Note that a lane gives no more rows."""
        self._planned -= self._lanes[index].planned
        self._lanes[index].planned = 0

    def _add_short(self, index: int) -> None:
        if not self._lanes[index].exhausted:
            self._short[index] = None

    def _ask(self, wanted: DocumentRequest, index: int, times: int = 1) -> None:
        documents = self._lanes[index].ask(wanted.expected, times)
        wanted.lanes += [index] * len(documents)
        wanted.documents += documents
