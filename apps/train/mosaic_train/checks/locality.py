"""Does each machine read shards of its own only?"""

import math
from typing import Any

from mosaic_train.checks.report import Report

# Batches times canonical nodes that the figure is made of; enough to be exact but for thousands.
_LOOKED_AT = 1 << 18


def check_locality(loader: Any, report: Report) -> None:
    """Warn where the layout has machines read one another's shards, and say how much that is.

    Args:
        loader: The first rank's training loader, of a run that does not continue another.
        report: Where the warning goes.
    """
    machines = loader.num_nodes
    batch = loader.batch_size * loader.dp_world_size
    order = loader.dataset.order_options.resolve(
        num_nodes=machines, global_batch=batch, local_batch=loader.batch_size
    )
    canonical = order.num_canonical_nodes
    if machines == 1 or loader.dp_world_size % machines or order.batching_method != "random":
        return
    times = shards_read(canonical, machines, batch)
    if times <= 1:
        return
    report.warn(
        f"each shard is read by {times:.3g} machines on average, so that all together fetch and "
        f"cache {times:.3g} times the data: {canonical} canonical nodes do not divide by "
        f"{machines} machines; set mosaic_dataloader.dataset.num_canonical_nodes to a multiple of "
        f"{machines} when a run begins"
    )


def shards_read(canonical: int, machines: int, batch: int) -> float:
    """How many machines read a shard, on average over the shards.

    Sample p of the order belongs to canonical node p mod C, and the rows of a batch are shared out
    to the machines in equal runs, sorted by what the canonical node leaves modulo gcd(B, C), and
    then by the node.

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
