"""Does each machine read only its own shards?"""

import math

import numpy as np

from mosaic_dataloader.checks.names import PYTHON, OptionNames
from mosaic_dataloader.loader import MosaicParallelAwareDataloader
from mosaic_dataloader.order.assign import sorted_rows

# Rows from which the figure is made; enough to be exact unless there are hundreds of nodes.
_LOOKED_AT = 1 << 22


def machines_per_shard(
    loader: MosaicParallelAwareDataloader, *, names: OptionNames = PYTHON
) -> list[str]:
    """A cost: the layout makes machines read one another's shards.

    Args:
        loader: The loader of any rank, of a run that does not resume another.
        names: What the caller's options are called.

    Returns:
        One line with the number of machines that read a shard, if it is more than one.
    """
    machines, order = loader.num_nodes, loader.order
    batch = loader.batch_size * loader.dp_world_size
    canonical = order.num_canonical_nodes
    if machines == 1 or loader.dp_world_size % machines or order.batching_method != "random":
        return []
    times = shards_read(canonical, machines, batch)
    if times <= 1:
        return []
    return [
        f"each shard is read by {times:.3g} machines on average, so that all together fetch and "
        f"cache {times:.3g} times the data: {canonical} canonical nodes do not divide by "
        f"{machines} machines; set {names.dataset}num_canonical_nodes to a multiple of {machines} "
        f"when a run begins"
    ]


def shards_read(canonical: int, machines: int, batch: int) -> float:
    """How many machines read a shard, on average over the shards.

    ``batch`` are the rows of a global batch, a multiple of the machines.
    """
    machine = np.arange(batch) * machines // batch
    read = np.zeros((canonical, machines), np.bool_)
    # The canonical nodes with which batches begin.
    starts = range(0, canonical, math.gcd(batch, canonical))
    for start in starts[: max(1, _LOOKED_AT // max(1024, batch))]:
        nodes = np.arange(start, start + batch) % canonical
        read[nodes[sorted_rows(nodes, canonical, batch)], machine] = True
    return int(read.sum()) / canonical
