"""Names inside a cache directory.

::

    shard.00000.mds …        shards, each put there in one step
    index.json
    .mosaic/lock             bytes of it are locks: see below
    .mosaic/incoming/7/      shard 7 on its way
    .mosaic/users/<id>       a running loader that limits the cache
"""

import json
import os
from dataclasses import dataclass
from functools import cache

# Bytes of the lock file.
INDEX_BYTE = 0
BUDGET_BYTE = 1
_FIRST_SHARD_BYTE = 16


def fetch_byte(shard: int) -> int:
    """Held alone by whoever brings a shard in."""
    return _FIRST_SHARD_BYTE + 2 * shard


def use_byte(shard: int) -> int:
    """Shared by all who have a shard open; held alone by whoever evicts it.

    Not the same byte as for fetching: who waits to fetch a shard would wait for those who read it.
    """
    return _FIRST_SHARD_BYTE + 2 * shard + 1


def lock_path(directory: str) -> str:
    """The lock file."""
    return os.path.join(directory, ".mosaic", "lock")


def incoming_root(directory: str) -> str:
    """Where shards on their way are."""
    return os.path.join(directory, ".mosaic", "incoming")


def users_root(directory: str) -> str:
    """Where running loaders that limit the cache are noted."""
    return os.path.join(directory, ".mosaic", "users")


@dataclass(frozen=True)
class ShardFiles:
    """Files of one shard, by name: the raw ones, and compressed ones that may be kept."""

    names: tuple[str, ...]


@cache
def shard_files(directory: str) -> tuple[ShardFiles, ...]:
    """The files of every shard of a cache directory, by its index.

    Any directory can be asked for, also one that only another loader of the machine uses.
    """
    with open(os.path.join(directory, "index.json"), encoding="utf-8") as file:
        shards = json.load(file)["shards"]
    keys = ("raw_data", "zip_data", "raw_meta", "zip_meta")
    return tuple(
        ShardFiles(tuple(shard[key]["basename"] for key in keys if shard.get(key)))
        for shard in shards
    )
