"""The list of sample ids of one epoch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.assign import interleave, node_of
from mosaic_dataloader.order.feistel import FeistelOrder
from mosaic_dataloader.order.grouped import build_grouped
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.shuffles import shuffle_of


@dataclass(frozen=True)
class ListedEpoch:
    """One epoch as a list.

    Attributes:
        ids: integer[N], sample ids in the order of their positions.
        num_canonical_nodes: Canonical nodes whose samples were interleaved.
        nodes: integer[N], the canonical node of each position where it follows from no formula
            (batching methods other than ``random``), else None.
    """

    ids: NDArray[np.integer[Any]]
    num_canonical_nodes: int
    nodes: NDArray[np.integer[Any]] | None = None

    def __len__(self) -> int:
        """Samples in the epoch."""
        return len(self.ids)

    def rows(self, start: int, stop: int) -> tuple[Int64Array, Int64Array]:
        """Sample ids and their canonical nodes, both int64[stop - start], at ``[start, stop)``."""
        return self.ids[start:stop].astype(np.int64), self.canonical_nodes(start, stop)

    def canonical_nodes(self, start: int, stop: int) -> Int64Array:
        """Canonical nodes, int64[stop - start], of the positions ``[start, stop)``."""
        if self.nodes is not None:
            return self.nodes[start:stop].astype(np.int64)
        positions = np.arange(start, stop, dtype=np.int64)
        return node_of(positions, len(self.ids), self.num_canonical_nodes)

    def ids_at(self, positions: Int64Array) -> Int64Array:
        """Sample ids, int64[n], at positions of the epoch, int64[n]."""
        return self.ids[positions].astype(np.int64)


Order = ListedEpoch | FeistelOrder


def build_epoch(mixture: Mixture, options: ResolvedOrder, epoch: int) -> Order:
    """Build the order of one epoch.

    A pure function of its arguments. For ``batching_method = "random"`` this is
    mosaicml-streaming's order (resampled, shuffled over the canonical nodes, interleaved) without
    its padding, or with ``shuffle_algo = "feistel"`` this project's own.

    Raises:
        MosaicDataError: The data are too few for the canonical nodes or for the batch.
    """
    nodes = options.num_canonical_nodes
    if options.batching_method != "random":
        ids, own_nodes = build_grouped(mixture, options, epoch)
        return ListedEpoch(ids, nodes, own_nodes)
    require_samples(mixture, options)
    shuffle = shuffle_of(options)
    if shuffle.evaluate is not None:
        return shuffle.evaluate(mixture, options, epoch)
    streams = range(len(mixture.streams))
    ids = shuffle.list_ids(mixture, options, epoch, streams, options.shuffle_block_size)
    return ListedEpoch(interleave(ids, nodes), nodes)


def require_samples(mixture: Mixture, options: ResolvedOrder) -> None:
    """Refuse more canonical nodes than an epoch has samples.

    Raises:
        MosaicDataError: There are.
    """
    total, nodes = mixture.epoch_samples, options.num_canonical_nodes
    if total < nodes:
        raise MosaicDataError(
            f"an epoch of {total} samples cannot be spread over {nodes} canonical nodes; lower "
            f"num_canonical_nodes or add data"
        )
