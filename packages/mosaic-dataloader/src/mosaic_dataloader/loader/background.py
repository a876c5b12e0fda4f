"""A thread that keeps the next items of an iterator ready."""

import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from mosaic_dataloader.loader.handover import Handover

T = TypeVar("T")

# How long a stop waits for a thread that is in the middle of a download, or waits for one.
_PATIENCE = 10.0


@dataclass(frozen=True)
class _End:
    """Why there are no more items."""

    error: BaseException


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
        self._items: Handover[T | _End] = Handover(depth)
        thread = threading.Thread(
            target=_produce, args=(source, self._items, setup, idle), daemon=True
        )
        thread.name = "mosaic-batches"
        thread.start()
        self._end: BaseException | None = None
        self.close = weakref.finalize(self, _stop, self._items, thread)

    def __iter__(self) -> Iterator[T]:
        """Itself."""
        return self

    def __next__(self) -> T:
        """The next item; raises what the iterator raised, every time it is asked again."""
        if self._end is None and not self.close.alive:
            self._end = StopIteration()
        if self._end is None:
            item = self._items.get()
            if not isinstance(item, _End):
                return item
            self._end = item.error
        raise self._end


def _produce(
    source: Iterator[T],
    items: "Handover[T | _End]",
    setup: Callable[[], None] | None,
    idle: Callable[[], None] | None,
) -> None:
    try:
        if setup:
            setup()
        for item in source:
            if not items.put(item, idle):
                return
        items.end(_End(StopIteration()))
    except BaseException as error:
        # Whatever ends the thread belongs to the caller's thread.
        items.end(_End(error))


def _stop(items: "Handover[T | _End]", thread: threading.Thread) -> None:
    items.close()
    if thread is not threading.current_thread():
        # It is a daemon: one that hangs in a store's client does not keep the process alive.
        thread.join(_PATIENCE)
    # Whoever waits for an item in another thread waits no longer.
    items.end(_End(StopIteration()))
