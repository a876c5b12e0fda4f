"""Batches made ready in a thread, and handed over at little cost for the thread that trains."""

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar, final

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.reading.stalls import BATCH_THREAD, WaitWatch
from mosaic_dataloader.util import threads
from mosaic_dataloader.util.forks import reset_in_child

T = TypeVar("T")
P = TypeVar("P")

# How often a producer with nothing to do looks for other work.
_IDLE_SECONDS = 0.1
# It does not wake up by itself more often than this.
_SHORTEST_PAUSE = 1e-3
# Waking a waiting thread costs as much as reading a small batch (30 µs and more, with Python's lock
# to be passed on). A consumer that waits is woken this long after it began to, or when all places
# are filled: by then there may be several items. For one that trains it makes no difference.
_GROUP_SECONDS = 300e-6


@final
@dataclass(frozen=True)
class End:
    """Why there are no more items."""

    error: BaseException


class PrefetchQueue(Generic[T]):
    """A queue of a few places between one producer and one consumer.

    ``queue.Queue`` takes three locks and wakes a thread for every item. Here a lock is taken only
    by a thread that has to sleep; appending to and popping from a deque are atomic.

    Attributes:
        items: What waits to be taken.
        asleep: Whether the producer sleeps until there is room.
        few: With so many items left it is woken up.
    """

    def __init__(
        self,
        depth: int,
        clock: Callable[[], float] = time.perf_counter,
        watch: WaitWatch | None = None,
    ):
        self._depth, self._clock, self._watch = depth, clock, watch
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
        """Add an item and wait until there is a place for another; returns whether one is wanted.

        ``idle`` is called now and then while there is no place.
        """
        if self._closed:
            return False
        self.items.append(item)
        since = self._waiting_since
        if since is not None and (
            len(self.items) >= self._depth or self._clock() - since > _GROUP_SECONDS
        ):
            self._waiting_since = None
            _release(self._wake)
        if len(self.items) >= self._depth:
            self._wait_for_room(idle)
        return not self._closed

    def wake(self) -> None:
        """Wake the producer up: there is room."""
        self.asleep = False
        _release(self._space)

    def close(self) -> None:
        """Want no more items; a producer that waits for a place returns at once."""
        self._closed = True
        _release(self._space)

    def end(self, error: BaseException) -> None:
        """Add a last item, whether there is a place or not: what is raised instead of it."""
        self.items.append(End(error))
        _release(self._wake)

    def _wait_for_room(self, idle: Callable[[], None] | None) -> None:
        """Sleep until half of the places are free.

        Waking a thread is the most that handing over can cost (20 µs and more, in a machine whose
        cores have gone to sleep), and a training step would pay it. So the producer comes by
        itself after the time that half of the places took the last time. It is woken up only when
        that was too long.
        """
        begun, pause = self._clock(), self._pause
        while len(self.items) > self._half and not self._closed:
            # Said first, looked again after: the consumer may have made room in between.
            self.asleep = True
            if len(self.items) <= self._half:
                break
            if not self._space.acquire(timeout=min(pause, _IDLE_SECONDS)) and idle:
                idle()
            left = len(self.items)
            # At the least: one more may be taken at any moment.
            pace = (self._clock() - begun) / (self._depth - left + 1)
            pause = max(_SHORTEST_PAUSE, pace * (left - self._half))
            self._pause = pace * (self._depth - self._half)
        self.asleep = False

    def wait(self) -> None:
        """Wait until there is an item.

        Raises:
            StoppedError: The waiting thread was stopped.
        """
        begun = self._waiting_since = self._clock()
        # An item that came too early to wake anybody is found at the second look.
        timeout = _GROUP_SECONDS
        while not self.items:
            self._wake.acquire(timeout=timeout)
            timeout = threads.LOOK_SECONDS
            if threads.stopped():
                raise threads.StoppedError
            if self._closed:
                self.end(StopIteration())
            elif self._watch is not None:
                self._watch.look(self._clock() - begun)
        self._waiting_since = None
        if self._watch is not None:
            self._watch.came(self._clock() - begun)


def _release(lock: threading.Lock) -> None:
    # Woken up already.
    with suppress(RuntimeError):
        lock.release()


