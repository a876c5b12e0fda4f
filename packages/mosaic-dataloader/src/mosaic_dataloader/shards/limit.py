"""Whether a cache limit can work for the data at hand."""

import logging
import os

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.order.options import SettledOrder
from mosaic_dataloader.shards.streams import DataStream
from mosaic_dataloader.sizes import parse_bytes

logger = logging.getLogger(__name__)


def largest_shard(streams: list[DataStream]) -> int:
    """Bytes of the largest fetched shard, packed and unpacked form together; 0 without any."""
    sizes = [r.get_max_size() for s in streams if s.fetched for r in s.readers]
    return max(sizes, default=0)


def check_cache_limit(streams: list[DataStream], limit: int | str) -> int:
    """Parse a cache limit and check that it leaves room to work.

    Returns:
        The limit in bytes.

    Raises:
        MosaicDataError: It is no size, or holds fewer than four of the largest shards beside the
            indexes.
    """
    size = parse_bytes("cache_limit", limit)
    fetched = [s for s in streams if s.fetched]
    indexes = sum(os.stat(os.path.join(s.directory, "index.json")).st_size for s in fetched)
    least = 4 * largest_shard(streams) + indexes
    if fetched and size < least:
        raise MosaicDataError(
            f"cache_limit = {limit} is {size:,} bytes, too few for four of the largest shards; "
            f"set it to at least {least:,}"
        )
    return size


def warn_of_thrashing(
    streams: list[DataStream], mixture: Mixture, order: SettledOrder, limit: int | None
) -> None:
    """Say so where a limit is below what the shuffle keeps in use, with the number."""
    fetched = sum(r.get_raw_size() for s in streams if s.fetched for r in s.readers)
    if limit is None or not order.shuffle or not fetched:
        return
    samples = mixture.num_samples
    # py1s and py2s shuffle within shards, naive over everything, the others within blocks.
    window = {"naive": samples, "py1s": 0, "py2s": 0}.get(
        order.shuffle_algo, order.shuffle_block_size * order.num_canonical_nodes
    )
    needed = int(fetched * min(1.0, window / samples))
    if limit < needed:
        logger.warning(
            "cache_limit of %s bytes is below the about %s bytes that the shuffle keeps in use; "
            "shards will be fetched again and again. Raise cache_limit or lower "
            "shuffle_block_size",
            f"{limit:,}",
            f"{needed:,}",
        )
