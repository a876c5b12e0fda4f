"""Which rank reads which rows of a global batch."""

import numpy as np

from mosaic_dataloader.order.mixture import Int64Array


def rows_of_rank(nodes: Int64Array, rank: int, world_size: int) -> Int64Array:
    """Rows of full batches that one rank reads.

    Rows are sorted by canonical node and cut into equal runs: consecutive ranks, which share a
    machine, read consecutive canonical nodes and so the same shards from batch to batch. Within a
    rank the rows are back in position order.

    Args:
        nodes: int64[..., B], canonical node of each row of one or more batches; ``B`` is a
            multiple of ``world_size``.
        rank: Data-parallel rank.
        world_size: Data-parallel ranks.

    Returns:
        int64[..., B / world_size], row numbers within each batch, ascending.
    """
    share = nodes.shape[-1] // world_size
    if world_size == 1:
        return np.broadcast_to(np.arange(share, dtype=np.int64), nodes.shape)
    by_node = np.argsort(nodes, axis=-1, kind="stable")
    return np.sort(by_node[..., rank * share : (rank + 1) * share], axis=-1)


def rows_of_rank_partial(nodes: Int64Array, rank: int, world_size: int) -> Int64Array:
    """The same for the last, partial batch of a finite pass.

    The rows are spread as evenly as they go, so that few ranks are left with nothing but padding.

    Returns:
        int64[n], row numbers, ascending; over all ranks every row once.
    """
    by_node = np.argsort(nodes, kind="stable")
    count = len(nodes)
    return np.sort(by_node[rank * count // world_size : (rank + 1) * count // world_size])
