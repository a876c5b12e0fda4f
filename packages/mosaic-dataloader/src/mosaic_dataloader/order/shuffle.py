"""Shuffling, by mosaicml-streaming's own algorithms."""

import warnings

import numpy as np

from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.options import SettledOrder


def shuffled(
    sizes: Int64Array, total: int, options: SettledOrder, epoch: int, block: int
) -> Int64Array:
    """int64[total], places in a resampled list, shuffled by mosaicml-streaming's algorithms."""
    if not options.shuffle:
        return np.arange(total, dtype=np.int64)
    # Imported late: importing streaming costs more than importing torch.
    from streaming.base.shuffle import get_shuffle

    with warnings.catch_warnings():
        # A block smaller than a shard only mixes less; the loader says so once, with numbers.
        warnings.filterwarnings("ignore", message="Shuffle block size was smaller")
        order = get_shuffle(
            options.shuffle_algo,
            sizes,
            options.num_canonical_nodes,
            options.shuffle_seed,
            epoch,
            block,
        )
    return np.asarray(order, np.int64)
