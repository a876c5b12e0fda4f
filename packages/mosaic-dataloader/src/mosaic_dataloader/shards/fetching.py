"""Threads that fetch shards which nobody waits for yet."""

import logging
from functools import partial

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.shards.store import ShardStore
from mosaic_dataloader.threads import JobThreads

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

    def fetch(self, shard: int) -> None:
        """Have a shard fetched, unless it is on its way."""
        if shard not in self._under_way:
            self._under_way.add(shard)
            self._pool.submit(partial(self._ensure, shard))

    def close(self) -> None:
        """Stop; fetches that run are waited for, for some seconds, and others are dropped."""
        self._pool.close()

    def _ensure(self, shard: int) -> None:
        try:
            self._store.ensure(shard)
        except MosaicDataError as error:
            # The reader meets the same fault when it gets there, and raises it.
            logger.warning("fetching ahead failed: %s", error)
        finally:
            self._under_way.discard(shard)
