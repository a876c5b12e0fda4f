"""Guessing which documents the next rows need."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

# No lane is asked for more documents than this at once, however short the last ones were.
_MOST = 1024


@dataclass
class _Lane:
    """What is known and expected of one lane.

    Attributes:
        next: The document to ask for next.
        end: The document at which the lane ends; None for never.
        supply: Tokens, from where the lane went on, that have arrived or are expected.
        demand: Tokens that the rows planned so far need.
        planned: Rows planned that were not handed out.
        coming: Documents asked for that have not arrived.
        tries: How many times in a row too few were asked for.
    """

    next: int
    end: int | None
    supply: float
    demand: int = 1
    planned: int = 0
    coming: int = 0
    tries: int = 0

    @property
    def ended(self) -> bool:
        return self.end is not None and self.next >= self.end


@dataclass
class DocumentRequest:
    """Documents to read.

    Attributes:
        slots: Of each, the place of its lane among the rank's lanes.
        documents: Its number in the lane.
        expected: Tokens that each was expected to have.
    """

    slots: list[int] = field(default_factory=list)
    documents: list[int] = field(default_factory=list)
    expected: float = 0.0


class Plan:
    """Decides which documents are read next, in the order in which rows are likely to need them.

    It walks over the rows to come, some way ahead of those that are handed out, and asks for as
    many documents as each needs if they are of mean length. What then turns out to be missing is
    asked for first.

    Args:
        next_documents: For each of the rank's lanes, the first document to read.
        offsets: Tokens of that document that lie behind.
        ends: The document at which each lane ends; None for never.
        slot: Place of the lane whose row comes first.
        seq_len: Targets in a row, T.
        mean: Tokens that a document is expected to have, before any has been read.
        block: Documents in a request, more or less.
        ahead: Rows to plan ahead of those handed out, at most.
    """

    def __init__(
        self,
        next_documents: Sequence[int],
        offsets: Sequence[int],
        ends: Sequence[int | None],
        *,
        slot: int,
        seq_len: int,
        mean: float,
        block: int,
        ahead: int,
    ):
        self._lanes = [
            _Lane(n, end, -float(offset))
            for n, offset, end in zip(next_documents, offsets, ends, strict=True)
        ]
        self._slot = slot
        self._seq_len = seq_len
        self._block = block
        self._ahead = ahead
        self._rows = 0
        # Counts as a few documents, so that the first ones do not mislead.
        self._documents, self._tokens = 8.0, 8.0 * max(1.0, mean)
        self._short: deque[int] = deque()
        self._is_short: set[int] = set()
        # The first batch is to wait for little.
        self._first = 8

    @property
    def mean(self) -> float:
        """Tokens of a document."""
        return max(1.0, self._tokens / self._documents)

    def request(self) -> DocumentRequest:
        """What to read next; empty where enough is under way."""
        wanted = DocumentRequest(expected=self.mean)
        while self._short:
            slot = self._short.popleft()
            self._is_short.discard(slot)
            lane = self._lanes[slot]
            self._ask(wanted, slot, 1 << min(lane.tries, 10))
            lane.tries += 1
        idle = 0
        block = min(self._first, self._block)
        while len(wanted.slots) < block and self._rows < self._ahead and idle < len(self._lanes):
            slot = self._slot
            self._slot = (slot + 1) % len(self._lanes)
            if self._lanes[slot].ended:
                idle += 1
                continue
            idle = 0
            self._rows += 1
            self._lanes[slot].planned += 1
            self._lanes[slot].demand += self._seq_len
            if self._lanes[slot].supply < self._lanes[slot].demand:
                self._ask(wanted, slot, 1)
        self._first = min(2 * self._first, self._block)
        return wanted

    def arrived(self, request: DocumentRequest, lengths: Sequence[int]) -> None:
        """Note how long the documents of a request turned out to be."""
        for slot, length in zip(request.slots, lengths, strict=True):
            lane = self._lanes[slot]
            lane.supply += length - request.expected
            lane.coming -= 1
            self._documents += 1
            self._tokens += length
        for slot in dict.fromkeys(request.slots):
            lane = self._lanes[slot]
            if lane.supply >= lane.demand:
                lane.tries = 0
            else:
                self._is_wanting(slot)

    def wait_for(self, slot: int) -> None:
        """Note that the next row needs more of a lane than has arrived."""
        if not self._lanes[slot].coming:
            self._is_wanting(slot)

    def made(self, slot: int) -> None:
        """Note that a row of a lane was made."""
        if self._lanes[slot].planned:
            self._lanes[slot].planned -= 1
            self._rows -= 1

    def finished(self, slot: int) -> None:
        """Note that a lane gives no more rows."""
        self._rows -= self._lanes[slot].planned
        self._lanes[slot].planned = 0

    def _is_wanting(self, slot: int) -> None:
        if not self._lanes[slot].ended and slot not in self._is_short:
            self._is_short.add(slot)
            self._short.append(slot)

    def _ask(self, wanted: DocumentRequest, slot: int, times: int) -> None:
        lane = self._lanes[slot]
        missing = max(1.0, lane.demand - lane.supply)
        count = min(_MOST, max(1, -int(-missing // self.mean)) * times)
        if lane.end is not None:
            count = min(count, lane.end - lane.next)
        wanted.slots += [slot] * count
        wanted.documents += range(lane.next, lane.next + count)
        lane.next += count
        lane.coming += count
        lane.supply += count * wanted.expected
