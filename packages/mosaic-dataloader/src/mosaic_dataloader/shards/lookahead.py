"""Fetching shards before they are needed."""

from collections import Counter, deque
from collections.abc import Iterator

from mosaic_dataloader.order.batches import BatchRequest
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.shards.fetching import FetchingThreads
from mosaic_dataloader.shards.store import ShardStore


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
            asked = shard in self._needed and self._most_shards is None
            if not asked:
                self._threads.fetch(shard)
        self._needed.update(wanted)
