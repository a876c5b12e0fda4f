"""A thread that keeps the next items of an iterator ready."""

import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from mosaic_dataloader.loader.handover import Handover

T = TypeVar("T")

# How long a stop waits for a thread that is in the middle of a download, or waits for one.
_PATIENCE = 10.0


class Background(Generic[T]):
    """Runs an iterator in a thread of its own, a few items ahead.

    The thread lives no longer than this object: it is stopped when this is closed, dropped, or the
    interpreter ends.

    Args:
        source: What to run; only the thread touches it.
        depth: Items kept ready.
        setup: Called in the thread before the first item.
        idle: Called in the thread now and then while it has nothing to do.

    Attributes:
        handover: Where items wait.
    """

    def __init__(
        self,
        source: Iterator[T],
        depth: int,
        setup: Callable[[], None] | None = None,
        idle: Callable[[], None] | None = None,
    ):
        self.handover: Handover[T] = Handover(depth)
        thread = threading.Thread(
            target=_produce, args=(source, self.handover, setup, idle), daemon=True
        )
        thread.name = "mosaic-batches"
        thread.start()
        self.close = weakref.finalize(self, _stop, self.handover, thread)

    def __iter__(self) -> Iterator[T]:
        """Itself."""
        return self

    def __next__(self) -> T:
        """The next item; raises what the iterator raised, every time it is asked again."""
        return self.handover.get()


def _produce(
    source: Iterator[T],
    items: Handover[T],
    setup: Callable[[], None] | None,
    idle: Callable[[], None] | None,
) -> None:
    try:
        if setup:
            setup()
        for item in source:
            if not items.put(item, idle):
                return
        items.end(StopIteration())
    except BaseException as error:
        # Whatever ends the thread belongs to the caller's thread.
        items.end(error)


def _stop(items: Handover[T], thread: threading.Thread) -> None:
    items.close()
    if thread is not threading.current_thread():
        # It is a daemon: one that hangs in a store's client does not keep the process alive.
        thread.join(_PATIENCE)
    items.clear()
    # Whoever waits for an item in another thread waits no longer.
    items.end(StopIteration())
