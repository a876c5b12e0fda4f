"""What both sources take from a data set in the same way."""

import logging
from dataclasses import replace
from functools import partial

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.order.sequence import EpochSequence, EpochStart
from mosaic_dataloader.order.stage_sequence import SampleSequence, StageSequence
from mosaic_dataloader.state.progress import RunOrder
from mosaic_dataloader.state.stages import first_stages
from mosaic_dataloader.storage.cache import largest_shard
from mosaic_dataloader.storage.stored_orders import StoredOrders

logger = logging.getLogger(__name__)


def new_order(dataset: StreamingTextDataset, order: RunOrder, *, read: bool = True) -> RunOrder:
    """The order of a new run: its options and what it skips, with all that it takes from the data.

    Where weights count tokens and nothing else says how long samples are, some are read. Without
    ``read`` they are not, and the order is of no use but to be saved before the first batch.

    Raises:
        MosaicDataError: A stage is longer than any run, or a sample cannot be read.
    """
    config = dataset.stage_config
    if config is None and not dataset.counts_tokens:
        return order
    means = tuple(dataset.token_mean(n, read=read) for n in range(len(dataset.streams)))
    if config is None:
        return replace(order, means=means)
    nodes = order.options.num_canonical_nodes
    stages = first_stages(config, dataset.identity.streams, means, nodes)
    return replace(order, means=means, stages=stages)


def log_token_means(dataset: StreamingTextDataset, order: RunOrder) -> None:
    """Say which mean lengths a run goes by, where its weights or stages count tokens."""
    if dataset.counts_tokens:
        parts = [
            f'"{stream.name}" {mean.millitokens / 1000:,.1f} ({mean.source})'
            for stream, mean in zip(dataset.streams, order.means, strict=True)
        ]
        logger.info("mean tokens of a sample by stream: %s", ", ".join(parts))


def open_sequence(
    dataset: StreamingTextDataset,
    mixture: Mixture,
    order: RunOrder,
    start: EpochStart,
    *,
    kept_epochs: int = 2,
    kept_positions: int = 0,
) -> SampleSequence:
    """The samples at the positions of a run, whose streams are weighed as in ``mixture``.

    ``start`` is where an order of epochs begins. What is kept: see `EpochSequence`, `StageOrder`.
    """
    open_stored = partial(StoredOrders, dataset.orders_dir)
    stages = order.stages
    if stages is None:
        stored = open_stored(mixture, order.options)
        return EpochSequence(mixture, order.options, start, stored, kept_epochs)
    place_of = {number: place for place, number in enumerate(stages.present)}
    return StageSequence(
        mixture,
        order.options,
        samples=[stream.samples for stream in stages.streams],
        names=[stream.name for stream in stages.streams],
        digests=[stream.digest for stream in stages.streams],
        present=[place_of.get(number) for number in range(len(stages.streams))],
        stages=stages.stages,
        open_stored=open_stored,
        kept_epochs=kept_epochs,
        kept_positions=kept_positions,
    )


def samples_ahead(dataset: StreamingTextDataset, batch_size: int) -> int:
    """How many of the rank's samples ahead shards are fetched."""
    given = dataset.options.predownload
    return max(64, 8 * batch_size) if given is None else given


def shards_ahead(dataset: StreamingTextDataset) -> int | None:
    """Shards that may be fetched and wait to be read; None for any number."""
    if dataset.cache_limit is None:
        return None
    # A quarter of the cache for what comes, the rest for what is in use by this rank or others.
    return max(1, dataset.cache_limit // (4 * largest_shard(dataset.streams)))
