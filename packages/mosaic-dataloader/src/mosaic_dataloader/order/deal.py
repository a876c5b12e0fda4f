"""Canonical nodes: equal parts of an epoch, dealt out one sample each in turn.

mosaicml-streaming (``partition/orig.py``) lays the parts out as rows of a matrix and reads it by
columns; parts that are one sample short repeat their last one there. Here they are just shorter, so
nothing is doubled.
"""

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
