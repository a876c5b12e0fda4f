"""The dataloader of validation passes."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.options import LoaderOptions
from mosaic_dataloader.sources import open_source
from mosaic_dataloader.sources.common import log_token_means, new_order
from mosaic_dataloader.sources.reader import BatchReader, Rows, checked_layout
from mosaic_dataloader.state.progress import EpochPass, RunOrder
from mosaic_dataloader.storage.cache import warn_of_thrashing


class ValidationDataloader:
    """The same pass in every iteration: epoch 0 from its first sample, padded at its end.

    Every rank gets equally many batches unless ``uneven_batches`` says otherwise, and no iteration
    changes what the next one yields.

    Args:
        dataset: The data and the order's options.
        dp_rank: Data-parallel rank.
        dp_world_size: Data-parallel ranks.
        batch_size: Rows of one micro-batch on this rank.
        num_nodes: Machines; sets defaults of the order.
        skip_samples: Refused by name: a pass is always the whole one.
        reading: Further `LoaderOptions`: workers, how far to read ahead, pinning.

    Raises:
        MosaicDataError: An argument cannot be used.
    """

    def __init__(
        self,
        dataset: StreamingTextDataset,
        *,
        dp_rank: int,
        dp_world_size: int,
        batch_size: int,
        num_nodes: int = 1,
        skip_samples: int = 0,
        **reading: Any,
    ):
        if skip_samples:
            raise MosaicDataError(
                "skip_samples is for training: a validation pass is always the whole one; remove it"
            )
        if dataset.stage_config is not None:
            raise MosaicDataError(
                "stages are for training: a validation pass reads every sample once; remove them"
            )
        limited = any(dataset.max_repeats.values())
        for name, given in (("skip", dataset.skip), ("max_repeats", limited)):
            if given:
                raise MosaicDataError(
                    f"{name} is for training: a validation pass reads every sample once; remove it"
                )
        layout = checked_layout(dp_rank, dp_world_size, batch_size, num_nodes)
        self.dataset = dataset
        self.dp_rank = dp_rank
        self.dp_world_size = dp_world_size
        self.batch_size = batch_size
        self._layout = layout
        self._options = LoaderOptions(**reading)
        self._order = dataset.options.resolve(
            num_nodes=num_nodes, global_batch=layout.global_batch, local_batch=batch_size
        )
        run = new_order(dataset, RunOrder(self._order))
        self._open(run)
        if not dp_rank:
            log_token_means(dataset, run)
        warn_of_thrashing(dataset.streams, dataset.mixture, self._order, dataset.cache_limit)

    def _open(self, run: RunOrder) -> None:
        self._reader = BatchReader(self.dataset, self._layout, self._options)
        self._source = open_source(self.dataset, self._layout, run)

    def by_stream(self) -> dict[str, "ValidationDataloader"]:
        """A loader of each stream alone, so that a trainer can tell their losses apart.

        Together their passes give each stream as many samples as this loader's pass does; without
        weights each sample once. They read through this loader's data set, and their ranks get
        equally many batches under the same conditions. Each pads its own last batch, and with
        ``packing`` each stream's documents fill the lanes by themselves, so that no row holds
        documents of two streams.

        Returns:
            By the stream's name, in the order of the streams. Streams that give no sample to an
            epoch are left out.

        Raises:
            MosaicDataError: ``batching_method = "stratified"`` asks for batches of all streams.
        """
        sizes = self._source.mixture.streams
        numbers = [number for number, size in enumerate(sizes) if size.choose]
        if len(numbers) > 1 and self._order.batching_method == "stratified":
            raise MosaicDataError(
                'batching_method = "stratified" puts all streams into each batch, and validation '
                "reads one stream after another; remove it"
            )
        return {sizes[number].name: self._of_stream(number) for number in numbers}

    def _of_stream(self, number: int) -> "ValidationDataloader":
        alone = copy.copy(self)
        alone.dataset = self.dataset.of_stream(number, self._source.mixture)
        # A small stream may have fewer samples than the run has machines. The methods that group
        # batches by stream have nothing to group, and would drop what does not fill a batch.
        canonical = min(self._order.num_canonical_nodes, alone.dataset.mixture.epoch_samples)
        order = replace(
            self._order,
            num_canonical_nodes=canonical,
            batching_method="random",
            order_batch=0,
            device_batch=0,
            nodes=0,
        )
        alone._open(RunOrder(order))
        return alone

    def check(self) -> None:
        """See that the data suffice for the layout; iterating does the same.

        Raises:
            MosaicDataError: They do not; the message says what to change.
        """
        self._source.check(_PASS)

    @property
    def uneven_batches(self) -> bool:
        """Whether a pass may give ranks different numbers of batches, as it does with ``packing``.

        Trainers whose ranks run in lockstep then have those that have no batch left run on one in
        which every label is ignored.
        """
        return not self._source.length_known

    def __iter__(self) -> Iterator[Rows]:
        """Iterate over the pass; see `MosaicParallelAwareDataloader.__iter__`."""
        self._reader.close()
        self.check()
        return self._reader.start(
            self._source, self._source.begin(), _PASS, on_taken=lambda progress: None
        )

    def __bool__(self) -> bool:
        """True, also where there is no length."""
        return True

    def __len__(self) -> int:
        """Batches in a pass; the same on every rank.

        Raises:
            TypeError: Documents are packed: how many rows they give is known only when they have
                been read.
        """
        if not self._source.length_known:
            raise TypeError("a dataloader that packs documents has no length")
        return -(-self._source.sequence.epoch_length // self._layout.global_batch)

    def close(self) -> None:
        """Stop reading ahead."""
        self._reader.close()


_PASS = EpochPass(drop_last=False, repeated=True)
