"""Names inside a cache directory.

::

    shard.00000.mds …        shards, each put there in one step
    index.json
    .mosaic/lock             bytes of it are locks: see below
    .mosaic/staging/7/       shard 7 while it is downloaded
    .mosaic/staging/7/attempt    which attempt this is, of how many, by which process
    .mosaic/manifest.json    what `mosaic-prepare` noted beside the remote's shards
    .mosaic/leases/<id>      a running loader that limits the cache
    .mosaic/checked          the last comparison of the index with the remote's
    .mosaic/versions         what the store said of shards, where the index has no hashes
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.storage.contents import load_index
from mosaic_dataloader.util.locks import RangeLock
from mosaic_dataloader.util.store_errors import CorruptShardError, InvalidIndexError


def staging_folder(directory: str, name: int | str) -> str:
    """The folder in which one shard, by its number, or the index is downloaded and unpacked."""
    return os.path.join(directory, ".mosaic", "staging", str(name))


@contextmanager
def staging(directory: str, name: int | str) -> Iterator[str]:
    """That folder, empty at first and removed at the end; the caller holds the lock that it needs.

    What a killed process left in it is removed here.
    """
    folder = staging_folder(directory, name)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def live_staging(directory: str) -> list[int]:
    """Shards that are being downloaded; folders that no process works on are removed.

    A process holds a shard's lock while it downloads it, and the kernel frees the locks of the
    dead.
    """
    try:
        entries = os.listdir(staging_folder(directory, ""))
    except FileNotFoundError:
        return []
    alive = []
    for shard in (int(entry) for entry in entries if entry.isdigit()):
        with closing(RangeLock(lock_path(directory))) as lock:
            if lock.try_exclusive(fetch_byte(shard)):
                shutil.rmtree(staging_folder(directory, shard), ignore_errors=True)
            else:
                alive.append(shard)
    return alive


# Bytes of the lock file.
INDEX_BYTE = 0
BUDGET_BYTE = 1
_FIRST_SHARD_BYTE = 16


def fetch_byte(shard: int) -> int:
    """Held alone by the process that downloads a shard."""
    return _FIRST_SHARD_BYTE + 2 * shard


def use_byte(shard: int) -> int:
    """Shared by all processes that have a shard open; held alone by the one that evicts it.

    Not the same byte as for downloading: a process that waits to download a shard would also wait
    for those that read it.
    """
    return _FIRST_SHARD_BYTE + 2 * shard + 1


def lock_path(directory: str) -> str:
    """The lock file."""
    return os.path.join(directory, ".mosaic", "lock")


def leases_root(directory: str) -> str:
    """Where running loaders that limit the cache are noted."""
    return os.path.join(directory, ".mosaic", "leases")


def manifest_paths(directory: str) -> tuple[str, str]:
    """Where a manifest may be: beside shards that are read in place, or fetched from a remote."""
    name = "manifest.json"
    return os.path.join(directory, name), os.path.join(directory, ".mosaic", name)


@dataclass(frozen=True)
class ShardFiles:
    """Files of one shard, by name.

    Attributes:
        raw: The uncompressed ones.
        zipped: The compressed ones, which may be kept beside them.
        hashed: Whether the index has hashes of what the store has of it.
    """

    raw: tuple[str, ...]
    zipped: tuple[str, ...]
    hashed: bool

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return self.raw + self.zipped


def shard_files(directory: str) -> tuple[ShardFiles, ...]:
    """The files of every shard of a cache directory, by its index.

    Any directory can be asked for, also one that only another loader of the machine uses.

    Raises:
        MosaicDataError: Its index cannot be used.
    """
    path = os.path.join(directory, "index.json")
    found = os.stat(path)
    # Another process may have filled the directory again since it was last asked for.
    return _shard_files(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@lru_cache(maxsize=1024)
def _shard_files(path: str, version: tuple[int, ...]) -> tuple[ShardFiles, ...]:
    try:
        shards = load_index(path)
    except (CorruptShardError, InvalidIndexError) as error:
        raise MosaicDataError(
            f"cannot read {path}: {error}; delete it to have it fetched again"
        ) from error

    def names(shard: dict[str, Any], *keys: str) -> tuple[str, ...]:
        return tuple(file["basename"] for key in keys if (file := shard.get(key)))

    return tuple(
        ShardFiles(
            names(s, "raw_data", "raw_meta"),
            names(s, "zip_data", "zip_meta"),
            bool((s.get("zip_data") or s["raw_data"]).get("hashes")),
        )
        for s in shards
    )


def cached_files(directory: str, names: Iterable[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Path and status of those files of a directory that are there; a link is not followed."""
    for name in names:
        path = os.path.join(directory, name)
        with suppress(FileNotFoundError, NotADirectoryError):
            yield path, os.lstat(path)
