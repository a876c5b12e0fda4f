"""Shards on their way, and sweeping up what killed processes left of them."""

import os
import shutil

from mosaic_dataloader.shards.layout import fetch_byte, incoming_root, lock_path
from mosaic_dataloader.shards.locks import RangeLock


def incoming_folder(directory: str, shard: int) -> str:
    """The folder of one shard on its way."""
    return os.path.join(incoming_root(directory), str(shard))


def live_incoming(directory: str) -> list[int]:
    """Shards that somebody is bringing in; folders that nobody works on are removed.

    Whoever brings a shard in holds its lock, and the kernel frees the locks of the dead.
    """
    try:
        entries = os.listdir(incoming_root(directory))
    except FileNotFoundError:
        return []
    alive = []
    for shard in (int(entry) for entry in entries if entry.isdigit()):
        lock = RangeLock(lock_path(directory))
        try:
            if lock.try_exclusive(fetch_byte(shard)):
                shutil.rmtree(incoming_folder(directory, shard), ignore_errors=True)
            else:
                alive.append(shard)
        finally:
            lock.close()
    return alive
