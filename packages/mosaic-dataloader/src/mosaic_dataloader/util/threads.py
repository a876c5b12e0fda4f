"""Threads beside the caller's: how they are started, how they wait, and how they end.

All of them are daemons and belong to a group that can be stopped. A stopped thread leaves its next
wait (for a download, a lock, a pause between two tries) by an error, so that ending it takes no
longer than what it computes at that moment. What is left at the interpreter's end is stopped
together.

``concurrent.futures`` has its threads finish all queued jobs before the interpreter may end: with
hundreds of shards queued that takes minutes after an error.
"""

import atexit
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")

logger = logging.getLogger(__name__)

# How often a thread that waits looks whether it is stopped.
LOOK_SECONDS = 0.05
# Seconds that closing waits for threads in the middle of something, and that the interpreter's end
# waits for those of all loaders together. Before the end of the first second nothing is logged.
_CLOSE_SECONDS = 10.0
_EXIT_SECONDS = 5.0
_QUIET_SECONDS = 1.0


class StoppedError(BaseException):
    """This thread's group was stopped. No ``Exception``: nothing may take it for a failed try."""


class StopSignal(Protocol):
    """What tells a thread to stop, such as a ``threading.Event``."""

    def is_set(self) -> bool:
        """Whether the thread is to stop."""
        ...

    def wait(self, timeout: float) -> bool:
        """Wait for so many seconds at most; whether the thread is to stop."""
        ...


_own = threading.local()


def stop_with(signal: StopSignal) -> None:
    """Have the waits of the present thread end with StoppedError once the signal is set."""
    _own.stop = signal


def stopped() -> bool:
    """Whether the present thread was stopped."""
    stop = getattr(_own, "stop", None)
    return stop is not None and stop.is_set()


def sleep(seconds: float) -> None:
    """Sleep.

    Raises:
        StoppedError: The thread was stopped.
    """
    stop = getattr(_own, "stop", None)
    if stop is None:
        time.sleep(seconds)
    elif stop.wait(seconds):
        raise StoppedError


def wait(event: threading.Event, seconds: float | None = None) -> bool:
    """Wait for an event, for so many seconds at most if they are given; whether it is set.

    Raises:
        StoppedError: The thread was stopped.
    """
    if getattr(_own, "stop", None) is None:
        return event.wait(seconds)
    deadline = float("inf") if seconds is None else time.monotonic() + seconds
    while not event.wait(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic()))):
        if stopped():
            raise StoppedError
        if time.monotonic() >= deadline:
            return False
    return True


class ThreadGroup:
    """Daemon threads that are stopped together.

    Args:
        jobs: What each of them runs. None may refer to what closes the group when it is dropped.
        name: Of the threads.
        wake: Called when the group is stopped, perhaps more than once and in any thread: wakes
            those that wait otherwise than by ``sleep`` and ``wait``.
    """

    def __init__(
        self, jobs: Sequence[Callable[[], None]], name: str, wake: Callable[[], None] = lambda: None
    ):
        self._stop = threading.Event()
        self._wake = wake
        self.threads = [
            threading.Thread(target=self._run, args=(job,), name=name, daemon=True) for job in jobs
        ]
        # It stays there as long as one of them runs.
        _groups.add(self)
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        """Have the threads end, without waiting for it."""
        self._stop.set()
        # Where nobody is left to be woken, others may be using what this would stop.
        if any(thread.is_alive() for thread in self.threads):
            self._wake()

    def close(self) -> None:
        """Stop the threads and wait for them, for some seconds.

        One that is nearly done is waited for: its caller may be about to remove what it uses.
        """
        self.stop()
        _join([self], _CLOSE_SECONDS)

    def _run(self, job: Callable[[], None]) -> None:
        stop_with(self._stop)
        with suppress(StoppedError):
            job()


_groups: "weakref.WeakSet[ThreadGroup]" = weakref.WeakSet()
# A forked process has none of the threads.
os.register_at_fork(after_in_child=_groups.clear)


@atexit.register
def _stop_all() -> None:
    groups = list(_groups)
    for group in groups:
        group.stop()
    _join(groups, _EXIT_SECONDS)


def _join(groups: Iterable[ThreadGroup], seconds: float) -> None:
    own = threading.current_thread()
    left = [thread for group in groups for thread in group.threads if thread is not own]
    begun = time.monotonic()
    for deadline in (begun + _QUIET_SECONDS, begun + seconds):
        for thread in left:
            thread.join(max(0.0, deadline - time.monotonic()))
        left = [thread for thread in left if thread.is_alive()]
        if not left:
            return
        names = ", ".join(sorted({thread.name for thread in left}))
        if time.monotonic() < begun + seconds:
            logger.warning(
                "waiting up to %.0f s for threads that are in the middle of something: %s",
                seconds - _QUIET_SECONDS,
                names,
            )
    logger.warning("not waiting any longer for %s; what they do is dropped", names)


class JobThreads:
    """Runs jobs in their order; those not begun are dropped when it is closed or dropped."""

    def __init__(self, threads: int, name: str):
        jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._jobs = jobs

        def wake() -> None:
            for _ in range(threads):
                jobs.put(None)

        self._group = ThreadGroup([partial(_work, jobs)] * threads, name, wake)
        weakref.finalize(self, self._group.close).atexit = False

    def submit(self, job: Callable[[], None]) -> None:
        """Have a job done; it must not raise."""
        self._jobs.put(job)

    def close(self) -> None:
        """Stop; jobs that run are waited for, for some seconds, and others are dropped."""
        self._group.close()


def _work(jobs: "queue.SimpleQueue[Callable[[], None] | None]") -> None:
    while True:
        job = jobs.get()
        if job is None or stopped():
            return
        job()


def map_concurrent(jobs: Sequence[Callable[[], T]], threads: int, name: str) -> list[T]:
    """Results of jobs, in their order, so many at a time, each run in a thread.

    A single one runs in this thread.

    Raises:
        BaseException: What the first job in the order raised that raised anything; those not
            begun by then are dropped.
    """
    if len(jobs) == 1:
        return [jobs[0]()]
    outcomes = [Outcome(job) for job in jobs]
    pool = JobThreads(min(threads, len(jobs)), name)
    try:
        for outcome in outcomes:
            pool.submit(outcome.run)
        return [outcome.result() for outcome in outcomes]
    finally:
        pool.close()


def run_async(job: Callable[[], T], name: str) -> Callable[[], T]:
    """Begin a job in a thread.

    What is returned waits for its result, or raises what it raised. It need not be called.
    """
    outcome = Outcome(job)
    ThreadGroup([outcome.run], name)
    return outcome.result


class Outcome(Generic[T]):
    """What a job that is run in another thread comes to.

    Attributes:
        ended: Set when it has ended.
    """

    def __init__(self, job: Callable[[], T]):
        self._job = job
        self.ended = threading.Event()
        self._results: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Run the job."""
        try:
            self._results.append(self._job())
        except BaseException as error:
            # Whatever it is, it belongs to the thread that wants the result.
            self._error = error
        finally:
            self.ended.set()

    def result(self) -> T:
        """Wait for its result, or raise what it raised."""
        wait(self.ended)
        if self._error is not None:
            raise self._error
        return self._results[0]
