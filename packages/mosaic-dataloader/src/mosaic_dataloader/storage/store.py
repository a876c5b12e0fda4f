"""The shards of all streams: present, mapped, and released again."""

import contextlib
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.storage.cache import CacheLease, LeaseWatch, Registration
from mosaic_dataloader.storage.contents import path_in_stream, unreadable
from mosaic_dataloader.storage.document_ends import ends_column
from mosaic_dataloader.storage.download import ShardFetcher
from mosaic_dataloader.storage.layout import lock_path, use_byte
from mosaic_dataloader.storage.mds import MappedShard, ReaderShard, ScatteredRows
from mosaic_dataloader.storage.streams import DataStream
from mosaic_dataloader.storage.traffic import HITS, Traffic
from mosaic_dataloader.util import threads
from mosaic_dataloader.util.forks import reset_in_child
from mosaic_dataloader.util.locks import RangeLock, locked
from mosaic_dataloader.util.store_errors import one_line

OpenShard = MappedShard | ReaderShard

# For so long after its last use a fetched shard stays open where nobody iterates, in seconds.
_IDLE_SECONDS = 1.0


class ShardStore:
    """Opens shards by their number over all streams, for any number of threads.

    A shard that another process may evict is held by a shared lock for as long as it is open. No
    shard is held for long while nobody reads.

    Args:
        streams: The opened streams.
        mixture: Their sizes.
        row_tokens: Tokens that make a full row, T+1.
        cache_limit: Bytes that the directories of all fetched streams may hold together; None for
            no limit of this loader's own.
        keeps_open: Keep fetched shards open from batch to batch where nobody limits the cache. A
            worker process does not: while it waits for work, it could not notice a new limit.
        reads_ends: Read the column `document_ends` of the shards that have it.
        counts_opened: Count each shard that is opened and was in the cache as a hit: where no
            look-ahead counts those that come into its window.

    Attributes:
        full_rows: By shard, what gives integer[T+1] by a sample's number, for every open shard of
            equally long rows that have so many tokens or more: views into its map. Reading them
            needs no lock: a shard that another thread closes stays mapped as long as anybody holds
            a view of it.
        checked: Open shards all of whose token ids were found inside the vocabulary; see
            ``note_checked``.
        traffic: What is counted.
    """

    # Far below the kernel's limit of mappings in a process (65,530), far above what a shuffle
    # window keeps in use.
    _MOST_OPEN = 1024

    def __init__(
        self,
        streams: list[DataStream],
        mixture: Mixture,
        row_tokens: int,
        cache_limit: int | None = None,
        keeps_open: bool = True,
        reads_ends: bool = False,
        counts_opened: bool = False,
    ):
        self._reads_ends = reads_ends
        self._counts_opened = counts_opened
        self.traffic = Traffic(len(streams))
        self.streams = streams
        self.full_rows: dict[int, NDArray[Any] | ScatteredRows] = {}
        self.checked: set[int] = set()
        self._mixture = mixture
        self._row_tokens = row_tokens
        self._fetchers = [ShardFetcher(s, n, self.traffic) for n, s in enumerate(streams)]
        self._guard = threading.RLock()
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._uses: dict[int, int] = {}
        self._pins: dict[int, RangeLock] = {}
        self._cache_limit = cache_limit
        self._keeps_open = keeps_open
        self._watches = {n: LeaseWatch(s.directory) for n, s in enumerate(streams) if s.fetched}
        self._registration: Callable[[], object] | None = None
        # Iterations that are running; when a shard was used outside of them; and whether a thread
        # waits to let it go.
        self._iterations = 0
        self._used_at = 0.0
        self._lets_go = False
        reset_in_child(self)

    @contextmanager
    def iterating(self) -> Iterator[None]:
        """Keep shards open from batch to batch in the context, and let them go at its end."""
        with self._guard:
            self._iterations += 1
        try:
            yield
        finally:
            with self._guard:
                self._iterations -= 1
                if not self._iterations:
                    self._close_unused(self._watches)

    @contextmanager
    def reading(self, shard: int) -> Iterator[OpenShard]:
        """An open shard; it stays mapped at least until the context ends.

        Raises:
            MosaicDataError: The shard cannot be fetched or is damaged.
        """
        stream, number = self._in_stream(shard)
        while (opened := self._in_use(shard)) is None:
            with self.traffic.waiting(shard):
                self.register()
                # Under a limit, what this thread holds open must not keep its own shard out.
                self.release()
                # Without the guard, so that other threads can read and download in the meantime.
                found = self._fetchers[stream].ensure(number)
                if found and self._counts_opened:
                    self.traffic.counts[HITS] += 1
                self._open_shard(shard)
        try:
            yield opened
        finally:
            with self._guard:
                self._uses[shard] -= 1
                if not self._iterations:
                    self._let_go_later()

    def note_checked(self, shard: int, rows: NDArray[Any]) -> None:
        """Add a shard to ``checked`` if it is still open: ``rows`` are its ``full_rows``."""
        with self._guard:
            if self.full_rows.get(shard) is rows:
                self.checked.add(shard)

    def ensure(self, shard: int, *, new: bool) -> None:
        """Download the shard's file unless it is present, without opening it.

        Where it is ``new``, it counts as a hit if it is found in the cache.
        """
        self.register()
        stream, number = self._in_stream(shard)
        if self._fetchers[stream].ensure(number) and new:
            self.traffic.counts[HITS] += 1

    def held_up_by(self, asked: Iterable[int] | None = None) -> list[str]:
        """What those who read are waiting for at this moment, in words.

        Args:
            asked: The shards that a worker process is to read from, a negative one for padding;
                None for what the threads of this process wait for.

        Returns:
            One entry for each; none if nothing is known.
        """
        if asked is None:
            # A copy, made by a single call: other threads change it.
            waits = list(self.traffic.waits.values())
            return list(
                dict.fromkeys(w if isinstance(w, str) else self._progress(w) for w in waits)
            )
        shards = [shard for shard in dict.fromkeys(asked) if shard >= 0]
        placed = [(shard, *self._in_stream(shard)) for shard in shards]
        absent = [shard for shard, n, number in placed if not self._fetchers[n].present(number)]
        if absent:
            more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
            return [f"{self._progress(absent[0])}{more}"]
        names = {self.streams[stream].name for _, stream, _ in placed}
        listed = ", ".join(f'"{name}"' for name in sorted(names))
        return [f"a worker process, which reads or encodes samples of {listed}"]

    def release(self) -> None:
        """Unmap what anybody's cache limit may want to evict; called between batches.

        An unlinked file that is still mapped would keep its space.
        """
        if not self._watches:
            return
        with self._guard:
            limited = {
                stream
                for stream, watch in self._watches.items()
                if not self._keeps_open or watch.limited()
            }
            if limited:
                self._close_unused(limited)

    @property
    def fetches(self) -> bool:
        """Whether any stream's shards come from elsewhere."""
        return any(s.fetched for s in self.streams)

    def _close_unused(self, streams: Container[int]) -> None:
        """Unmap the shards of these streams that nobody is reading right now."""
        for shard in list(self._open):
            if self._in_stream(shard)[0] in streams and not self._uses.get(shard):
                self._close_shard(shard)

    def _let_go_later(self) -> None:
        """Have fetched shards unmapped once nobody has used them for a while."""
        self._used_at = time.monotonic()
        # A worker process lets them go after each batch.
        if self._watches and self._keeps_open and not self._lets_go:
            self._lets_go = True
            # Weak: a store that is dropped is closed at once.
            threads.run_async(partial(_let_go_when_idle, weakref.ref(self)), "mosaic-release")

    def _let_go_if_idle(self) -> bool:
        """Whether nobody has to look again."""
        with self._guard:
            idle = time.monotonic() - self._used_at >= _IDLE_SECONDS
            if idle and not self._iterations:
                self._close_unused(self._watches)
            # An iteration that is running lets go at its end.
            self._lets_go = not idle and not self._iterations
            return not self._lets_go

    def after_fork(self) -> None:
        """Start afresh in a child: locks and open shards are the parent's.

        A thread that does not exist here may have held the guard.
        """
        self._guard = threading.RLock()
        self.full_rows.clear()
        self.checked.clear()
        self._open.clear()
        self._uses.clear()
        self._pins.clear()
        self._registration = None
        self._iterations, self._lets_go = 0, False
        self.traffic.waits.clear()

    def close(self) -> None:
        """Unmap everything and let all locks go."""
        with self._guard:
            for shard in list(self._open):
                self._close_shard(shard)
            for pin in self._pins.values():
                pin.close()
            self._pins.clear()
            if self._registration:
                self._registration()
                self._registration = None

    def register(self) -> None:
        """Note this process's limit, before it first uses the cache.

        Raises:
            MosaicDataError: The cache directories cannot be written to.
        """
        if self._cache_limit is None or self._registration is not None:
            return
        directories = tuple(sorted({s.directory for s in self.streams if s.fetched}))
        with self._guard:
            if self._registration is None:
                try:
                    registration = Registration(CacheLease(self._cache_limit, directories))
                except OSError as error:
                    raise MosaicDataError(
                        f"cannot note cache_limit in the cache directories ({one_line(error)}); "
                        f"choose another local or cache_dir"
                    ) from error
                # Withdrawn when this is closed, dropped, or the interpreter ends.
                self._registration = weakref.finalize(self, registration.close)

    def _in_use(self, shard: int) -> OpenShard | None:
        """The shard if it is open, counted as one more use of it."""
        with self._guard:
            opened = self._open.get(shard)
            if opened is not None:
                self._open.move_to_end(shard)
                self._uses[shard] = self._uses.get(shard, 0) + 1
            return opened

    def _open_shard(self, shard: int) -> None:
        """Open a shard whose file is there; if it has been evicted, do nothing."""
        stream, number = self._in_stream(shard)
        data, fetcher = self.streams[stream], self._fetchers[stream]
        fetcher.check_in_place(number)
        with self._kept(stream, number), self._guard:
            if shard in self._open:
                return
            self._pin(stream, number)
            try:
                if data.fetched:
                    # The time of last use, for others that look for what was least recently used.
                    # Files of another user cannot be touched; they count as old as their download.
                    with contextlib.suppress(PermissionError):
                        os.utime(fetcher.path(number))
                opened = _opened(data, number, self._reads_ends)
            except BaseException as error:
                self._unpin(stream, number)
                if isinstance(error, FileNotFoundError):
                    return
                if isinstance(error, OSError):
                    path = error.filename or fetcher.path(number)
                    raise unreadable(data.name, path, error) from error
                raise
            self._open[shard] = opened
            if (rows := opened.full_rows(self._row_tokens)) is not None:
                self.full_rows[shard] = rows
            self._close_surplus(shard)

    def _close_surplus(self, newest: int) -> None:
        for shard in list(self._open):
            if len(self._open) <= self._MOST_OPEN:
                return
            if not self._uses.get(shard) and shard != newest:
                self._close_shard(shard)

    def _close_shard(self, shard: int) -> None:
        self.full_rows.pop(shard, None)
        self.checked.discard(shard)
        self._open.pop(shard).close()
        self._uses.pop(shard, None)
        self._unpin(*self._in_stream(shard))

    @contextmanager
    def _kept(self, stream: int, number: int) -> Iterator[None]:
        """Keep a shard from being evicted in the context.

        A process that evicts it may have been stopped in the middle of that. So it is waited for
        here, without the guard, and `_pin` has nothing left to wait for.
        """
        if not self.streams[stream].fetched:
            yield
            return
        with locked(lock_path(self.streams[stream].directory), use_byte(number), shared=True):
            yield

    def _pin(self, stream: int, number: int) -> None:
        if not self.streams[stream].fetched:
            return
        if stream not in self._pins:
            self._pins[stream] = RangeLock(lock_path(self.streams[stream].directory))
        self._pins[stream].shared(use_byte(number))

    def _unpin(self, stream: int, number: int) -> None:
        if stream in self._pins:
            self._pins[stream].unlock(use_byte(number))

    def _progress(self, shard: int) -> str:
        stream, number = self._in_stream(shard)
        return self._fetchers[stream].progress(number)

    def _in_stream(self, shard: int) -> tuple[int, int]:
        """A shard's stream, and its number in that."""
        return self._mixture.shard_in_stream(shard)


def _let_go_when_idle(reference: "weakref.ref[ShardStore]") -> None:
    while True:
        threads.sleep(_IDLE_SECONDS)
        store = reference()
        if store is None or store._let_go_if_idle():
            return
        del store


def _opened(data: DataStream, number: int, reads_ends: bool) -> OpenShard:
    reader = data.readers[number]
    paths = [path_in_stream(data.directory, raw.basename) for raw, _ in reader.file_pairs]
    if hasattr(reader, "column_sizes"):
        ends = ends_column(reader, data.name) if reads_ends else None
        return MappedShard(paths[0], len(reader), reader.column_sizes, data.columns[number], ends)
    meta, samples = paths
    return ReaderShard(reader, data.columns[number], samples, meta)
