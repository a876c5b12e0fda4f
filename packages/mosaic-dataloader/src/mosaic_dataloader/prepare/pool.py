"""Processes that encode blocks side by side, with results in order."""

import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self, TypeVar

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.blocks import Block
from mosaic_dataloader.prepare.encode import EncoderSpec, Result

Task = tuple[Block, Sequence[str]]
_Item = TypeVar("_Item")

# Blocks under way for each process: one that it works on, one that waits for it or is waited for.
_AHEAD = 2


class Pool:
    """Worker processes, started as they are needed.

    Each is served by one thread, which sends it a block and waits for the answer. They are plain
    subprocesses and not `multiprocessing`'s: those import the caller's main module, need semaphores
    and outlive a parent that is killed.

    Args:
        spec: What they are to do.
        processes: How many at most.
    """

    def __init__(self, spec: EncoderSpec, processes: int):
        self._spec = spec
        self._size = processes
        self._threads = ThreadPoolExecutor(processes, "prepare-worker")
        self._reader = ThreadPoolExecutor(1, "prepare-reader")
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._workers: list[_Worker] = []
        self._closed = False

    def __enter__(self) -> Self:
        """Ready; no process is started yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all processes; those at work on an error are killed."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._reader.shutdown(wait=False, cancel_futures=True)
        if kind is not None:
            for worker in list(self._workers):
                worker.kill()
        # A killed worker's thread notices; only then may its connection be closed.
        self._threads.shutdown()
        for worker in self._workers:
            worker.close()

    def map(self, tasks: Iterable[Task]) -> Iterator[Result]:
        """Results of the tasks, in the tasks' order.

        Args:
            tasks: Read a little ahead, in a thread of their own.

        Raises:
            MosaicDataError: Input cannot be read, or a worker was killed.
        """
        pending: deque[Future[Result]] = deque()
        for task in _ahead(tasks, self._reader):
            pending.append(self._threads.submit(self._encode, task))
            if len(pending) >= _AHEAD * self._size:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    def _encode(self, task: Task) -> Result:
        try:
            worker = self._idle.get_nowait()
        except Empty:
            worker = _Worker(self._spec)
            self._workers.append(worker)
            if self._closed:
                worker.kill()
        result = worker.encode(task)
        self._idle.put(worker)
        return result


class _Worker:
    """One process."""

    def __init__(self, spec: EncoderSpec):
        self._connection, theirs = Pipe()
        environment = {
            **os.environ,
            # The same modules as here, wherever they were found.
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            # One process, one core.
            "TOKENIZERS_PARALLELISM": "false",
            "RAYON_NUM_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        with theirs:
            # -P: a file in the current directory must not pass for a library's module.
            command = [sys.executable, "-P", "-m", "mosaic_dataloader.prepare.worker"]
            self._process = subprocess.Popen(
                [*command, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
            )
        self._ask(self._connection.send, spec)

    def encode(self, task: Task) -> Result:
        """Have a block encoded."""
        self._ask(self._connection.send, task)
        answer = self._ask(Connection.recv, self._connection)
        if isinstance(answer, Result):
            return answer
        if isinstance(answer, MosaicDataError):
            raise answer
        raise RuntimeError(f"a worker process failed:\n{answer}")

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()

    def close(self) -> None:
        """Let it end, and wait until it has."""
        self._connection.close()
        self._process.wait()

    def _ask(self, call: Callable[[_Item], object], argument: _Item) -> object:
        try:
            return call(argument)
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise MosaicDataError(
                f"prepare: a worker process ended with exit code {code}; if the system killed it "
                f"for want of memory, use fewer processes or a smaller max_document_bytes"
            ) from error


def _ahead(items: Iterable[_Item], reader: ThreadPoolExecutor) -> Iterator[_Item]:
    """The items, of which the next one is made while one is in use."""
    iterator = iter(items)
    end = object()
    following = reader.submit(next, iterator, end)
    while (item := following.result()) is not end:
        following = reader.submit(next, iterator, end)
        yield item  # type: ignore[misc]


def available_cores() -> int:
    """Cores that this process may use, by its affinity and its control group's quota."""
    cores = len(os.sched_getaffinity(0))
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return cores
    return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
