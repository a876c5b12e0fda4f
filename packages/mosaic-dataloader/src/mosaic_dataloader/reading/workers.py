"""Reading what is asked for, in this process or in worker processes."""

import multiprocessing
import os
import select
import signal
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
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

# So long a worker of a loader that was dropped waits for torch to end it.
_TORCH_SECONDS = 0.2

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

    def close(self) -> None:
        """Have the workers end: their loader was dropped."""
        self._writer.close()

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
        # A parent that lives has dropped its loader, and torch ends this worker in its own way. But
        # where the loader was collected as garbage, torch's word comes after its queue was closed:
        # it would wait for 5 s and then terminate the worker. Dying of a signal would be reported
        # as a fault.
        deadline = time.monotonic() + _TORCH_SECONDS
        while os.getppid() == self._parent:
            if time.monotonic() > deadline:
                os._exit(0)
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
        # Called before torch ends the workers and waits for that, which finalizers only are after.
        weakref.finalize(self, self._pipe.close).atexit = False
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

    def answers(self, requests: Iterator[Any]) -> "Answers":
        """Requests, in their order, each with what a worker read for its ``shards`` and ``places``.

        The workers are started by the call itself: it belongs into the main thread, where torch
        can watch for their deaths and nothing else runs while the process is forked.
        """
        self._pipe.resume()
        self._sampler.requests = requests
        self._sampler.under_way.clear()
        return Answers(iter(self._loader), self._sampler.under_way, self._traffic)

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


class Answers:
    """What the workers of one iteration read, each with its request.

    It alone holds torch's iterator. Once it is closed, workers that are not persistent have ended,
    whatever holds on to the frames that asked for answers, such as the traceback of an error: torch
    ends them in 5 seconds, and not at once, where its iterator is collected as garbage.
    """

    def __init__(self, iterator: Iterator[Any], under_way: deque[Any], traffic: Traffic):
        self._iterator: Iterator[Any] | None = iterator
        self._under_way = under_way
        self._traffic = traffic

    def __iter__(self) -> "Answers":
        """Itself."""
        return self

    def __next__(self) -> tuple[Any, Any]:
        """The next request and its answer.

        Raises:
            StoppedError: The workers were stopped, or this was closed.
            MosaicDataError: What a worker met.
        """
        answer = None if self._iterator is None else next(self._iterator)
        if answer is None:
            raise threads.StoppedError
        if isinstance(answer, MosaicDataError):
            raise answer
        read, counted = answer
        self._traffic.add(counted)
        return self._under_way.popleft(), read

    def close(self) -> None:
        """Ask for no more."""
        self._iterator = None


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


@dataclass
class ReadAhead:
    """How far ahead of the caller an iteration reads.

    Attributes:
        depth: Batches that are kept ready in this process.
        workers: Worker processes; None to read in this process.
        requests: Requests that the workers together have under way.
    """

    depth: int = 1
    workers: WorkerPool | None = None
    requests: int = 0
    _answers: Answers | None = field(default=None, init=False)

    def ask(self, requests: Iterator[Any]) -> Answers | None:
        """Start the workers, if there are any; see `WorkerPool.answers`."""
        if self.workers is not None:
            self._answers = self.workers.answers(requests)
        return self._answers

    def close(self) -> None:
        """Let the workers go."""
        if self._answers is not None:
            self._answers.close()
