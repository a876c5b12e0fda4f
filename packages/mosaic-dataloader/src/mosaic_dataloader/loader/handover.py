"""Handing items from one thread to another, at little cost for the one that waits."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

T = TypeVar("T")

# How often a producer with nothing to do looks whether there is something else to be done.
_IDLE_SECONDS = 0.1
# Waking a waiting thread costs as much as reading a small batch (30 µs and more, with Python's lock
# to be passed on). A consumer that waits is woken this long after it began to, or when all places
# are filled: by then there may be several items. For one that trains it makes no difference.
_GROUP_SECONDS = 300e-6


class Handover(Generic[T]):
    """A queue of a few places between one producer and one consumer.

    ``queue.Queue`` takes three locks and wakes somebody for every item. Here a lock is taken only
    by a thread that has to sleep; appending to and popping from a deque are atomic.

    Args:
        depth: Places.
    """

    def __init__(self, depth: int):
        self._depth = depth
        self._items: deque[T] = deque()
        # Taken while there is nothing to wake up for.
        self._wake, self._space = threading.Lock(), threading.Lock()
        self._wake.acquire()
        self._space.acquire()
        self._waiting_since: float | None = None
        self._full = False
        self._closed = False

    def put(self, item: T, idle: Callable[[], None] | None = None) -> bool:
        """Add an item, and wait until there is a place for another one.

        Args:
            item: What to hand over.
            idle: Called now and then while there is no place.

        Returns:
            Whether more items are wanted.
        """
        self._items.append(item)
        since = self._waiting_since
        if since is not None and (
            len(self._items) >= self._depth or time.perf_counter() - since > _GROUP_SECONDS
        ):
            self._waiting_since = None
            _release(self._wake)
        while len(self._items) >= self._depth and not self._closed:
            # Said first, looked again after: the consumer may have made room in between.
            self._full = True
            if len(self._items) < self._depth:
                break
            if not self._space.acquire(timeout=_IDLE_SECONDS) and idle:
                idle()
        self._full = False
        return not self._closed

    def get(self) -> T:
        """The next item, waiting for it if there is none."""
        if not self._items:
            self._wait()
        item = self._items.popleft()
        # Half empty and not one short of full: the producer is woken once for several places.
        if self._full and len(self._items) <= self._depth // 2:
            self._full = False
            _release(self._space)
        return item

    def close(self) -> None:
        """Want no more items; a producer that waits for a place returns at once."""
        self._closed = True
        _release(self._space)

    def end(self, item: T) -> None:
        """Add a last item, whether there is a place or not."""
        self._items.append(item)
        _release(self._wake)

    def _wait(self) -> None:
        self._waiting_since = time.perf_counter()
        # An item that came too early to wake anybody is found at the second look.
        timeout = _GROUP_SECONDS
        while not self._items:
            self._wake.acquire(timeout=timeout)
            timeout = -1
        self._waiting_since = None


def _release(lock: threading.Lock) -> None:
    # Woken up already.
    with suppress(RuntimeError):
        lock.release()
