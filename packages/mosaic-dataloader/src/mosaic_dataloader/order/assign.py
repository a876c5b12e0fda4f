"""Which rank reads which rows of a global batch.

Rows are sorted by canonical node and cut into equal runs: consecutive ranks, which share a machine,
read consecutive canonical nodes and so the same shards from batch to batch.

Where the canonical nodes do not divide the batch, a batch holds more rows of some than of others,
and runs of equal length would begin now in one node, now in another. But what divides both, g, does
so evenly: with positions dealt to the nodes in turn, B / g rows of every batch belong to nodes c
with the same c mod g. So rows are sorted by that first, and machines whose number divides the
canonical nodes (and the batch, of which all get the same) read the same nodes for ever.
mosaicml-streaming shares the nodes out likewise.
"""

import math

import numpy as np

from mosaic_dataloader.order.mixture import Int64Array


def node_starts(length: int, nodes: int) -> Int64Array:
    """int64[nodes + 1]: where each canonical node's part of a list of ``length`` begins."""
    return np.arange(nodes + 1, dtype=np.int64) * length // nodes


def deal(items: Int64Array, nodes: int) -> Int64Array:
    """Deal a list that lies node after node round-robin over the nodes.

    Args:
        items: int64[length].
        nodes: Canonical nodes.

    Returns:
        int64[length], the same items: first of each node, second of each node, and so on.
    """
    if nodes == 1:
        return items
    starts = node_starts(len(items), nodes)
    rounds = len(items) // nodes
    longer = np.flatnonzero(np.diff(starts) > rounds)
    grid = items[starts[:-1, None] + np.arange(rounds)]
    return np.concatenate([grid.T.ravel(), items[starts[longer] + rounds]])


def node_of(positions: Int64Array, length: int, nodes: int) -> Int64Array:
    """Canonical node, int64[len(positions)], that owns each position of a dealt list."""
    if nodes == 1:
        return np.zeros(len(positions), np.int64)
    rounds = length // nodes
    owners = positions % nodes
    tail = positions >= rounds * nodes
    if tail.any():
        longer = np.flatnonzero(np.diff(node_starts(length, nodes)) > rounds)
        owners[tail] = longer[positions[tail] - rounds * nodes]
    return owners


def rows_of_rank(nodes: Int64Array, canonical: int, rank: int, world_size: int) -> Int64Array:
    """Rows of full batches that one rank reads.

    Args:
        nodes: int64[..., B], canonical node of each row of one or more batches; ``B`` is a
            multiple of ``world_size``.
        canonical: Canonical nodes.
        rank: Data-parallel rank.
        world_size: Data-parallel ranks.

    Returns:
        int64[..., B / world_size], row numbers within each batch, ascending: within a rank the
        rows are back in position order.
    """
    share = nodes.shape[-1] // world_size
    in_turn = _sorted(nodes, canonical, nodes.shape[-1])
    return np.sort(in_turn[..., rank * share : (rank + 1) * share], axis=-1)


def rows_of_rank_in_turns(
    first: int, canonical: int, batch: int, rank: int, world_size: int
) -> Int64Array:
    """The same where the rows belong to the canonical nodes in turn, without sorting a batch.

    Args:
        first: Canonical node of the first row.
        canonical: Canonical nodes; they divide ``batch``.
        batch: Rows of the batch, B.
        rank: Data-parallel rank.
        world_size: Data-parallel ranks.

    Returns:
        int64[B / world_size].
    """
    share = batch // world_size
    node, turn = np.divmod(np.arange(rank * share, (rank + 1) * share), batch // canonical)
    return np.sort((node - first) % canonical + turn * canonical)


def rows_of_rank_partial(
    nodes: Int64Array, canonical: int, batch: int, rank: int, world_size: int
) -> Int64Array:
    """The same for the last, partial batch of a finite pass.

    The rows are spread as evenly as they go, so that few ranks are left with nothing but padding.

    Args:
        nodes: int64[n], canonical node of each row.
        canonical: Canonical nodes.
        batch: Rows of a full batch.
        rank: Data-parallel rank.
        world_size: Data-parallel ranks.

    Returns:
        int64[<= batch / world_size], row numbers, ascending; over all ranks every row once.
    """
    in_turn = _sorted(nodes, canonical, batch)
    count = len(nodes)
    return np.sort(in_turn[rank * count // world_size : (rank + 1) * count // world_size])


def _sorted(nodes: Int64Array, canonical: int, batch: int) -> Int64Array:
    """int64[..., B], the rows in the order in which they are given to ranks."""
    common = math.gcd(canonical, batch)
    key = nodes
    if common < canonical:
        key = nodes % common * (canonical // common) + nodes // common
    # Numbers of 16 bits are sorted by radix, in a third of the time.
    small = key.astype(np.uint16) if canonical <= 1 << 16 else key
    return np.argsort(small, axis=-1, kind="stable")
