"""Where batches come from: this process, or worker processes."""

import multiprocessing
import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.batches import BatchRequest
from mosaic_dataloader.reading.documents import joined
from mosaic_dataloader.reading.prefetch import prefetch
from mosaic_dataloader.reading.rows import EncodedBatches, RowBatch
from mosaic_dataloader.storage.cache import largest_shard
from mosaic_dataloader.storage.lookahead import LookAhead
from mosaic_dataloader.util import threads
from mosaic_dataloader.util.forks import reset_in_child, starting

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset

# Shards that are fetched ahead by default: two for each thread, if they do not take more than this.
_SHARDS_AHEAD = 16
_BYTES_AHEAD = 256 << 20

Batch = tuple[BatchRequest, RowBatch]
Requests = Callable[[], Iterator[BatchRequest]]


def read_here(
    dataset: "StreamingTextDataset", requests: Requests, predownload: int, group_rows: int = 1
) -> Iterator[Batch]:
    """Read batches in this process.

    Args:
        dataset: The data.
        requests: Makes the sequence of requests; called again for the look-ahead's own walk.
        predownload: Samples to fetch ahead.
        group_rows: Rows whose texts are encoded at once; fewer at the start, so that the first
            batch waits for its own only.
    """
    ahead = _look_ahead(dataset, requests, predownload)
    wanted = _noted(requests(), ahead)
    try:
        if dataset.rows.has_text:
            yield from _read_texts(dataset, wanted, group_rows)
        else:
            for request in wanted:
                yield request, dataset.rows.batch(request.shards, request.places)
    finally:
        if ahead:
            ahead.close()


def _noted(requests: Iterator[BatchRequest], ahead: LookAhead | None) -> Iterator[BatchRequest]:
    for request in requests:
        if ahead:
            ahead.consumed(len(request.ids))
        yield request


