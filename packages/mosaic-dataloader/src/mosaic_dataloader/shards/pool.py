"""A few threads that do small jobs in order, and that nobody has to wait for at the end.

``concurrent.futures`` has its threads finish all queued jobs before the interpreter may end: with
hundreds of shards queued that takes minutes after an error.
"""

import queue
import threading
import weakref
from collections.abc import Callable


class DaemonPool:
    """Runs jobs in daemon threads; jobs not begun are dropped when it is closed or dropped.

    Args:
        threads: How many jobs run at a time.
        name: Of the threads.
    """

    def __init__(self, threads: int, name: str):
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        stop = threading.Event()
        for number in range(threads):
            threading.Thread(
                target=_work, args=(self._jobs, stop), name=f"{name}-{number}", daemon=True
            ).start()
        self.close = weakref.finalize(self, _stop, self._jobs, stop, threads)

    def submit(self, job: Callable[[], None]) -> None:
        """Have a job done; it must not raise."""
        self._jobs.put(job)


def _work(jobs: "queue.SimpleQueue[Callable[[], None] | None]", stop: threading.Event) -> None:
    while True:
        job = jobs.get()
        if job is None or stop.is_set():
            return
        job()


def _stop(
    jobs: "queue.SimpleQueue[Callable[[], None] | None]", stop: threading.Event, threads: int
) -> None:
    stop.set()
    for _ in range(threads):
        jobs.put(None)
