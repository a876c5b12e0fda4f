"""Does each machine read only its own shards?"""

import math

from mosaic_dataloader.checks.names import PYTHON, OptionNames
from mosaic_dataloader.loader import MosaicParallelAwareDataloader

# Batches times canonical nodes from which the figure is made; enough to be exact unless there are
# thousands of nodes.
_LOOKED_AT = 1 << 18


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

    Sample p of the order belongs to canonical node p mod C, and the rows of a batch are shared out
    to the machines in equal runs, sorted by the canonical node modulo gcd(B, C), and then by the
    node.

    Args:
        canonical: Canonical nodes, C.
        machines: Machines.
        batch: Rows of a global batch; a multiple of `machines`.
    """
    share = batch // machines
    pairs: set[tuple[int, int]] = set()
    # Batches begin at multiples of this number, modulo C.
    common = math.gcd(batch, canonical)
    nodes = sorted(range(canonical), key=lambda node: (node % common, node))
    starts = range(0, canonical, common)
    for start in starts[: max(_LOOKED_AT // canonical, 1)]:
        row = 0
        for node in nodes:
            # Rows of this node: positions p in [start, start + batch) with p mod C = node.
            rows = (batch - 1 - (node - start) % canonical) // canonical + 1
            if rows > 0:
                last = row + rows - 1
                pairs.update((node, each) for each in range(row // share, last // share + 1))
                row += rows
    return len(pairs) / canonical