def _read_texts(
    dataset: "StreamingTextDataset", requests: Iterator[BatchRequest], group_rows: int
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
                dataset.rows.encoded(wanted(chain([first], islice(requests, length - 1)), group)),
                group,
            )
            length = max(1, min(2 * length, group_rows // max(1, len(first.ids))))

    ready = prefetch(groups(), 1, on_taken=under_way.extend)
    try:
        for encoded in ready:
            for rows in dataset.rows.written(encoded):
                yield under_way.popleft(), rows
    finally:
        ready.close()


class ParentPipe:
    """How worker processes learn that their parent died, or wants no more of them for now.

    Its writing end is the parent's alone: every process forked from it closes its copy at once. So
    the kernel tells the workers of the parent's death, however and whenever it comes, while they
    start, too. torch's own watchdog asks for the parent's process id after a worker has started,
    and takes the one that adopted an orphan for it. (A signal on the parent's death would not do:
    it comes when the *thread* ends that started the worker.)

    A byte in the pipe, which no worker reads, tells all of them to stop what they wait for.
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
        """Close the parent's end: a worker, or a process that somebody else forked, is running."""
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
    """Reads batches in worker processes, in order.

    The workers know nothing of the order or the position: each is told which rows of which
    shards to read and returns them. What they have read ahead is known here and nowhere counted.

    Args:
        dataset: The data.
        num_workers: Worker processes.
        prefetch_factor: Batches that each keeps ready; torch's default where None.
        persistent: Keep the workers from one iteration to the next.

    Attributes:
        inherited: Whether the workers are those of the process that this one was forked from.
    """

    def __init__(
        self,
        dataset: "StreamingTextDataset",
        num_workers: int,
        prefetch_factor: int | None,
        persistent: bool,
    ):
        self.inherited = False
        reset_in_child(self)
        self._dataset = dataset
        self._sampler = _RequestSampler()
        self._pipe = ParentPipe()
        self._loader: DataLoader[Any] = DataLoader(
            _Fetch(dataset.reopened()),
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

    def read(self, requests: Requests, predownload: int) -> Iterator[Batch]:
        """Read batches; see ``read_here``.

        The workers are started by the call itself: it belongs into the main thread, where torch
        can watch for their deaths and nothing else runs while the process is forked.
        """
        return self._collect(self.answers(requests()), requests, predownload)

    def answers(self, requests: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        """Requests, in their order, each with what a worker read for it.

        Args:
            requests: Each has the attributes ``shards`` and ``places``.
        """
        self._pipe.resume()
        self._sampler.restart(requests)
        return self._answers(iter(self._loader))

    def after_fork(self) -> None:
        """Leave the workers to the parent; if this were dropped here, torch would end them."""
        self.inherited = True
        _of_parents.append(self)

    def stop(self) -> None:
        """Have the workers give up what they wait for; the next call of ``answers`` uses them."""
        self._pipe.stop()

    def _answers(self, iterator: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
        for answer in iterator:
            if answer is None:
                raise threads.StoppedError
            if isinstance(answer, MosaicDataError):
                raise answer
            yield self._sampler.oldest(), answer

    def _collect(
        self, answers: Iterator[tuple[Any, Any]], requests: Requests, predownload: int
    ) -> Iterator[Batch]:
        ahead = _look_ahead(self._dataset, requests, predownload)
        try:
            for request, (inputs, labels, full, ends) in answers:
                if ahead:
                    ahead.consumed(len(request.ids))
                yield (
                    request,
                    RowBatch(torch.from_numpy(inputs), torch.from_numpy(labels), full, ends),
                )
        finally:
            if ahead:
                ahead.close()


# Kept in a forked process until its end.
_of_parents: list[WorkerPool] = []


class _RequestSampler(Sampler[Any]):
    """Hands requests to torch's dataloader and remembers which are under way."""

    def __init__(self) -> None:
        self._requests: Iterator[Any] = iter(())
        self._under_way: deque[Any] = deque()

    def restart(self, requests: Iterator[Any]) -> None:
        self._requests = requests
        self._under_way.clear()

    def oldest(self) -> Any:
        return self._under_way.popleft()

    def __iter__(self) -> Iterator[Any]:
        for request in self._requests:
            self._under_way.append(request)
            # All that a worker needs.
            yield request.shards, request.places


class _Fetch(Dataset[Any]):
    """Reads a batch in a worker; or documents, where they are packed.

    It returns arrays, which come through the worker's pipe. Tensors would come through shared
    memory, handed over by a socket in a temporary folder that a killed worker leaves behind.
    """

    def __init__(self, dataset: "StreamingTextDataset"):
        self._dataset = dataset

    def __getitem__(
        self, wanted: Any
    ) -> (
        tuple[NDArray[np.integer[Any]], NDArray[np.int64]]
        | tuple[NDArray[np.int64], NDArray[np.int64], bool, NDArray[np.int64] | None]
        | MosaicDataError
        | None
    ):
        try:
            if self._dataset.packing:
                return joined(self._dataset.documents.read(*wanted))
            inputs, labels, full, ends = self._dataset.rows.batch(*wanted)
        except MosaicDataError as error:
            # Raised here, torch would wrap its one line into a traceback of many.
            return error
        except threads.StoppedError:
            # The parent asked for that; it takes no notice of the answer.
            return None
        return inputs.numpy(), labels.numpy(), full, ends


def _as_it_is(batch: Any) -> Any:
    return batch


def _look_ahead(
    dataset: "StreamingTextDataset", requests: Requests, predownload: int
) -> LookAhead | None:
    if not dataset.store.fetches or not predownload:
        return None
    largest, least = largest_shard(dataset.streams), 0
    if dataset.predownload is None:
        # So many samples may all be in one shard: then nothing would come while it is read.
        least = max(2, min(_SHARDS_AHEAD, _BYTES_AHEAD // largest))
    most = shards_held_ready(dataset)
    return LookAhead(dataset.store, dataset.mixture, requests(), predownload, least, most)


def shards_held_ready(dataset: "StreamingTextDataset") -> int | None:
    """Shards that may be fetched and wait for their turn; None for any number."""
    if dataset.cache_limit is None:
        return None
    # A quarter of the cache for what comes, the rest for what is in use by this rank or others.
    return max(1, dataset.cache_limit // (4 * largest_shard(dataset.streams)))
