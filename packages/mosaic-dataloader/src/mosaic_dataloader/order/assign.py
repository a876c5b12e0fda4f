"""Which rank reads which rows of a global batch.

Rows are sorted by canonical node and cut into equal runs: consecutive ranks, which share a machine,
read consecutive canonical nodes and so the same shards from batch to batch.

Where the canonical nodes do not divide the batch, a batch holds more rows of some nodes than of
others, and runs of equal length would begin in another node from batch to batch. But with positions
interleaved over the C nodes, and g = gcd(B, C), exactly B / g rows of every batch belong to nodes
with the same number modulo g. So rows are sorted by that first, and machines whose number divides
the canonical nodes (and the batch, of which all get the same) read the same nodes forever.
mosaicml-streaming shares the nodes out likewise.

For example 8 rows, 6 canonical nodes and 4 ranks, where g = 2::

    rows          0 1 2 3 4 5 6 7                         rows            nodes
    batch 0, node 0 1 2 3 4 5 0 1    sorted by (node mod 2, node):
                                     0 6 2 4 1 7 3 5      rank 0: 0 6     0 0
                                                          rank 1: 2 4     2 4
                                                          rank 2: 1 7     1 1
                                                          rank 3: 3 5     3 5
    batch 1, node 2 3 4 5 0 1 2 3    4 0 6 2 5 1 7 3      rank 0: 0 4     2 0
                                                          rank 1: 2 6     4 2
                                                          rank 2: 1 5     3 1
                                                          rank 3: 3 7     5 3

Ranks 0 and 1 read the even nodes in every batch, ranks 2 and 3 the odd ones.
"""

import math

import numpy as np

from mosaic_dataloader.order.mixture import Int64Array


def node_starts(length: int, nodes: int) -> Int64Array:
    """int64[nodes + 1]: where each canonical node's part of a list of ``length`` begins."""
    return np.arange(nodes + 1, dtype=np.int64) * length // nodes


def interleave(items: Int64Array, nodes: int) -> Int64Array:
    """Interleave a list, int64[length], that lies node after node.

    First comes the first item of each node, then the second of each, and so on.
    """
    if nodes == 1:
        return items
    starts = node_starts(len(items), nodes)
    rounds = len(items) // nodes
    longer = np.flatnonzero(np.diff(starts) > rounds)
    grid = items[starts[:-1, None] + np.arange(rounds)]
    return np.concatenate([grid.T.ravel(), items[starts[longer] + rounds]])


def node_of(positions: Int64Array, length: int, nodes: int) -> Int64Array:
    """Canonical node, int64[len(positions)], of each position of an interleaved list."""
    if nodes == 1:
        return np.zeros(len(positions), np.int64)
    rounds = length // nodes
    found = positions % nodes
    tail = positions >= rounds * nodes
    if tail.any():
        longer = np.flatnonzero(np.diff(node_starts(length, nodes)) > rounds)
        found[tail] = longer[positions[tail] - rounds * nodes]
    return found


def rows_of_rank(
    nodes: Int64Array, canonical: int, rank: int, world_size: int, batch: int | None = None
) -> Int64Array:
    """Rows of batches that one data-parallel rank of ``world_size`` reads.

    Args:
        nodes: int64[..., n], canonical node of each row of one or more batches.
        canonical: Canonical nodes.
        rank: The rank.
        world_size: All ranks.
        batch: Rows of a full batch, where these are those of the last, partial batch of a finite
            pass: they are spread as evenly as they go, so that few ranks are left with nothing but
            padding.

    Returns:
        int64[..., n / world_size] (one more on some ranks of a partial batch), row numbers within
        each batch, ascending: within a rank the rows are back in position order.
    """
    count = nodes.shape[-1]
    order = sorted_rows(nodes, canonical, batch or count)
    first, stop = rank * count // world_size, (rank + 1) * count // world_size
    return np.sort(order[..., first:stop], axis=-1)


def rows_of_rank_by_phase(
    first: int, canonical: int, batch: int, rank: int, world_size: int
) -> Int64Array:
    """The same, int64[B / world_size], where the canonical nodes follow one another.

    Nothing is sorted. ``first`` is the canonical node of the first row; the nodes divide B.
    """
    share = batch // world_size
    node, phase = np.divmod(np.arange(rank * share, (rank + 1) * share), batch // canonical)
    return np.sort((node - first) % canonical + phase * canonical)


def sorted_rows(nodes: Int64Array, canonical: int, batch: int) -> Int64Array:
    """int64[..., B], the rows in the order in which they are given to ranks."""
    common = math.gcd(canonical, batch)
    key = nodes
    if common < canonical:
        key = nodes % common * (canonical // common) + nodes // common
    # Numbers of 16 bits are sorted by radix, in a third of the time.
    small = key.astype(np.uint16) if canonical <= 1 << 16 else key
    return np.argsort(small, axis=-1, kind="stable")
