"""A thread that keeps the next items of an iterator ready."""

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Background(Generic[T]):
    """Runs an iterator in a thread of its own, a few items ahead.

    The thread lives no longer than this object: it is stopped when this is closed, dropped, or the
    interpreter ends.

    Args:
        source: What to run; only the thread touches it.
        depth: Items kept ready.
        setup: Called in the thread before the first item.
    """

    def __init__(self, source: Iterator[T], depth: int, setup: Callable[[], None] | None = None):
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(depth)
        stop = threading.Event()
        thread = threading.Thread(
            target=_produce, args=(source, self._ready, stop, setup), daemon=True
        )
        thread.name = "mosaic-batches"
        thread.start()
        self._ended = False
        self.close = weakref.finalize(self, _stop, stop, self._ready, thread)

    def __iter__(self) -> Iterator[T]:
        """Itself."""
        return self

    def __next__(self) -> T:
        """The next item; raises what the iterator raised."""
        if self._ended or not self.close.alive:
            raise StopIteration
        item, error = self._ready.get()
        if error is not None:
            self._ended = True
            raise error
        return item  # type: ignore[return-value]


def _produce(
    source: Iterator[T],
    ready: "queue.Queue[tuple[T | None, BaseException | None]]",
    stop: threading.Event,
    setup: Callable[[], None] | None,
) -> None:
    try:
        if setup:
            setup()
        for item in source:
            if not _put(ready, stop, (item, None)):
                return
        _put(ready, stop, (None, StopIteration()))
    except BaseException as error:
        # Whatever ends the thread belongs to the caller's thread.
        _put(ready, stop, (None, error))


def _put(
    ready: "queue.Queue[tuple[T | None, BaseException | None]]",
    stop: threading.Event,
    entry: tuple[T | None, BaseException | None],
) -> bool:
    while not stop.is_set():
        try:
            ready.put(entry, timeout=0.1)
        except queue.Full:
            continue
        return True
    return False


def _stop(
    stop: threading.Event,
    ready: "queue.Queue[tuple[T | None, BaseException | None]]",
    thread: threading.Thread,
) -> None:
    stop.set()
    with contextlib.suppress(queue.Empty):
        # A free place lets a waiting thread notice at once.
        ready.get_nowait()
    if thread is not threading.current_thread():
        thread.join()
