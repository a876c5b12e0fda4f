"""Fetching shards before they are needed."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.batches import BatchRequest
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.storage.store import ShardStore
from mosaic_dataloader.util.threads import JobThreads

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
                self._threads.fetch(shard, new=True)


logger = logging.getLogger(__name__)


class FetchingThreads:
    """Fetches shards in the order in which they are asked for.

    Args:
        store: Where they are wanted.
        threads: Shards fetched at a time: a store answers late, but many at once.
    """

    def __init__(self, store: ShardStore, threads: int):
        self._store = store
        self._pool = JobThreads(threads, "mosaic-fetch")
        # Only ever added to by the reader's thread and taken from by the pool's: no lock needed.
        self._under_way: set[int] = set()

    def fetch(self, shard: int, *, new: bool) -> None:
        """Have a shard fetched, unless it is on its way.

        Args:
            shard: Which shard.
            new: Whether it was not needed until now, so that finding it in the cache is a hit.
        """
        if shard not in self._under_way:
            self._under_way.add(shard)
            self._pool.submit(partial(self._ensure, shard, new))

    def close(self) -> None:
        """Stop; fetches that run are waited for, for some seconds, and others are dropped."""
        self._pool.close()

    def _ensure(self, shard: int, new: bool) -> None:
        try:
            self._store.ensure(shard, new=new)
        except MosaicDataError as error:
            # The reader meets the same fault when it gets there, and raises it.
            logger.warning("fetching ahead failed: %s", error)
        finally:
            self._under_way.discard(shard)


class LookAhead:
    """Walks the same requests as the reader, some way in front of it.

    Args:
        store: Where shards are wanted.
        mixture: The data.
        requests: This rank's requests, from the reader's position on; used up here.
        predownload: How many of the rank's samples to stay ahead.
        least_shards: How many shards to stay ahead, too, where they are so many.
        most_shards: How many shards to hold ready at the most; None for no bound.
        threads: Shards fetched at a time: a store answers late, but many at once.
    """

    # Requests looked at before a batch is read, which waits for it.
    _MOST_AT_ONCE = 2048

    def __init__(
        self,
        store: ShardStore,
        mixture: Mixture,
        requests: Iterator[BatchRequest],
        predownload: int,
        least_shards: int = 0,
        most_shards: int | None = None,
        threads: int = 8,
    ):
        self._mixture = mixture
        self._requests = requests
        self._predownload = predownload
        self._least_shards = min(least_shards, len(mixture.samples_per_shard))
        # Some shards may not come at all for long: of an order that is not looked through further.
        self._farthest = self._least_shards * int(mixture.samples_per_shard.max(initial=0))
        self._most_shards = most_shards
        self._window: deque[list[int]] = deque()
        self._needed: Counter[int] = Counter()
        self._threads = FetchingThreads(store, threads)
        self._ahead = 0

    def consumed(self, samples: int) -> None:
        """Note that the reader moved on by ``samples`` of the rank's samples, and fetch further."""
        self._ahead -= samples
        if self._window:
            self._needed.subtract(self._window.popleft())
            self._needed = +self._needed
        for _ in range(self._MOST_AT_ONCE):
            if self._ahead >= self._predownload and not self._lacks_shards():
                return
            # Under a cache limit, fetching too far ahead would evict what is needed sooner.
            if self._most_shards is not None and len(self._needed) >= self._most_shards:
                return
            request = next(self._requests, None)
            if request is None:
                return
            self._ahead += len(request.ids)
            self._want(request)

    def close(self) -> None:
        """Stop; fetches that run are waited for, for some seconds, and others are dropped."""
        self._threads.close()

    def _lacks_shards(self) -> bool:
        return len(self._needed) < self._least_shards and self._ahead < self._farthest

    def _want(self, request: BatchRequest) -> None:
        wanted = [shard for shard in dict.fromkeys(request.shards) if shard >= 0]
        self._window.append(wanted)
        for shard in wanted:
            # Once is enough for as long as it is needed, unless somebody may evict it meanwhile.
            new = shard not in self._needed
            if new or self._most_shards is not None:
                self._threads.fetch(shard, new=new)
        self._needed.update(wanted)
