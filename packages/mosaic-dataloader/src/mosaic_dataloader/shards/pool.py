"""A few threads that do small jobs in order, and that nobody has to wait for at the end.

``concurrent.futures`` has its threads finish all queued jobs before the interpreter may end: with
hundreds of shards queued that takes minutes after an error.
"""

import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")

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


def side_by_side(jobs: Sequence[Callable[[], T]], threads: int, name: str) -> list[T]:
    """Results of jobs, in their order, each run in a daemon thread; a single one in this thread.

    Args:
        jobs: What to do.
        threads: How many run at a time.
        name: Of the threads.

    Raises:
        BaseException: What the first job in the order raised that raised anything; those not
            begun by then are dropped.
    """
    if len(jobs) == 1:
        return [jobs[0]()]
    outcomes = [_Outcome(job) for job in jobs]
    pool = DaemonPool(min(threads, len(jobs)), name)
    try:
        for outcome in outcomes:
            pool.submit(outcome.run)
        return [outcome.result() for outcome in outcomes]
    finally:
        pool.close()


def meanwhile(job: Callable[[], T], name: str) -> Callable[[], T]:
    """Begin a job in a daemon thread.

    Args:
        job: What to do.
        name: Of the thread.

    Returns:
        What waits for its result, or raises what it raised. Nobody has to ask.
    """
    outcome = _Outcome(job)
    threading.Thread(target=outcome.run, name=name, daemon=True).start()
    return outcome.result


class _Outcome(Generic[T]):
    """What a job run in another thread comes to."""

    def __init__(self, job: Callable[[], T]):
        self._job = job
        self._ended = threading.Event()
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._results.append(self._job())
        except BaseException as error:
            # Whatever it is, it belongs to whoever wants the result.
            self._error = error
        finally:
            self._ended.set()

    def result(self) -> T:
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._results[0]


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
