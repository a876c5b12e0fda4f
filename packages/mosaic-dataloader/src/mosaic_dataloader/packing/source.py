"""From a loader's position to packed batches: plan, reading and joining put together."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.packing.batches import Arrival, LaneRows, PackedBatch, Shape
from mosaic_dataloader.packing.bookkeeping import PackedBookkeeping
from mosaic_dataloader.packing.plan import DocumentRequest, Plan
from mosaic_dataloader.reading.document_length import mean_tokens
from mosaic_dataloader.reading.documents import Tokens, separated
from mosaic_dataloader.reading.vocabulary import outside_error
from mosaic_dataloader.reading.workers import WorkerPool, shards_held_ready
from mosaic_dataloader.storage.lookahead import LaneLookAhead

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset

# Tokens in a request, more or less: enough documents for all of a tokenizer's threads, and few
# enough that a batch does not wait for long.
_BLOCK_TOKENS = 1 << 17
# Stored tokens are copied one document at a time; a request costs as much as some of them.
_FEWEST, _MOST = 8, 512


@dataclass(frozen=True)
class Pass:
    """What an iteration reads.

    Attributes:
        epoch: The epoch at which it ends, counted from the order's beginning; None for no end.
        drop_last: Leave out a last batch that is not full; otherwise it is padded.
        at_least_one: Give a batch of padding where there is no row at all.
    """

    epoch: int | None = None
    drop_last: bool = False
    at_least_one: bool = False


class Located(NamedTuple):
    """A request with the places of its documents.

    Attributes:
        request: What the plan asked for.
        shards: Shard of each document.
        places: Place of each within its shard.
        streams: Stream of each.
    """

    request: DocumentRequest
    shards: list[int]
    places: list[int]
    streams: list[int]


def packed_batches(
    dataset: "StreamingTextDataset",
    books: PackedBookkeeping,
    extent: Pass,
    *,
    batch_size: int,
    predownload: int,
    workers: WorkerPool | None,
    under_way: int,
    pieces: bool = False,
) -> Iterator[PackedBatch]:
    """Packed batches of a rank from where its lanes are.

    Called in the main thread, where workers are started; the batches are then made wherever the
    iterator is used.

    Args:
        dataset: The data.
        books: Where the lanes are; not changed.
        extent: What the iteration reads.
        batch_size: Rows of a batch.
        predownload: Documents to fetch shards ahead for, over all lanes of the rank.
        workers: Worker processes; None to read where the iterator is used.
        under_way: Requests that the workers together have under way.
        pieces: Note what rows are made of.
    """
    lanes, starts = books.own_lanes, books.positions()
    ends = [
        None if extent.epoch is None else books.lanes.first_of_epoch(lane, extent.epoch + 1)
        for lane in lanes
    ]
    slot = books.first_slot
    mean = max(1.0, mean_tokens(dataset))
    block = int(min(_MOST, max(_FEWEST, _BLOCK_TOKENS / mean)))
    block_rows = int(block * mean) // dataset.seq_len + 1
    plan = Plan(
        [start.document for start in starts],
        [start.offset for start in starts],
        ends,
        slot=slot,
        seq_len=dataset.seq_len,
        mean=mean,
        block=block,
        # Enough for what workers have under way, and as much again for those that wait for it.
        ahead=max(2 * batch_size, 2 * (under_way + 1) * block_rows),
    )

    def outside(lane: int, document: int, token_id: int) -> MosaicDataError:
        ids = books.locate(np.array([lane], np.int64), np.array([document], np.int64))
        shards, places = dataset.mixture.locate(ids)
        return outside_error(
            dataset.streams,
            dataset.mixture,
            dataset.vocab_size,
            int(shards[0]),
            int(places[0]),
            token_id,
        )

    rows = LaneRows(
        lanes,
        starts,
        ends,
        slot=slot,
        streams=len(dataset.mixture.streams),
        shape=Shape(batch_size, dataset.seq_len, dataset.pad_id, dataset.vocab_size),
        most_empty=dataset.mixture.epoch_samples,
        outside=outside,
        pieces=pieces,
        boundaries=dataset.boundaries,
    )
    requests = _Requests(dataset, books, plan)

    def look_ahead() -> LaneLookAhead | None:
        if not dataset.store.fetches or not predownload:
            return None
        order = [(slot + n) % len(lanes) for n in range(len(lanes))]
        return LaneLookAhead(
            dataset.store,
            requests.shards_of,
            {n: starts[n].document for n in order},
            ends,
            per_lane=-(-predownload // len(lanes)),
            most_shards=shards_held_ready(dataset),
        )

    if workers is None:
        documents = _read_here(dataset, requests)
    else:
        # The workers start here, and not when the first batch is asked for.
        documents = _read_by(workers.answers(iter(requests)), requests)
    return _batches(rows, plan, documents, extent, requests, look_ahead)


def _batches(
    rows: LaneRows,
    plan: Plan,
    documents: Iterator[Arrival],
    extent: Pass,
    requests: "_Requests",
    look_ahead: Callable[[], LaneLookAhead | None],
) -> Iterator[PackedBatch]:
    # Its threads start here, after the workers: a process is forked while nothing else runs.
    ahead = requests.look_ahead = look_ahead()
    try:
        yield from rows.batches(
            plan, documents, drop_last=extent.drop_last, at_least_one=extent.at_least_one
        )
    finally:
        if ahead:
            ahead.close()


class _Requests:
    """What a plan asks for, one request after the other, each with the places of its documents."""

    def __init__(self, dataset: "StreamingTextDataset", books: PackedBookkeeping, plan: Plan):
        self._mixture = dataset.mixture
        self._books = books
        self._plan = plan
        self._lanes = np.array(books.own_lanes, np.int64)
        # Made, and not yet told to the look-ahead.
        self._made: deque[Located] = deque()
        self.look_ahead: LaneLookAhead | None = None

    def __iter__(self) -> Iterator[Located]:
        while True:
            request = self._plan.request()
            ids = self._ids(request.slots, request.documents)
            shards, places = (part.tolist() for part in self._mixture.locate(ids))
            streams = self._mixture.stream_of(ids).tolist()
            located = Located(request, shards, places, streams)
            self._made.append(located)
            yield located

    def tell(self) -> None:
        """Tell the look-ahead what was asked for."""
        while self._made:
            located = self._made.popleft()
            if self.look_ahead:
                request = located.request
                self.look_ahead.read(request.slots, request.documents, located.shards)

    def shards_of(self, slots: Sequence[int], documents: Sequence[int]) -> list[int]:
        """Shards of documents, by their lanes' slots and their numbers."""
        shards: list[int] = self._mixture.locate(self._ids(slots, documents))[0].tolist()
        return shards

    def _ids(self, slots: Sequence[int], documents: Sequence[int]) -> Int64Array:
        own = self._lanes[np.array(slots, np.int64)]
        return self._books.locate(own, np.array(documents, np.int64))


def _read_here(dataset: "StreamingTextDataset", requests: _Requests) -> Iterator[Arrival]:
    for located in requests:
        requests.tell()
        tokens = dataset.documents.read(located.shards, located.places)
        yield Arrival(located.request, tokens, located.streams)


def _read_by(
    answers: Iterator[tuple[Located, tuple[Tokens, Int64Array]]], requests: _Requests
) -> Iterator[Arrival]:
    requests.tell()
    for located, answer in answers:
        requests.tell()
        yield Arrival(located.request, separated(*answer), located.streams)
