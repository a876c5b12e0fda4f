"""Rows that are samples, one each."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.batches import (
    BatchRequest,
    Layout,
    endless_batches,
    one_pass,
    own_rows,
    own_rows_of_batch,
)
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.sequence import EpochStart
from mosaic_dataloader.order.skip import Range
from mosaic_dataloader.reading.origins import PreviewRow, RowOrigin, sample_fields
from mosaic_dataloader.reading.rows import RowBatch
from mosaic_dataloader.reading.workers import Answers, Fetch, ReadAhead, read_here
from mosaic_dataloader.sources.common import open_sequence, samples_ahead, shards_ahead
from mosaic_dataloader.state.identity import PROBED, probe
from mosaic_dataloader.state.progress import EpochPass, Progress, RunOrder
from mosaic_dataloader.state.saved import SavedState
from mosaic_dataloader.state.stages import Reached
from mosaic_dataloader.storage.cache import largest_shard
from mosaic_dataloader.storage.lookahead import LookAhead

# Enough documents for all of a tokenizer's threads.
_ENCODED_ROWS = 128
# Shards that are fetched ahead by default: two for each thread, if they do not take more than this.
_SHARDS_AHEAD = 16
_BYTES_AHEAD = 256 << 20

T = TypeVar("T")
Requests = Callable[[], Iterator[BatchRequest]]


class SampleRows:
    """Batches whose rows are samples.

    Attributes:
        mixture: The streams.
        sequence: The samples at the positions of the order.
        first_position: Where the run's position was before the first batch of the present order.
        length_known: Whether the rows of an epoch are known before they are read.
        counts_all_ranks: Whether ``samples`` counts those of all ranks.
        unit: What positions of the order count.
    """

    length_known = True
    counts_all_ranks = True
    unit = "sample"

    def __init__(self, dataset: StreamingTextDataset, layout: Layout, order: RunOrder):
        self.dataset = dataset
        self.layout = layout
        self.order = order
        self.mixture = dataset.weighed(order.means)
        self.sequence = open_sequence(dataset, self.mixture, order, order.start)
        self.first_position = max(order.start.samples, order.skipped)

    def check(self, extent: EpochPass | None) -> None:
        """See that the data suffice for the layout.

        Raises:
            MosaicDataError: They do not, or the run would begin in the middle of a batch in which
                its order is built.
        """
        self.sequence.check()
        skipped, batch = self.order.skipped, self.order.options.order_batch
        if batch and skipped % batch and self.order.start == EpochStart():
            below = skipped // batch * batch
            raise MosaicDataError(
                f"skip_samples = {skipped} ends inside a global batch of {batch}, and "
                f"batching_method = {self.order.options.batching_method!r} orders data by it; use "
                f"{below} or {below + batch}"
            )
        if batch:
            self._check_skip(batch)
        length, size = self.sequence.epoch_length, self.layout.global_batch
        if extent and extent.drop_last and length < size:
            raise MosaicDataError(
                f"an epoch of {length} samples does not fill one global batch of {size}; add "
                f"data, lower the batch size, or set drop_last to false"
            )

    def _check_skip(self, batch: int) -> None:
        begin = self.order.start.samples
        for start, stop in self.order.skip.ranges:
            if stop > begin and ((start - begin) % batch or (stop - begin) % batch):
                below = start - (start - begin) % batch
                above = stop + (begin - stop) % batch
                raise MosaicDataError(
                    f"skip leaves out samples {start:,} to {stop:,}, a part of a global batch of "
                    f"{batch}, and batching_method = {self.order.options.batching_method!r} orders "
                    f'data by it; use "{below}:{above}"'
                )

    def begin(self) -> Progress:
        """The progress of a run before its first batch."""
        none = np.zeros(len(self.mixture.streams), np.int64)
        return Progress(self.order.skipped, none, none, {})

    def resume(self, saved: SavedState, state: Mapping[str, Any]) -> Progress:
        """The progress that was saved."""
        seen = np.array(saved.seen, np.int64)
        return Progress(saved.samples_seen, seen, np.zeros_like(seen), {})

    def follows(self, saved: SavedState, state: Mapping[str, Any], progress: Progress) -> bool:
        """Whether the order gives the samples that the saved run would have seen next.

        The order is built for it, a moment before the first batch would have it built.
        """
        if saved.probe is None:
            return True
        self.sequence.check()
        return self.probe(progress) in (None, saved.probe)

    def reached(self, saved: SavedState, state: Mapping[str, Any]) -> Reached:
        """The position: samples are drawn one after another."""
        return Reached(saved.samples_seen, saved.samples_seen)

    def fetch(self, dataset: StreamingTextDataset) -> Fetch:
        """What reads a batch in a worker process."""
        return partial(_read_rows, dataset)

    def batches(
        self, progress: Progress, extent: EpochPass | None, ahead: ReadAhead
    ) -> Iterator[tuple[RowBatch, Progress]]:
        """Batches from a progress on, each with the progress that handing it out makes.

        Called in the main thread, where workers are started; the batches are made wherever the
        iterator is used. Without an ``extent`` they never end.
        """
        requests = partial(self._requests, progress.samples_seen, extent)
        # The workers start here, and not when the first batch is asked for.
        answers = ahead.ask(requests())
        return self._batches(progress, requests, answers, ahead)

    def _batches(
        self,
        progress: Progress,
        requests: Requests,
        answers: Answers | None,
        ahead: ReadAhead,
    ) -> Iterator[tuple[RowBatch, Progress]]:
        # Its threads start here, after the workers: a process is forked while nothing else runs.
        shards = self._look_ahead(requests)
        size = self.layout.batch_size
        if answers is None:
            # While half of the batches that are kept ready are used up, the other half is read: a
            # tokenizer that keeps up with training never lets it wait.
            rows = min(_ENCODED_ROWS, size * max(1, ahead.depth // 2))
            read = read_here(self.dataset.rows, _fetching(requests(), shards, size), rows)
        else:
            received = (
                (request, RowBatch(torch.from_numpy(inputs), torch.from_numpy(labels), full, ends))
                for request, (inputs, labels, full, ends) in answers
            )
            read = _fetching(received, shards, size)
        try:
            with closing(read):
                for request, batch in read:
                    targets = progress.targets + self._targets(request, batch)
                    seen = progress.seen + request.per_stream
                    progress = Progress(request.stop, seen, targets, progress.lanes)
                    yield batch, progress
        finally:
            if shards:
                shards.close()

    def pass_ended(self, begun: Progress, last: Progress) -> Progress:
        """At the epoch's end; what lies before it is not counted as seen."""
        _, place = self.sequence.locate(begun.samples_seen)
        end = begun.samples_seen + self.sequence.epoch_length - place
        return last._replace(samples_seen=end)

    def rows(self, progress: Progress) -> int:
        """Rows that all ranks together were handed."""
        position = progress.samples_seen
        return position - self.order.skipped - self.order.skip.before(position)

    def samples(self, progress: Progress) -> Int64Array:
        """Samples handed out to all ranks, int64[streams]."""
        return progress.seen

    def position(self, progress: Progress) -> int:
        """Samples of the order drawn so far."""
        return progress.samples_seen

    def epochs(self, progress: Progress) -> tuple[int, float]:
        """The epoch that the next sample belongs to, and the position in epochs."""
        epoch, place = self.sequence.locate(progress.samples_seen)
        return epoch, epoch + place / self.sequence.epoch_length

    def describe(self, position: int) -> str:
        """A position in words."""
        return f"sample {position:,} of the order"

    def epoch_rows(self) -> int:
        """Rows in an epoch."""
        return self.sequence.epoch_length

    def probe(self, progress: Progress) -> str | None:
        """Digest of the samples that come next, as far as their epoch goes.

        The epoch that follows is not asked for: its order may not exist yet.
        """
        return probe(self.sequence.next_ids(progress.samples_seen, PROBED))

    def save_lanes(self, progress: Progress) -> dict[str, str]:
        """Nothing is packed."""
        return {}

    def preview(
        self, progress: Progress, position: int, report: Callable[[int, int], None] | None = None
    ) -> Generator[PreviewRow, None, None]:
        """Rows batch by batch, in each rank after rank as they read them. Nothing is read."""
        while True:
            stretches = self.order.skip.stretches(position, self.layout.global_batch)
            yield from self._preview_batch(stretches)
            position = stretches[-1][1]

    def reads(self, position: int, batches: int, ranks: Sequence[int]) -> Iterator[Int64Array]:
        """Sample ids that ranks read for each of the global batches from a position on."""
        skip, size = self.order.skip, self.layout.global_batch
        layouts = [replace(self.layout, rank=rank) for rank in ranks]
        while batches:
            position, free = skip.stretch(position)
            # Looked up together, and without what a request says of the other ranks' rows.
            count = min(batches, self.layout.most_batches, free // size)
            if count:
                begins = position + size * np.arange(count, dtype=np.int64)[:, None]
                own = [begins + own_rows(self.sequence, one, position, count) for one in layouts]
                positions = np.concatenate(own, axis=1)
                position += count * size
            else:
                count, stretches = 1, skip.stretches(position, size)
                rows = np.concatenate([np.arange(*stretch) for stretch in stretches])
                own = [own_rows_of_batch(self.sequence, one, stretches) for one in layouts]
                positions = rows[np.concatenate(own)][None]
                position = stretches[-1][1]
            yield from self.sequence.ids_at(positions.ravel()).reshape(positions.shape)
            batches -= count

    def stream_counts(self, progress: Progress, position: int, batches: int) -> Int64Array:
        """Samples of each stream in the global batches from a position on."""
        size = self.layout.global_batch
        stretches = self.order.skip.stretches(position, batches * size)
        ids = np.concatenate([self.sequence.rows(*stretch)[0] for stretch in stretches])
        return self.mixture.count_per_stream(ids.reshape(batches, size))

    def _requests(self, start: int, extent: EpochPass | None) -> Iterator[BatchRequest]:
        skip = self.order.skip
        if extent is None:
            return endless_batches(self.sequence, self.layout, start, skip)
        return one_pass(
            self.sequence,
            self.layout,
            start,
            drop_last=extent.drop_last,
            last=extent.repeated,
            skip=skip,
        )

    def _targets(self, request: BatchRequest, batch: RowBatch) -> Int64Array:
        """Target tokens of the rank's rows, int64[streams]: labels that are not ignored."""
        if batch.full:
            full: Int64Array = request.own_per_stream * batch.labels.shape[1]
            return full
        per_row = (batch.labels.numpy() >= 0).sum(axis=1)
        # A row of padding (-1) has no target, whatever stream it is taken for.
        streams = self.mixture.stream_of(np.maximum(request.ids, 0))
        counts = np.bincount(streams, weights=per_row, minlength=len(self.mixture.streams))
        return counts.astype(np.int64)

    def _look_ahead(self, requests: Requests) -> LookAhead | None:
        dataset = self.dataset
        predownload = samples_ahead(dataset, self.layout.batch_size)
        if not dataset.store.fetches or not predownload:
            return None
        least = 0
        if dataset.options.predownload is None:
            # So many samples may all be in one shard: then nothing would come while it is read.
            least = max(2, min(_SHARDS_AHEAD, _BYTES_AHEAD // largest_shard(dataset.streams)))
        most = shards_ahead(dataset)
        return LookAhead(dataset.store, self.mixture, requests(), predownload, least, most)

    def _preview_batch(self, stretches: list[Range]) -> Iterator[PreviewRow]:
        ids = np.concatenate([self.sequence.rows(*stretch)[0] for stretch in stretches])
        fields = sample_fields(self.dataset.streams, self.mixture, ids)
        epochs = [epoch for s in stretches for epoch in self.sequence.epochs(*s).tolist()]
        positions = [position for stretch in stretches for position in range(*stretch)]
        counts = np.eye(len(self.mixture.streams), dtype=np.int64)[self.mixture.stream_of(ids)]
        for rank in range(self.layout.world_size):
            own = own_rows_of_batch(self.sequence, replace(self.layout, rank=rank), stretches)
            for row, index in enumerate(own.tolist()):
                at = positions[index]
                origin = RowOrigin(at, rank, row, epoch=epochs[index], **fields[index])
                read = partial(self._read_origin, origin)
                yield PreviewRow(at, rank, row, (origin,), counts[index], read)

    def _read_origin(self, origin: RowOrigin) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, labels, *_ = self.dataset.rows.batch([origin.shard_number], [origin.place])
        return inputs[0], labels[0]


def _fetching(
    items: Iterator[T], ahead: LookAhead | None, samples: int
) -> Generator[T, None, None]:
    """The items, each of so many samples; with each, shards are fetched further ahead."""
    for item in items:
        if ahead:
            ahead.consumed(samples)
        yield item


def _read_rows(dataset: StreamingTextDataset, shards: list[int], places: list[int]) -> Any:
    """Read a batch in a worker; arrays come through its pipe."""
    inputs, labels, full, ends = dataset.rows.batch(shards, places)
    return inputs.numpy(), labels.numpy(), full, ends
