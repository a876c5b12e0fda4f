"""Keeping caches within their limits: space is reserved before it is used.

Every loader that fetches obeys the limits of all running loaders that share its directory. Least
recently used shards go first, never one that is open.
"""

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.shuffles import shuffle_of
from mosaic_dataloader.storage.contents import path_in_stream
from mosaic_dataloader.storage.layout import (
    BUDGET_BYTE,
    cached_files,
    leases_root,
    live_staging,
    lock_path,
    shard_files,
    staging_folder,
    use_byte,
)
from mosaic_dataloader.storage.streams import DataStream
from mosaic_dataloader.storage.traffic import EVICTIONS, Traffic
from mosaic_dataloader.util import threads
from mosaic_dataloader.util.arguments import parse_bytes
from mosaic_dataloader.util.forks import reset_in_child
from mosaic_dataloader.util.locks import RangeLock, locked

logger = logging.getLogger(__name__)


def largest_shard(streams: list[DataStream]) -> int:
    """Bytes of the largest fetched shard, packed and unpacked form together; 0 without any."""
    sizes = [r.get_max_size() for s in streams if s.fetched for r in s.readers]
    return max(sizes, default=0)


def check_cache_limit(streams: list[DataStream], limit: int | str) -> int:
    """Parse a cache limit, in bytes, and check that it leaves room to work.

    Raises:
        MosaicDataError: It is not a size, or holds fewer than four of the largest shards beside the
            indexes.
    """
    size = parse_bytes("cache_limit", limit)
    fetched = [s for s in streams if s.fetched]
    indexes = sum(os.stat(os.path.join(s.directory, "index.json")).st_size for s in fetched)
    least = 4 * largest_shard(streams) + indexes
    if fetched and size < least:
        raise MosaicDataError(
            f"cache_limit = {limit} is {size:,} bytes, too few for four of the largest shards; "
            f"set it to at least {least:,}"
        )
    return size


def warn_of_thrashing(
    streams: list[DataStream], mixture: Mixture, order: ResolvedOrder, limit: int | None
) -> None:
    """Say so where a limit is below what the shuffle keeps in use, with the number."""
    fetched = sum(stream.raw_bytes for stream in streams if stream.fetched)
    if limit is None or not order.shuffle or not fetched:
        return
    samples = mixture.num_samples
    window = shuffle_of(order).window(order, samples)
    needed = int(fetched * min(1.0, window / samples))
    if limit < needed:
        logger.warning(
            "cache_limit of %s bytes is below the about %s bytes that the shuffle keeps in use; "
            "shards will be fetched again and again. Raise cache_limit or lower "
            "shuffle_block_size",
            f"{limit:,}",
            f"{needed:,}",
        )


@dataclass(frozen=True)
class CacheLease:
    """A loader's lease on its caches: ``directories`` together may hold at most ``limit`` bytes."""

    limit: int
    directories: tuple[str, ...]


class Registration:
    """Notes a lease in each of its directories for as long as this process lives.

    The note is locked; when its holder dies, however it dies, the lock is free and the next reader
    removes the note.
    """

    def __init__(self, lease: CacheLease):
        self._held: list[tuple[str, RangeLock]] = []
        reset_in_child(self)
        name = uuid.uuid4().hex
        for directory in lease.directories:
            os.makedirs(leases_root(directory), exist_ok=True)
            path = os.path.join(leases_root(directory), name)
            with locked(lock_path(directory), BUDGET_BYTE):
                lock = RangeLock(path)
                lock.exclusive(0)
                with open(path, "w", encoding="utf-8") as file:
                    json.dump({"limit": lease.limit, "directories": lease.directories}, file)
            self._held.append((path, lock))

    def close(self) -> None:
        """Withdraw the lease."""
        while self._held:
            path, lock = self._held[-1]
            with suppress(FileNotFoundError):
                os.remove(path)
            lock.close()
            # Only now: one that was interrupted is continued by the next call.
            self._held.pop()

    def after_fork(self) -> None:
        """Leave the lease to the parent: it is not the child's to withdraw."""
        self._held = []


def live_leases(directory: str) -> list[CacheLease]:
    """Leases on a directory whose holders live. Call it with the directory's budget lock held."""
    try:
        names = os.listdir(leases_root(directory))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        path = os.path.join(leases_root(directory), name)
        # Its holder may withdraw it at any moment.
        with suppress(FileNotFoundError):
            with closing(RangeLock(path, create=False)) as lock:
                if lock.try_exclusive(0):
                    os.remove(path)
                    continue
            with open(path, encoding="utf-8") as file:
                found += _read_lease(file.read(), name)
    return found


