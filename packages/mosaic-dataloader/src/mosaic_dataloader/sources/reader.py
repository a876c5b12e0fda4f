"""Batches made ready in the background, for training and for validation."""

import copy
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import torch

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.options import LoaderOptions
from mosaic_dataloader.order.batches import Layout
from mosaic_dataloader.reading.positions import positions_from_ends
from mosaic_dataloader.reading.prefetch import PrefetchIterator, prefetch
from mosaic_dataloader.reading.rows import RowBatch
from mosaic_dataloader.reading.stalls import WaitWatch
from mosaic_dataloader.reading.workers import Fetch, ReadAhead, WorkerPool
from mosaic_dataloader.sources import BatchSource
from mosaic_dataloader.state.progress import EpochPass, Progress
from mosaic_dataloader.util.arguments import integer

# Batches that are kept ready by default take no more than this, unless two do.
_READY_BYTES = 16 << 20

Rows = tuple[dict[str, torch.Tensor], torch.Tensor]


class BatchReader:
    """Runs one iteration at a time, and closes everything that it started.

    Attributes:
        watch: How long batches were waited for.

    Raises:
        MosaicDataError: An argument cannot be used.
    """

    def __init__(
        self,
        dataset: StreamingTextDataset,
        layout: Layout,
        options: LoaderOptions,
    ):
        if options.persistent_workers and not options.num_workers:
            raise MosaicDataError("persistent_workers = true needs num_workers of at least 1")
        self._dataset = dataset
        self._options = options
        self._pin, self._thread_setup = _pinner(options.pin_memory)
        # Inputs, labels and positions, int64 each.
        batch_bytes = (2 + dataset.options.positions) * 8 * layout.batch_size * dataset.seq_len
        self._depth = options.prefetch_factor or max(2, min(16, _READY_BYTES // batch_bytes))
        # Workers keep their own batches ready.
        self._kept_ready = 2 if options.num_workers else self._depth
        self._workers: WorkerPool | None = None
        self.watch = WaitWatch(options.stall_warning, self._held_up_by)
        # Weak: an iteration that its caller drops stops reading at once.
        self._iterator: weakref.ref[PrefetchIterator[Rows, Progress]] | None = None

    def start(
        self,
        source: BatchSource,
        progress: Progress,
        extent: EpochPass | None,
        *,
        on_taken: Callable[[Progress], object],
        on_end: Callable[[], object] | None = None,
        after_first: Callable[[], None] | None = None,
    ) -> PrefetchIterator[Rows, Progress]:
        """Begin an iteration; its batches are for one thread at a time.

        Args:
            source: Where its batches come from.
            progress: Where it begins.
            extent: Where it ends; None for never.
            on_taken: Called with the progress of each batch in the thread that takes it.
            on_end: Called by the thread that meets the end.
            after_first: Begins, in the background, what the first batch is not to wait for.
        """
        store, options = self._dataset.store, self._options
        store.register()
        if options.num_workers and (self._workers is None or self._workers.inherited):
            # Opened again: no file or lock is shared with the workers.
            theirs = copy.copy(self._dataset)
            self._workers = WorkerPool(
                partial(_read_and_count, theirs, source.fetch(theirs)),
                store.traffic,
                options.num_workers,
                options.prefetch_factor,
                options.persistent_workers,
            )
        under_way = options.num_workers * (options.prefetch_factor or 2)
        ahead = ReadAhead(self._depth, self._workers, under_way)
        iterator = prefetch(
            self._ready(source.batches(progress, extent, ahead), ahead, after_first),
            self._kept_ready,
            on_taken=on_taken,
            on_end=on_end,
            setup=self._thread_setup,
            idle=store.release,
            on_stop=self._workers.stop if self._workers else lambda: None,
            watch=self.watch,
        )
        self._iterator = weakref.ref(iterator)
        return iterator

    @property
    def ready(self) -> int:
        """Batches that can be taken without waiting."""
        iterator = self._iterator() if self._iterator else None
        return 0 if iterator is None else iterator.ready

    def close(self) -> None:
        """End the iteration, if one runs."""
        iterator = self._iterator() if self._iterator else None
        if iterator is not None:
            iterator.close()
        self._iterator = None

    def _held_up_by(self) -> list[str]:
        """What a batch that does not come is waiting for, in words."""
        store = self._dataset.store
        asked = self._workers.awaited() if self._workers else None
        return store.held_up_by(asked) if asked else store.held_up_by()

    def _ready(
        self,
        batches: Iterator[tuple[RowBatch, Progress]],
        ahead: ReadAhead,
        after_first: Callable[[], None] | None,
    ) -> Iterator[tuple[Rows, Progress]]:
        pin, positions = self._pin, self._dataset.options.positions
        # The progress of each is dropped here and not where batches are taken, for packed lanes
        # are many: so many may be made before the last one taken is passed.
        kept: deque[Progress] = deque(maxlen=self._kept_ready + 3)
        with closing(ahead), self._dataset.store.iterating():
            for batch, progress in batches:
                kept.append(progress)
                inputs = {"input": pin(batch.inputs)}
                if positions:
                    assert batch.ends is not None
                    count, length = batch.inputs.shape
                    places = positions_from_ends(batch.ends, (count, length))
                    inputs["positions"] = pin(torch.from_numpy(places))
                yield (inputs, pin(batch.labels)), progress
                # Not before: a thread that was abandoned must not be asked for more.
                if after_first:
                    after_first()
                    after_first = None


def _read_and_count(
    dataset: StreamingTextDataset, fetch: Fetch, shards: list[int], places: list[int]
) -> tuple[Any, list[int] | None]:
    """In a worker: what is read, and what was counted since the last time."""
    read = fetch(shards, places)
    return read, dataset.store.traffic.take()


def _pinner(
    pin_memory: bool,
) -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[], None] | None]:
    """How to pin a tensor, and what a thread that pins has to do first.

    Raises:
        MosaicDataError: Pinning was asked for and there is no accelerator to copy to.
    """
    if not pin_memory:
        return (lambda tensor: tensor), None
    if not torch.cuda.is_available():
        raise MosaicDataError("pin_memory = true needs a CUDA device; set it to false")
    device = torch.cuda.current_device()
    # A new thread starts on device 0 and would make a context there.
    return torch.Tensor.pin_memory, lambda: torch.cuda.set_device(device)


def checked_layout(dp_rank: int, dp_world_size: int, batch_size: int, num_nodes: int) -> Layout:
    """The layout of a rank.

    Raises:
        MosaicDataError: A number cannot be.
    """
    integer("dp_world_size", dp_world_size, 1)
    integer("batch_size", batch_size, 1)
    integer("num_nodes", num_nodes, 1)
    if integer("dp_rank", dp_rank, 0) >= dp_world_size:
        raise MosaicDataError(f"dp_rank = {dp_rank} is not among {dp_world_size} ranks")
    return Layout(dp_rank, dp_world_size, batch_size)
