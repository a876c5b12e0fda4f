"""A thread that keeps the next items of an iterator ready."""

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

# How often a thread with nothing to do looks whether it is to stop.
_SECONDS = 0.1
# How long a stop waits for a thread that is in the middle of a download, or waits for one.
_PATIENCE = 10.0


@dataclass(frozen=True)
class _Entry(Generic[T]):
    """What the thread passes on: an item, or why there are no more of them."""

    item: T | None = None
    error: BaseException | None = None


class Background(Generic[T]):
    """Runs an iterator in a thread of its own, a few items ahead.

    The thread lives no longer than this object: it is stopped when this is closed, dropped, or the
    interpreter ends.

    Args:
        source: What to run; only the thread touches it.
        depth: Items kept ready.
        setup: Called in the thread before the first item.
        idle: Called in the thread now and then while it has nothing to do.
    """

    def __init__(
        self,
        source: Iterator[T],
        depth: int,
        setup: Callable[[], None] | None = None,
        idle: Callable[[], None] | None = None,
    ):
        self._ready: queue.Queue[_Entry[T]] = queue.Queue(depth)
        stop = threading.Event()
        thread = threading.Thread(
            target=_produce, args=(source, self._ready, stop, setup, idle), daemon=True
        )
        thread.name = "mosaic-batches"
        thread.start()
        self._end: BaseException | None = None
        self.close = weakref.finalize(self, _stop, stop, self._ready, thread)

    def __iter__(self) -> Iterator[T]:
        """Itself."""
        return self

    def __next__(self) -> T:
        """The next item; raises what the iterator raised, every time it is asked again."""
        if self._end is None and not self.close.alive:
            self._end = StopIteration()
        if self._end is None:
            entry = self._ready.get()
            if entry.error is None:
                return entry.item  # type: ignore[return-value]
            self._end = entry.error
        raise self._end


def _produce(
    source: Iterator[T],
    ready: "queue.Queue[_Entry[T]]",
    stop: threading.Event,
    setup: Callable[[], None] | None,
    idle: Callable[[], None] | None,
) -> None:
    try:
        if setup:
            setup()
        for item in source:
            if not _put(ready, stop, idle, _Entry(item)):
                return
        _put(ready, stop, idle, _Entry(error=StopIteration()))
    except BaseException as error:
        # Whatever ends the thread belongs to the caller's thread.
        _put(ready, stop, idle, _Entry(error=error))


def _put(
    ready: "queue.Queue[_Entry[T]]",
    stop: threading.Event,
    idle: Callable[[], None] | None,
    entry: _Entry[T],
) -> bool:
    while not stop.is_set():
        try:
            ready.put(entry, timeout=_SECONDS)
        except queue.Full:
            if idle:
                idle()
            continue
        return True
    return False


def _stop(stop: threading.Event, ready: "queue.Queue[_Entry[T]]", thread: threading.Thread) -> None:
    stop.set()
    with contextlib.suppress(queue.Empty):
        # A free place lets a waiting thread notice at once.
        ready.get_nowait()
    if thread is not threading.current_thread():
        # It is a daemon: one that hangs in a store's client does not keep the process alive.
        thread.join(_PATIENCE)
    with contextlib.suppress(queue.Full):
        # Whoever waits for an item in another thread waits no longer.
        ready.put_nowait(_Entry(error=StopIteration()))
