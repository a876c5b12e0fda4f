"""Keeping caches within their limits: space is reserved before it is used.

Every loader that fetches obeys the limits of all running loaders that share its directory. Least
recently used shards go first, never one that somebody has open.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from mosaic_dataloader import threads
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.shards.incoming import incoming_folder, live_incoming
from mosaic_dataloader.shards.layout import (
    BUDGET_BYTE,
    lock_path,
    shard_files,
    use_byte,
    users_root,
)
from mosaic_dataloader.shards.locks import RangeLock, locked
from mosaic_dataloader.shards.users import CacheUser, live_users

_RESERVED = "reserved"


@contextmanager
def reserved(directory: str, shard: int, size: int, patience: float) -> Iterator[None]:
    """Hold ``size`` bytes of a directory's budget while one of its shards is brought in.

    The caller holds the shard's lock and has made its incoming folder.

    Args:
        directory: The cache directory.
        shard: Which shard is brought in.
        size: Bytes that it takes at most, on its way and afterwards.
        patience: Seconds to wait for others to let go of what could be evicted.

    Raises:
        MosaicDataError: Space did not become free in that time.
    """
    note = os.path.join(incoming_folder(directory, shard), _RESERVED)
    deadline = time.monotonic() + patience
    while not _try_reserve(directory, note, size):
        if time.monotonic() > deadline:
            raise MosaicDataError(
                f"the cache of {directory} stays full: everything in it was in use for "
                f"{patience:.0f} s, with {size:,} bytes wanted; raise cache_limit"
            )
        threads.sleep(0.02)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(note)


def _try_reserve(directory: str, note: str, size: int) -> bool:
    if not os.path.isdir(users_root(directory)):
        return True
    with locked(lock_path(directory), BUDGET_BYTE):
        claims = live_users(directory)
    if not claims:
        return True
    # One order of locking for all: no two processes wait for each other.
    involved = sorted({directory, *(d for claim in claims for d in claim.directories)})
    with ExitStack() as stack:
        for each in involved:
            stack.enter_context(locked(lock_path(each), BUDGET_BYTE))
        if not all(_make_room(claim, directory, size) for claim in claims):
            return False
        with open(note, "w", encoding="ascii") as file:
            file.write(str(size))
    return True


def _make_room(claim: CacheUser, directory: str, size: int) -> bool:
    """Evict until ``size`` more bytes fit into a claim; False where too much is in use."""
    excess = sum(map(usage, claim.directories)) + size - claim.limit
    if excess <= 0:
        return True
    # The directory that wants the space may also be asked to give it.
    for _, place, shard in sorted(_resident(claim.directories)):
        excess -= _evict(place, shard)
        if excess <= 0:
            return True
    return False


def usage(directory: str) -> int:
    """Bytes that a cache directory takes or has reserved."""
    total = 0
    # What is on its way comes first: a shard that arrives meanwhile is counted twice, not never.
    for shard in live_incoming(directory):
        note = os.path.join(incoming_folder(directory, shard), _RESERVED)
        # Nothing is reserved yet, or no longer.
        with contextlib.suppress(FileNotFoundError), open(note, encoding="ascii") as file:
            total += int(file.read() or 0)
    # Shards by their names: a merged index has them in folders of their own.
    for name in ("index.json", *(n for files in shard_files(directory) for n in files.names)):
        with contextlib.suppress(FileNotFoundError):
            total += os.stat(os.path.join(directory, name)).st_size
    return total


def _resident(directories: tuple[str, ...]) -> Iterator[tuple[int, str, int]]:
    """Time of last use, directory and number of every shard that is there."""
    for directory in directories:
        for shard, files in enumerate(shard_files(directory)):
            for name in files.names:
                with contextlib.suppress(FileNotFoundError):
                    yield os.stat(os.path.join(directory, name)).st_mtime_ns, directory, shard
                    break


def _evict(directory: str, shard: int) -> int:
    """Remove a shard unless somebody has it open; the bytes that this freed."""
    lock = RangeLock(lock_path(directory))
    try:
        if not lock.try_exclusive(use_byte(shard)):
            return 0
        freed = 0
        for name in shard_files(directory)[shard].names:
            path = os.path.join(directory, name)
            with contextlib.suppress(FileNotFoundError):
                size = os.stat(path).st_size
                os.remove(path)
                freed += size
        return freed
    finally:
        lock.close()
