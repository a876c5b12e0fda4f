"""Who limits a cache: running loaders note their limits, dead ones are forgotten."""

import contextlib
import json
import os
import uuid
from dataclasses import dataclass

from mosaic_dataloader.shards.layout import BUDGET_BYTE, lock_path, users_root
from mosaic_dataloader.shards.locks import RangeLock, locked


@dataclass(frozen=True)
class CacheUser:
    """A loader's claim: all ``directories`` together shall hold at most ``limit`` bytes."""

    limit: int
    directories: tuple[str, ...]


class Registration:
    """Notes a claim in each of its directories for as long as this process lives.

    The note is locked; when its holder dies, however it dies, the lock is free and the next reader
    removes the note.

    Args:
        user: The claim.
    """

    def __init__(self, user: CacheUser):
        self._held: list[tuple[str, RangeLock]] = []
        name = uuid.uuid4().hex
        for directory in user.directories:
            os.makedirs(users_root(directory), exist_ok=True)
            path = os.path.join(users_root(directory), name)
            with locked(lock_path(directory), BUDGET_BYTE):
                lock = RangeLock(path)
                lock.exclusive(0)
                with open(path, "w", encoding="utf-8") as file:
                    json.dump({"limit": user.limit, "directories": user.directories}, file)
            self._held.append((path, lock))

    def close(self) -> None:
        """Withdraw the claim."""
        for path, lock in self._held:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
            lock.close()
        self._held = []


def live_users(directory: str) -> list[CacheUser]:
    """Claims on a directory whose holders live. Call it with the directory's budget lock held."""
    try:
        names = os.listdir(users_root(directory))
    except FileNotFoundError:
        return []
    found = []
    for name in names:
        path = os.path.join(users_root(directory), name)
        try:
            lock = RangeLock(path, create=False)
        except FileNotFoundError:
            continue
        try:
            if lock.try_exclusive(0):
                os.remove(path)
                continue
        finally:
            lock.close()
        with open(path, encoding="utf-8") as file:
            claim = json.load(file)
        found.append(CacheUser(claim["limit"], tuple(claim["directories"])))
    return found


def has_users(directory: str) -> bool:
    """Whether any claim is noted; a cheap look without locks, also at claims of the dead."""
    try:
        with os.scandir(users_root(directory)) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False
