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

logger = logging.getLogger(__name__)

# A lane's place among the rank's lanes, and a document's number in it.
Document = tuple[int, int]
Shards = Callable[[Sequence[int], Sequence[int]], list[int]]
# Shards fetched at a time: a store answers late, but many at once.
_THREADS = 8


class _ShardWindow:
    """Shards that are needed soon, fetched in the order in which they are asked for.

    At most ``most_shards`` are held ready, if that is given.
    """

    def __init__(self, store: ShardStore, most_shards: int | None):
        self._store = store
        self._most_shards = most_shards
        # How often each shard is needed.
        self._needed: Counter[int] = Counter()
        self._pool = JobThreads(_THREADS, "mosaic-fetch")
        # Only ever added to by the reader's thread and taken from by the pool's: no lock needed.
        self._under_way: set[int] = set()

    def close(self) -> None:
        """Stop; fetches that run are waited for, for some seconds, and others are dropped."""
        self._pool.close()

    def _is_full(self) -> bool:
        # Under a cache limit, fetching too far ahead would evict what is needed sooner.
        return self._most_shards is not None and len(self._needed) >= self._most_shards

    def _fetch(self, shard: int, *, new: bool) -> None:
        """Fetch a shard unless it is on its way; where it is ``new``, finding it is a cache hit."""
        if shard not in self._under_way:
            self._under_way.add(shard)
            self._pool.submit(partial(self._ensure, shard, new))

    def _ensure(self, shard: int, new: bool) -> None:
        try:
            self._store.ensure(shard, new=new)
        except MosaicDataError as error:
            # The reader meets the same fault when it gets there, and raises it.
            logger.warning("fetching ahead failed: %s", error)
        finally:
            self._under_way.discard(shard)


class LaneLookAhead(_ShardWindow):
    """Stays some documents ahead of what is read, in each lane.

    Args:
        store: See `_ShardWindow`.
        shards: Finds the shards of documents, by their lanes' indexes and their numbers.
        starts: The first document that each lane reads, by lane; the sooner needed ones first.
        ends: The document at which each lane ends; None for never.
        per_lane: Documents to stay ahead, at least 1.
        most_shards: See `_ShardWindow`.
    """

    def __init__(
        self,
        store: ShardStore,
        shards: Shards,
        starts: Mapping[int, int],
        ends: Sequence[int | None],
        per_lane: int,
        most_shards: int | None = None,
    ):
        super().__init__(store, most_shards)
        self._shards = shards
        self._ends = ends
        self._per_lane = per_lane
        # Wanted, and not allowed yet: too many shards are ready.
        self._waiting: dict[Document, int] = {}
        for ahead in range(per_lane):
            self._want([(lane, start + ahead) for lane, start in starts.items()])
        self._fetch_wanted()

    def read(self, lanes: Sequence[int], documents: Sequence[int], shards: Sequence[int]) -> None:
        """Note that documents are read now, and fetch for those that come after them."""
        for lane, document, shard in zip(lanes, documents, shards, strict=True):
            if self._waiting.pop((lane, document), None) is None:
                self._needed[shard] -= 1
                if self._needed[shard] <= 0:
                    del self._needed[shard]
        self._want([(n, d + self._per_lane) for n, d in zip(lanes, documents, strict=True)])
        self._fetch_wanted()

    def _want(self, wanted: list[Document]) -> None:
        wanted = [d for d in wanted if (end := self._ends[d[0]]) is None or d[1] < end]
        if wanted:
            lanes, documents = zip(*wanted, strict=True)
            self._waiting.update(zip(wanted, self._shards(lanes, documents), strict=True))

    def _fetch_wanted(self) -> None:
        while self._waiting and not self._is_full():
            shard = self._waiting.pop(next(iter(self._waiting)))
            self._needed[shard] += 1
            if self._needed[shard] == 1:
                self._fetch(shard, new=True)


class LookAhead(_ShardWindow):
    """Walks the same requests as the reader, some way in front of it.

    Args:
        store: See `_ShardWindow`.
        mixture: The data.
        requests: This rank's requests, from the reader's position on; used up here.
        predownload: How many of the rank's samples to stay ahead.
        least_shards: How many shards to stay ahead, too, where they are so many.
        most_shards: See `_ShardWindow`.
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
    ):
        super().__init__(store, most_shards)
        self._requests = requests
        self._predownload = predownload
        self._least_shards = min(least_shards, len(mixture.samples_per_shard))
        # Some shards may not come at all for long: of an order that is not looked through further.
        self._farthest = self._least_shards * int(mixture.samples_per_shard.max(initial=0))
        self._window: deque[list[int]] = deque()
        self._ahead = 0

    def consumed(self, samples: int) -> None:
        """Note that the reader moved on by ``samples`` of the rank's samples, and fetch further."""
        self._ahead -= samples
        if self._window:
            self._needed.subtract(self._window.popleft())
            self._needed = +self._needed
        for _ in range(self._MOST_AT_ONCE):
            if (self._ahead >= self._predownload and not self._lacks_shards()) or self._is_full():
                return
            request = next(self._requests, None)
            if request is None:
                return
            self._ahead += len(request.ids)
            self._want(request)

    def _lacks_shards(self) -> bool:
        return len(self._needed) < self._least_shards and self._ahead < self._farthest

    def _want(self, request: BatchRequest) -> None:
        wanted = [shard for shard in dict.fromkeys(request.shards) if shard >= 0]
        self._window.append(wanted)
        for shard in wanted:
            # Once is enough as long as it is needed, unless another process may evict it.
            new = shard not in self._needed
            if new or self._most_shards is not None:
                self._fetch(shard, new=new)
        self._needed.update(wanted)
