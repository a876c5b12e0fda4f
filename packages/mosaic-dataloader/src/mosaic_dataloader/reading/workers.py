"""Reading what is asked for, in this process or in worker processes."""

import multiprocessing
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.batches import BatchRequest
from mosaic_dataloader.reading.prefetch import prefetch
from mosaic_dataloader.reading.rows import EncodedBatches, RowBatch, RowReader
from mosaic_dataloader.storage.traffic import Traffic
from mosaic_dataloader.util import threads
from mosaic_dataloader.util.forks import reset_in_child, starting

Batch = tuple[BatchRequest, RowBatch]
# Reads what a request asks for, by the shards and places in it.
Fetch = Callable[[list[int], list[int]], Any]


def read_here(
    rows: RowReader, requests: Iterator[BatchRequest], group_rows: int
) -> Generator[Batch, None, None]:
    """Read batches in this process.

    The texts of ``group_rows`` rows are encoded at once; of fewer at the start, so that the first
    batch waits for its own only.
    """
    if rows.has_text:
        yield from _read_texts(rows, requests, group_rows)
        return
    for request in requests:
        yield request, rows.batch(request.shards, request.places)


def _read_texts(
    reader: RowReader, requests: Iterator[BatchRequest], group_rows: int
) -> Iterator[Batch]:
    """Encode one group of batches in a thread, while the one before is written into its rows."""
    under_way: deque[BatchRequest] = deque()

    def wanted(
        group: Iterable[BatchRequest], noted: list[BatchRequest]
    ) -> Iterator[tuple[Sequence[int], Sequence[int]]]:
        for request in group:
            noted.append(request)
            yield request.shards, request.places

    def groups() -> Iterator[tuple[EncodedBatches, list[BatchRequest]]]:
        length = 1
        for first in requests:
            group: list[BatchRequest] = []
            yield (
                reader.encoded(wanted(chain([first], islice(requests, length - 1)), group)),
                group,
            )
            length = max(1, min(2 * length, group_rows // max(1, len(first.ids))))

    ready = prefetch(groups(), 1, on_taken=under_way.extend)
    try:
        for encoded in ready:
            for rows in reader.written(encoded):
                yield under_way.popleft(), rows
    finally:
        ready.close()


class ParentPipe:
    """How worker processes learn that their parent died, or that they are to stop waiting.

    Its writing end is the parent's alone: every process forked from it closes its copy at once. So
    the kernel reports the parent's death to the workers, however and whenever it comes, also while
    they start. torch's own watchdog asks for the parent's process id after a worker has started,
    and takes the process that adopted an orphan for it. (A signal on the parent's death would not
    do: it comes when the *thread* ends that started the worker.)

    A byte in the pipe, which no worker reads, makes all of them stop what they wait for.
    """

    def __init__(self) -> None:
        with starting:
            self._reader, self._writer = multiprocessing.Pipe(duplex=False)
            reset_in_child(self)
        self._parent = os.getpid()
        self._stopped = False
        self._guard = threading.Lock()

    def stop(self) -> None:
        """Have the workers give up what they wait for, a download or a lock."""
        with self._guard:
            if not self._stopped and not self._writer.closed:
                os.write(self._writer.fileno(), b"x")
                self._stopped = True

    def resume(self) -> None:
        """Let the workers wait again."""
        with self._guard:
            if self._stopped:
                os.read(self._reader.fileno(), 1)
                self._stopped = False

    def after_fork(self) -> None:
        """Close the parent's end: a worker, or a process that other code forked, is running."""
        self._writer.close()
        self._guard = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """What a worker has that is started in another way than by a fork."""
        return {"_reader": self._reader, "_parent": self._parent}

    def watch(self, worker: int) -> None:
        """Called in each worker before it reads anything."""
        threads.stop_with(_ByteInPipe(self._reader.fileno()))
        threading.Thread(target=self._watch, name="mosaic-parent", daemon=True).start()

    def _watch(self) -> None:
        # With nothing asked for but the other end's closing, this takes as long as the worker
        # lives.
        poll = select.poll()
        poll.register(self._reader.fileno(), 0)
        poll.poll()
        # A parent that lives has dropped its loader, and torch is about to end this worker in its
        # own way: dying of a signal would be reported as a fault.
        while os.getppid() == self._parent:
            time.sleep(threads.LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)


class _ByteInPipe:
    """Whether a byte lies in a pipe, asked of the pipe itself: it may be taken out again."""

    def __init__(self, file: int):
        self._file = file

    def is_set(self) -> bool:
        return self.wait(0)

    def wait(self, timeout: float) -> bool:
        # One for each call: several threads may wait.
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(timeout * 1000))


class WorkerPool:
    """Answers requests in worker processes, in order.

    The workers know nothing of the order or the position: each is handed the shards and places to
    read, and returns what is there. What they have read ahead is known here and counted nowhere.

    Args:
        fetch: What each worker calls, which returns what it read and what it counted on the way; it
            is pickled where workers are not forked.
        traffic: To which these counts are added.
        num_workers: Worker processes.
        prefetch_factor: Batches that each keeps ready; torch's default where None.
        persistent: Keep the workers from one iteration to the next.

    Attributes:
        inherited: Whether the workers are those of the process that this one was forked from.
    """

    def __init__(
        self,
        fetch: Fetch,
        traffic: Traffic,
        num_workers: int,
        prefetch_factor: int | None,
        persistent: bool,
    ):
        self.inherited = False
        self._traffic = traffic
        reset_in_child(self)
        self._sampler = _RequestSampler()
        self._pipe = ParentPipe()
        self._loader: DataLoader[Any] = DataLoader(
            _Fetched(fetch),
            batch_size=None,
            sampler=self._sampler,
            num_workers=num_workers,
            prefetch_factor=prefetch_factor,
            persistent_workers=persistent,
            collate_fn=_as_it_is,
            worker_init_fn=self._pipe.watch,
            # Its own: workers get their seeds from it, and the trainer's generator stays untouched.
            generator=torch.Generator(),
        )

    def answers(self, requests: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        """Requests, in their order, each with what a worker read for its ``shards`` and ``places``.

        The workers are started by the call itself: it belongs into the main thread, where torch
        can watch for their deaths and nothing else runs while the process is forked.
        """
        self._pipe.resume()
        self._sampler.requests = requests
        self._sampler.under_way.clear()
        return self._answers(iter(self._loader))

    def after_fork(self) -> None:
        """Leave the workers to the parent; if this were dropped here, torch would end them."""
        self.inherited = True
        _of_parents.append(self)

    def awaited(self) -> list[int]:
        """The shards of the oldest request that is not answered yet; none if all are."""
        try:
            # Another thread may take it at this moment.
            return list(self._sampler.under_way[0].shards)
        except IndexError:
            return []

    def stop(self) -> None:
        """Have the workers give up what they wait for; the next call of ``answers`` uses them."""
        self._pipe.stop()

    def _answers(self, iterator: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        for answer in iterator:
            if answer is None:
                raise threads.StoppedError
            if isinstance(answer, MosaicDataError):
                raise answer
            read, counted = answer
            self._traffic.add(counted)
            yield self._sampler.under_way.popleft(), read


# Kept in a forked process until its end.
_of_parents: list[WorkerPool] = []


class _RequestSampler(Sampler[Any]):
    """Hands requests to torch's dataloader and remembers which are under way."""

    def __init__(self) -> None:
        self.requests: Iterator[Any] = iter(())
        self.under_way: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        for request in self.requests:
            self.under_way.append(request)
            # All that a worker needs.
            yield request.shards, request.places


class _Fetched(Dataset[Any]):
    """What a worker reads, or the error or stop that it met.

    It returns arrays, which come through the worker's pipe. Tensors would come through shared
    memory, handed over by a socket in a temporary folder that a killed worker leaves behind.
    """

    def __init__(self, fetch: Fetch):
        self._fetch = fetch

    def __getitem__(self, wanted: tuple[list[int], list[int]]) -> Any:
        try:
            return self._fetch(*wanted)
        except MosaicDataError as error:
            # Raised here, torch would wrap its one line into a traceback of many.
            return error
        except threads.StoppedError:
            # The parent asked for that; it ignores the answer.
            return None


def _as_it_is(batch: Any) -> Any:
    return batch


@dataclass(frozen=True)
class ReadAhead:
    """How far ahead of the caller batches are read.

    Attributes:
        depth: Batches that are kept ready in this process.
        workers: Worker processes; None to read in this process.
        requests: Requests that the workers together have under way.
    """

    depth: int = 1
    workers: WorkerPool | None = None
    requests: int = 0