class PrefetchIterator(Generic[T, P]):
    """What takes the items out of a queue, one thread at a time.

    Each item is a pair: a value, and the progress that is made by taking it; see `prefetch`.
    """

    def __init__(
        self,
        queue: PrefetchQueue[tuple[T, P]],
        on_taken: Callable[[P], object],
        on_end: Callable[[], object] | None = None,
        group: threads.ThreadGroup | None = None,
    ):
        self._queue = queue
        self._on_taken = on_taken
        self._on_end = on_end
        self._group = group
        # Whether a thread is in `__next__`, or none may be. No lock: between looking at it and
        # setting it there is no call, and only at calls does Python change to another thread.
        self._busy = False
        self._inherited = False
        reset_in_child(self)
        self._finalizer = weakref.finalize(self, _close, queue, group)
        self._finalizer.atexit = False

    def __iter__(self) -> "PrefetchIterator[T, P]":
        """Itself."""
        return self

    def __next__(self) -> T:
        """The next value, waiting for it if there is none.

        Raises:
            MosaicDataError: Another thread is waiting for one, or the iterator came over a fork.
            BaseException: What the items ended with, every time they are asked for again.
        """
        # Written out: a training step waits for this, with nothing of it left in the processor's
        # caches, where each call takes microseconds.
        if self._busy:
            raise self._refusal()
        self._busy = True
        try:
            queue = self._queue
            items = queue.items
            if not items:
                queue.wait()
            item = items.popleft()
            if queue.asleep and len(items) <= queue.few:
                queue.wake()
            if type(item) is End:
                queue.end(item.error)
                self._ended(item.error)
                raise item.error
            value, progress = item
            self._on_taken(progress)
            return value
        finally:
            self._busy = False

    @property
    def ready(self) -> int:
        """Values that can be taken without waiting."""
        return sum(type(item) is not End for item in list(self._queue.items))

    def close(self) -> None:
        """End the thread, and drop what it has made ready. May be called again, from any thread."""
        self._on_end = None
        _close(self._queue, self._group)
        # Not before: a close that was interrupted is finished when this is dropped.
        self._finalizer.detach()

    def after_fork(self) -> None:
        """Refuse to be used: the thread that fills the queue is the parent's."""
        self._busy = self._inherited = True

    def _ended(self, error: BaseException) -> None:
        on_end, self._on_end = self._on_end, None
        if on_end is not None and isinstance(error, StopIteration):
            on_end()

    def _refusal(self) -> MosaicDataError:
        if self._inherited:
            return MosaicDataError(
                "this iterator belongs to the process that this one was forked from, whose thread "
                "reads its batches; begin one here, with iter(loader)"
            )
        return MosaicDataError(
            "two threads asked one iterator for a batch at the same time, so that neither would "
            "know which is next; let one thread take the batches"
        )


def prefetch(
    source: Iterator[tuple[T, P]],
    depth: int,
    *,
    on_taken: Callable[[P], object],
    on_end: Callable[[], object] | None = None,
    setup: Callable[[], None] | None = None,
    idle: Callable[[], None] | None = None,
    on_stop: Callable[[], None] = lambda: None,
    watch: WaitWatch | None = None,
) -> PrefetchIterator[T, P]:
    """Run an iterator in its own thread, a few items ahead.

    The thread lives no longer than what is returned: it ends when that is closed, dropped, or the
    interpreter ends.

    Args:
        source: What to run; only the thread touches it. Gives pairs of a value and a progress.
        depth: Items kept ready.
        on_taken: Called with the progress of each value in the thread that takes it.
        on_end: Called once, by the thread that meets the end, unless this was closed before.
        setup: Called in the thread before the first item.
        idle: Called in the thread now and then while it has nothing to do.
        on_stop: Called, perhaps more than once, when the thread is to end: frees it from waits
            that know nothing of that.
        watch: Is notified of how long items are waited for.
    """
    queue: PrefetchQueue[tuple[T, P]] = PrefetchQueue(depth, watch=watch)

    def wake() -> None:
        queue.close()
        on_stop()

    fill = partial(_fill, source, queue, setup, idle)
    group = threads.ThreadGroup([fill], BATCH_THREAD, wake)
    return PrefetchIterator(queue, on_taken, on_end, group)


def _fill(
    source: Iterator[T],
    queue: PrefetchQueue[T],
    setup: Callable[[], None] | None,
    idle: Callable[[], None] | None,
) -> None:
    try:
        if setup:
            setup()
        for item in source:
            if not queue.put(item, idle):
                return
        queue.end(StopIteration())
    except threads.StoppedError:
        if threads.stopped():
            # Closing wakes a thread that waits, so that there is nothing to report.
            raise
        queue.end(
            MosaicDataError("the workers were stopped while batches were wanted; iterate again")
        )
    except BaseException as error:
        # Whatever ends the thread belongs to the caller's thread.
        queue.end(error)


def _close(queue: PrefetchQueue[T], group: threads.ThreadGroup | None) -> None:
    queue.close()
    if group is not None:
        group.close()
    queue.items.clear()
    # A thread that waits for an item waits no longer.
    queue.end(StopIteration())
