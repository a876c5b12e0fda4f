"""A few threads that do small jobs in order, and that nobody has to wait for at the end.

``concurrent.futures`` has its threads finish all queued jobs before the interpreter may end: with
hundreds of shards queued that takes minutes after an error.
"""

import queue
import threading
import time
import weakref
from collections.abc import Callable

# Seconds that a stop waits for jobs in the middle of a download, all of them together.
_PATIENCE = 5.0


class DaemonPool:
    """Runs jobs in daemon threads; jobs not begun are dropped when it is closed or dropped.

    Args:
        threads: How many jobs run at a time.
        name: Of the threads.
    """

    def __init__(self, threads: int, name: str):
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        stop = threading.Event()
        workers = [
            threading.Thread(
                target=_work, args=(self._jobs, stop), name=f"{name}-{number}", daemon=True
            )
            for number in range(threads)
        ]
        for worker in workers:
            worker.start()
        self.close = weakref.finalize(self, _stop, self._jobs, stop, workers)

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
    jobs: "queue.SimpleQueue[Callable[[], None] | None]",
    stop: threading.Event,
    workers: list[threading.Thread],
) -> None:
    stop.set()
    for _ in workers:
        jobs.put(None)
    # A job that is nearly done is waited for: its caller may be about to remove what it writes to.
    deadline = time.monotonic() + _PATIENCE
    for worker in workers:
        if worker is not threading.current_thread():
            worker.join(max(0.0, deadline - time.monotonic()))
