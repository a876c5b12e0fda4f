"""Who limits a cache: running loaders note their limits, dead ones are forgotten."""

import contextlib
import json
import os
import time
import uuid
from dataclasses import dataclass

from mosaic_dataloader.forks import reset_in_child
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
        reset_in_child(self)
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
        while self._held:
            path, lock = self._held[-1]
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
            lock.close()
            # Only now: one that was interrupted is continued by the next call.
            self._held.pop()

    def after_fork(self) -> None:
        """Leave the claim to the parent: it is not the child's to withdraw."""
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
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)
                continue
        finally:
            lock.close()
        # Its holder may withdraw it at any moment.
        with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
            found += _read_claim(file.read(), name)
    return found


def _read_claim(text: str, name: str) -> list[CacheUser]:
    """The claim in a note; none where it is not a loader's.

    Others may write to a shared cache. A directory counts only if it holds the same claim.
    """
    try:
        claim = json.loads(text)
        limit, directories = claim["limit"], claim["directories"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return []
    if type(limit) is not int or not isinstance(directories, list):
        return []
    own = tuple(
        directory
        for directory in directories
        if isinstance(directory, str) and os.path.isfile(os.path.join(users_root(directory), name))
    )
    return [CacheUser(limit, own)] if own else []


class UsersWatch:
    """Whether anybody limits a directory, cheap enough to ask for every batch.

    Args:
        directory: The cache directory.
    """

    # How long a look at who lives is good for; a new claim is seen sooner, by the folder's time.
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
        """Whether any running loader limits the directory; claims of the dead are removed."""
        now = time.monotonic()
        if now - self._glanced < self._GLANCE_SECONDS:
            return self._limited
        self._glanced = now
        try:
            changed = os.stat(users_root(self._directory)).st_mtime_ns
        except FileNotFoundError:
            return False
        stale = self._limited and now - self._looked > self._SECONDS
        if changed != self._changed or stale:
            lock = RangeLock(lock_path(self._directory))
            try:
                # Held by somebody who makes room, or was stopped while it did: where nobody limits
                # the directory, nobody takes it.
                if not lock.try_exclusive(BUDGET_BYTE):
                    # Also for those who ask again in a moment: whoever waits for room with its own
                    # shards open would wait for itself.
                    self._limited = True
                    return True
                self._limited = bool(live_users(self._directory))
                self._changed = os.stat(users_root(self._directory)).st_mtime_ns
            finally:
                lock.close()
            self._looked = now
        return self._limited
