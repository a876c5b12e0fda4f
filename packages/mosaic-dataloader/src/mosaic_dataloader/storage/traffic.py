"""What is fetched, found, evicted and encoded, and what threads are waiting for at this moment."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

# Places in `Traffic.counts`; after them, two for each stream: shards fetched, and their bytes.
HITS, EVICTIONS, RETRIES, TEXTS, _STREAMS = range(5)
_NAMES = ("cache_hits", "evictions", "retries", "texts_encoded")


class Traffic:
    """Counts of one `ShardStore`, and of what is read from it.

    Any thread raises them, without a lock: a statement such as ``traffic.counts[HITS] += 1`` has no
    call in it, and only at calls and loops does Python change to another thread.

    Attributes:
        counts: The counts; see `by_name`.
        waits: By thread, what holds it up now: a shard, by its number, or something in words.
    """

    def __init__(self, streams: int):
        self.counts = [0] * (_STREAMS + 2 * streams)
        self.waits: dict[int, int | str] = {}

    def fetched(self, stream: int, size: int) -> None:
        """Count a shard that has arrived from its store, in so many bytes."""
        place = _STREAMS + 2 * stream
        self.counts[place] += 1
        self.counts[place + 1] += size

    def take(self) -> list[int] | None:
        """The counts, which start again at 0; None if all of them are 0.

        A worker process hands them over with what it has read.
        """
        if not any(self.counts):
            return None
        taken, self.counts = self.counts, [0] * len(self.counts)
        return taken

    def add(self, counts: list[int] | None) -> None:
        """Add what a worker process has counted."""
        for place, count in enumerate(counts or ()):
            self.counts[place] += count

    @contextmanager
    def waiting(self, what: int | str) -> Iterator[None]:
        """Note what holds up the present thread in the context."""
        own = threading.get_ident()
        self.waits[own] = what
        try:
            yield
        finally:
            self.waits.pop(own, None)

    @contextmanager
    def encoding(self, texts: int) -> Iterator[None]:
        """Note in the context that the present thread waits for the tokenizer, then count texts."""
        with self.waiting(f"the tokenizer, which encodes {texts:,} texts"):
            yield
        self.counts[TEXTS] += texts

    def by_name(self, streams: Sequence[str]) -> dict[str, int]:
        """The counts by their names, those of a stream as ``NAME/shards_fetched``."""
        counts = dict(zip(_NAMES, self.counts, strict=False))
        for number, name in enumerate(streams):
            place = _STREAMS + 2 * number
            counts[f"{name}/shards_fetched"] = self.counts[place]
            counts[f"{name}/bytes_fetched"] = self.counts[place + 1]
        return counts