def _read_lease(text: str, name: str) -> list[CacheLease]:
    """The lease in a note; none where it is not a loader's.

    Others may write to a shared cache. A directory counts only if it holds the same lease.
    """
    try:
        lease = json.loads(text)
        limit, directories = lease["limit"], lease["directories"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    if type(limit) is not int or not isinstance(directories, list):
        return []
    own = tuple(
        directory
        for directory in directories
        if isinstance(directory, str) and os.path.isfile(os.path.join(leases_root(directory), name))
    )
    return [CacheLease(limit, own)] if own else []


class LeaseWatch:
    """Whether any process limits a directory, cheap enough to ask for every batch."""

    # How long a look at who lives is good for; a new lease is seen sooner, by the folder's time.
    _SECONDS = 5.0
    # How long a look at the folder's time is good for: small batches follow one another faster.
    _GLANCE_SECONDS = 0.01

    def __init__(self, directory: str):
        self._directory = directory
        self._changed = -1
        self._looked = 0.0
        self._glanced = 0.0
        self._limited = False

    def limited(self) -> bool:
        """Whether any running loader limits the directory; leases of the dead are removed."""
        now = time.monotonic()
        if now - self._glanced < self._GLANCE_SECONDS:
            return self._limited
        self._glanced = now
        try:
            changed = os.stat(leases_root(self._directory)).st_mtime_ns
        except FileNotFoundError:
            return False
        stale = self._limited and now - self._looked > self._SECONDS
        if changed != self._changed or stale:
            with closing(RangeLock(lock_path(self._directory))) as lock:
                # Held by a process that makes room, or was stopped while it did: where nobody
                # limits the directory, nobody takes it.
                if not lock.try_exclusive(BUDGET_BYTE):
                    # Also for threads that ask again in a moment: one that waits for room with its
                    # own shards open would wait for itself.
                    self._limited = True
                    return True
                self._limited = bool(live_leases(self._directory))
                self._changed = os.stat(leases_root(self._directory)).st_mtime_ns
            self._looked = now
        return self._limited


_RESERVED = "reserved"


@contextmanager
def reserved(
    directory: str, shard: int, size: int, timeout: float, traffic: Traffic
) -> Iterator[None]:
    """Hold ``size`` bytes of a directory's budget while one of its shards is downloaded.

    The caller holds the shard's lock and has made its staging folder. ``size`` is what the shard
    takes at most, while it is downloaded and afterwards. For ``timeout`` seconds others are waited
    for to let go of what could be evicted.

    Raises:
        MosaicDataError: Space did not become free in that time.
    """
    note = os.path.join(staging_folder(directory, shard), _RESERVED)
    deadline = time.monotonic() + timeout
    while not _try_reserve(directory, note, size, traffic):
        if time.monotonic() > deadline:
            raise MosaicDataError(
                f"the cache of {directory} stays full: everything in it was in use for "
                f"{timeout:.0f} s, with {size:,} bytes wanted; raise cache_limit"
            )
        threads.sleep(0.02)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            os.remove(note)


def _try_reserve(directory: str, note: str, size: int, traffic: Traffic) -> bool:
    if not os.path.isdir(leases_root(directory)):
        return True
    with locked(lock_path(directory), BUDGET_BYTE):
        leases = live_leases(directory)
    if not leases:
        return True
    # One order of locking for all: no two processes wait for each other.
    involved = sorted({directory, *(d for lease in leases for d in lease.directories)})
    with ExitStack() as stack:
        for each in involved:
            stack.enter_context(locked(lock_path(each), BUDGET_BYTE))
        if not all(_make_room(lease, directory, size, traffic) for lease in leases):
            return False
        with open(note, "w", encoding="ascii") as file:
            file.write(str(size))
    return True


def _make_room(lease: CacheLease, directory: str, size: int, traffic: Traffic) -> bool:
    """Evict until ``size`` more bytes fit into a lease; False where too much is in use."""
    excess = sum(map(usage, lease.directories)) + size - lease.limit
    if excess <= 0:
        return True
    # The directory that wants the space may also be asked to give it.
    for _, place, shard in sorted(_resident(lease.directories)):
        if freed := _evict(place, shard):
            traffic.counts[EVICTIONS] += 1
            excess -= freed
        if excess <= 0:
            return True
    return False


def usage(directory: str) -> int:
    """Bytes that a cache directory takes or has reserved."""
    total = 0
    # Downloads in progress come first: a shard that arrives in between is counted twice, not never.
    for shard in live_staging(directory):
        note = os.path.join(staging_folder(directory, shard), _RESERVED)
        # Nothing is reserved yet, or no longer.
        with suppress(FileNotFoundError), open(note, encoding="ascii") as file:
            total += int(file.read() or 0)
    # Shards by their names: a merged index has them in folders of their own.
    names = ("index.json", *(n for files in shard_files(directory) for n in files.names))
    return total + sum(found.st_size for _, found in cached_files(directory, names))


def _resident(directories: tuple[str, ...]) -> Iterator[tuple[int, str, int]]:
    """Time of last use, directory and number of every shard that is there."""
    for directory in directories:
        for shard, files in enumerate(shard_files(directory)):
            for _, found in cached_files(directory, files.names):
                yield found.st_mtime_ns, directory, shard
                break


def _evict(directory: str, shard: int) -> int:
    """Remove a shard unless it is open; the bytes that this freed."""
    freed = 0
    with closing(RangeLock(lock_path(directory))) as lock:
        if lock.try_exclusive(use_byte(shard)):
            for name in shard_files(directory)[shard].names:
                path = path_in_stream(directory, name)
                with suppress(FileNotFoundError):
                    size = os.lstat(path).st_size
                    os.remove(path)
                    freed += size
    return freed
