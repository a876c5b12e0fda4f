"""Shards that each machine reads in an epoch, beside mosaicml-streaming's own partition.

No training and no data: only who would read what. A machine has to fetch, and keep, the shards that
it reads, so fewer is better; the least possible is the shards divided by the machines.

Run: python benchmarks/locality.py [--samples N] [--shard-size N] [--ranks-per-node N]
"""

import argparse
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from streaming.base.partition import get_partitions
from streaming.base.shuffle import get_shuffle

from mosaic_dataloader.order.batches import Layout, endless_batches
from mosaic_dataloader.order.mixture import Int64Array, Mixture, StreamSize
from mosaic_dataloader.order.options import OrderOptions
from mosaic_dataloader.order.sequence import EpochSequence

SEED = 9176
ALGOS = ("py1e", "py1s", "py1br")
NODES = (1, 2, 4, 8)
# Rows of one rank: with 8 ranks a node and 8 canonical nodes, 4 divides and 3 does not everywhere.
BATCHES = (4, 3)


@dataclass(frozen=True)
class Case:
    """One setting.

    Attributes:
        algo: Shuffle algorithm.
        canonical: Canonical nodes.
        nodes: Machines.
        ranks: Data-parallel ranks on each.
        batch: Rows of one micro-batch on one rank.
    """

    algo: str
    canonical: int
    nodes: int
    ranks: int
    batch: int

    @property
    def global_batch(self) -> int:
        return self.nodes * self.ranks * self.batch


def mosaic_dataloader(case: Case, sizes: Int64Array, block: int) -> list[int]:
    """Shards that each machine reads with this project's loader, over the full batches."""
    options = OrderOptions(
        shuffle=True,
        shuffle_algo=case.algo,
        shuffle_seed=SEED,
        shuffle_block_size=block,
        num_canonical_nodes=case.canonical,
    ).resolve(num_nodes=case.nodes, global_batch=case.global_batch, local_batch=case.batch)
    mixture = Mixture((StreamSize("data", sizes, int(sizes.sum())),))
    sequence = EpochSequence(mixture, options)
    batches = sequence.epoch_length // case.global_batch
    world = case.nodes * case.ranks
    touched = []
    for node in range(case.nodes):
        ids = []
        for rank in range(node * case.ranks, (node + 1) * case.ranks):
            requests = endless_batches(sequence, Layout(rank, world, case.batch), 0)
            ids += [next(requests).ids for _ in range(batches)]
        touched.append(count_shards(np.concatenate(ids), sizes))
    return touched


def mosaicml_streaming(case: Case, sizes: Int64Array, block: int) -> list[int]:
    """The same with mosaicml-streaming's."""
    total = int(sizes.sum())
    parts = get_partitions(
        "relaxed", total, case.canonical, case.nodes, case.ranks, 1, case.batch, 0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        order = get_shuffle(case.algo, sizes, case.canonical, SEED, 0, block)
    touched = []
    for node in parts:
        places = node[node >= 0]
        touched.append(count_shards(order[places], sizes))
    return touched


def count_shards(ids: Int64Array, sizes: Int64Array) -> int:
    return len(np.unique(np.searchsorted(np.cumsum(sizes), ids, side="right")))


def cases(ranks: int) -> Iterator[Case]:
    for algo in ALGOS:
        for nodes in NODES:
            for canonical in sorted({nodes, 8}):
                for batch in BATCHES:
                    yield Case(algo, canonical, nodes, ranks, batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--shard-size", type=int, default=250, help="samples in a shard")
    parser.add_argument("--ranks-per-node", type=int, default=5)
    parser.add_argument("--shuffle-block-size", type=int, default=1 << 18)
    given = parser.parse_args()
    full, rest = divmod(given.samples, given.shard_size)
    sizes = np.array([given.shard_size] * full + ([rest] if rest else []), np.int64)
    print(f"{given.samples:,} samples in {len(sizes)} shards, {given.ranks_per_node} ranks a node")
    print("shards that a node reads in an epoch: mean (most); copies: all nodes' over all shards\n")
    print(
        "algorithm  canonical  nodes  batch  divides  |  mosaic-dataloader   copies  |"
        "  mosaicml-streaming  copies  |  least"
    )
    for case in cases(given.ranks_per_node):
        found = []
        for touched in (
            mosaic_dataloader(case, sizes, given.shuffle_block_size),
            mosaicml_streaming(case, sizes, given.shuffle_block_size),
        ):
            mean, most = sum(touched) / len(touched), max(touched)
            found.append(f"{mean:8.1f} ({most:4d})    {sum(touched) / len(sizes):7.2f}")
        divides = "yes" if case.global_batch % case.canonical == 0 else "no"
        print(
            f"{case.algo:9s}  {case.canonical:9d}  {case.nodes:5d}  {case.global_batch:5d}  "
            f"{divides:7s}  |  {found[0]}  |  {found[1]}  |  {len(sizes) / case.nodes:5.0f}"
        )


if __name__ == "__main__":
    main()
