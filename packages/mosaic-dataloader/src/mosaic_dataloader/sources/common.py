"""What both sources take from a data set in the same way."""

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.storage.cache import largest_shard


def samples_ahead(dataset: StreamingTextDataset, batch_size: int) -> int:
    """How many of the rank's samples ahead shards are fetched."""
    return max(64, 8 * batch_size) if dataset.predownload is None else dataset.predownload


def shards_ahead(dataset: StreamingTextDataset) -> int | None:
    """Shards that may be fetched and wait to be read; None for any number."""
    if dataset.cache_limit is None:
        return None
    # A quarter of the cache for what comes, the rest for what is in use by this rank or others.
    return max(1, dataset.cache_limit // (4 * largest_shard(dataset.streams)))


def open_options(dataset: StreamingTextDataset) -> list[str]:
    """Options of the order that the user left open; a saved value stands for them."""
    given = dataset.order_options
    names = ("num_canonical_nodes", "shuffle_block_size")
    return [name for name in names if getattr(given, name) is None]
