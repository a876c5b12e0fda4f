"""Handing items from one thread to another, at little cost for the one that waits."""

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

# How often a producer with nothing to do looks whether there is something else to be done.
_IDLE_SECONDS = 0.1
# It does not come by itself more often than this.
_SHORTEST_PAUSE = 1e-3
# Waking a waiting thread costs as much as reading a small batch (30 µs and more, with Python's lock
# to be passed on). A consumer that waits is woken this long after it began to, or when all places
# are filled: by then there may be several items. For one that trains it makes no difference.
_GROUP_SECONDS = 300e-6


@dataclass(frozen=True)
class End:
    """Why there are no more items."""

    error: BaseException


class Handover(Generic[T]):
    """A queue of a few places between one producer and one consumer.

    ``queue.Queue`` takes three locks and wakes somebody for every item. Here a lock is taken only
    by a thread that has to sleep; appending to and popping from a deque are atomic.

    Args:
        depth: Places.

    Attributes:
        items: What waits to be taken.
        asleep: Whether the producer sleeps until there is room.
        few: With so many items left it is woken up.
    """

    def __init__(self, depth: int):
        self._depth = depth
        self.items: deque[T | End] = deque()
        # Taken while there is nothing to wake up for.
        self._wake, self._space = threading.Lock(), threading.Lock()
        self._wake.acquire()
        self._space.acquire()
        self._waiting_since: float | None = None
        # So many items are left when the producer comes by itself, and when it is woken up.
        self._half, self.few = depth // 2, max(depth // 4, min(depth // 2, 1))
        self.asleep = False
        # Seconds in which half of the places are used up, as far as is known.
        self._pause = _IDLE_SECONDS
        self._closed = False

    def put(self, item: T, idle: Callable[[], None] | None = None) -> bool:
        """Add an item, and wait until there is a place for another one.

        Args:
            item: What to hand over.
            idle: Called now and then while there is no place.

        Returns:
            Whether more items are wanted.
        """
        if self._closed:
            return False
        self.items.append(item)
        since = self._waiting_since
        if since is not None and (
            len(self.items) >= self._depth or time.perf_counter() - since > _GROUP_SECONDS
        ):
            self._waiting_since = None
            _release(self._wake)
        if len(self.items) >= self._depth:
            self._wait_for_room(idle)
        return not self._closed

    def get(self) -> T:
        """The next item, waiting for it if there is none.

        Raises:
            BaseException: What the items ended with, every time they are asked for again.
        """
        if not self.items:
            self.wait()
        item = self.items.popleft()
        if self.asleep and len(self.items) <= self.few:
            self.wake()
        if isinstance(item, End):
            self.end(item.error)
            raise item.error
        return item

    def wake(self) -> None:
        """Wake the producer up: there is room."""
        self.asleep = False
        _release(self._space)

    def close(self) -> None:
        """Want no more items; a producer that waits for a place returns at once."""
        self._closed = True
        _release(self._space)

    def clear(self) -> None:
        """Drop the items that nobody took."""
        self.items.clear()

    def end(self, error: BaseException) -> None:
        """Add a last item, whether there is a place or not: what is raised instead of it."""
        self.items.append(End(error))
        _release(self._wake)

    def _wait_for_room(self, idle: Callable[[], None] | None) -> None:
        """Sleep until half of the places are free.

        Waking somebody is the most that handing over can cost (20 µs and more, in a machine whose
        cores have gone to sleep), and a training step would pay it. So the producer comes by
        itself after the time that half of the places took the last time. It is woken up only when
        that was too long.
        """
        begun, pause = time.perf_counter(), self._pause
        while len(self.items) > self._half and not self._closed:
            # Said first, looked again after: the consumer may have made room in between.
            self.asleep = True
            if len(self.items) <= self._half:
                break
            if not self._space.acquire(timeout=min(pause, _IDLE_SECONDS)) and idle:
                idle()
            left = len(self.items)
            # At the least: one more may be taken at any moment.
            pace = (time.perf_counter() - begun) / (self._depth - left + 1)
            pause = max(_SHORTEST_PAUSE, pace * (left - self._half))
            self._pause = pace * (self._depth - self._half)
        self.asleep = False

    def wait(self) -> None:
        """Wait until there is an item."""
        self._waiting_since = time.perf_counter()
        # An item that came too early to wake anybody is found at the second look.
        timeout = _GROUP_SECONDS
        while not self.items:
            self._wake.acquire(timeout=timeout)
            timeout = -1
        self._waiting_since = None


def _release(lock: threading.Lock) -> None:
    # Woken up already.
    with suppress(RuntimeError):
        lock.release()
