"""Fetching shards before a lane's documents need them."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from mosaic_dataloader.shards.fetching import FetchingThreads
from mosaic_dataloader.shards.store import ShardStore

# A lane's place among the rank's lanes, and a document's number in it.
Document = tuple[int, int]
Shards = Callable[[Sequence[int], Sequence[int]], list[int]]


class LaneLookAhead:
    """Stays some documents ahead of what is read, in each lane.

    Args:
        store: Where shards are wanted.
        shards: Finds the shards of documents, by their lanes' slots and their numbers.
        starts: The first document that each lane reads, by slot; the sooner needed ones first.
        ends: The document at which each lane ends; None for never.
        per_lane: Documents to stay ahead, at least 1.
        most_shards: How many shards to hold ready at the most; None for no bound.
        threads: Shards fetched at a time.
    """

    def __init__(
        self,
        store: ShardStore,
        shards: Shards,
        starts: Mapping[int, int],
        ends: Sequence[int | None],
        per_lane: int,
        most_shards: int | None = None,
        threads: int = 8,
    ):
        self._shards = shards
        self._ends = ends
        self._per_lane = per_lane
        self._most_shards = most_shards
        # Wanted, and not allowed yet: too many shards are ready.
        self._waiting: dict[Document, int] = {}
        self._needed: Counter[int] = Counter()
        self._threads = FetchingThreads(store, threads)
        for ahead in range(per_lane):
            self._want([(slot, start + ahead) for slot, start in starts.items()])
        self._fetch()

    def read(self, slots: Sequence[int], documents: Sequence[int], shards: Sequence[int]) -> None:
        """Note that documents are read now, and fetch for those that come after them."""
        for slot, document, shard in zip(slots, documents, shards, strict=True):
            if self._waiting.pop((slot, document), None) is None:
                self._needed[shard] -= 1
                if self._needed[shard] <= 0:
                    del self._needed[shard]
        self._want([(s, d + self._per_lane) for s, d in zip(slots, documents, strict=True)])
        self._fetch()

    def close(self) -> None:
        """Stop; fetches that run are waited for, for some seconds, and others are dropped."""
        self._threads.close()

    def _want(self, wanted: list[Document]) -> None:
        wanted = [d for d in wanted if (end := self._ends[d[0]]) is None or d[1] < end]
        if wanted:
            slots, documents = zip(*wanted, strict=True)
            self._waiting.update(zip(wanted, self._shards(slots, documents), strict=True))

    def _fetch(self) -> None:
        while self._waiting:
            # Under a cache limit, fetching too far ahead would evict what is needed sooner.
            if self._most_shards is not None and len(self._needed) >= self._most_shards:
                return
            document = next(iter(self._waiting))
            shard = self._waiting.pop(document)
            self._needed[shard] += 1
            if self._needed[shard] == 1:
                self._threads.fetch(shard)
