"""The list of sample ids of one epoch."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.assign import deal, node_of
from mosaic_dataloader.order.feistel import FeistelOrder
from mosaic_dataloader.order.grouped import build_units
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.options import SettledOrder
from mosaic_dataloader.order.resample import resample, shuffled


@dataclass(frozen=True)
class ListedEpoch:
    """One epoch as a list.

    Attributes:
        ids: integer[N], sample ids in the order of their positions.
        num_canonical_nodes: Canonical nodes over which they were dealt.
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
        return self.ids[start:stop].astype(np.int64), self.owners(start, stop)

    def owners(self, start: int, stop: int) -> Int64Array:
        """Canonical nodes, int64[stop - start], of the positions ``[start, stop)``."""
        if self.nodes is not None:
            return self.nodes[start:stop].astype(np.int64)
        positions = np.arange(start, stop, dtype=np.int64)
        return node_of(positions, len(self.ids), self.num_canonical_nodes)

    def ids_at(self, positions: Int64Array) -> Int64Array:
        """Sample ids, int64[n], at positions of the epoch, int64[n]."""
        return self.ids[positions].astype(np.int64)


Order = ListedEpoch | FeistelOrder


def build_epoch(mixture: Mixture, options: SettledOrder, epoch: int) -> Order:
    """Build the order of one epoch.

    A pure function of its arguments. For ``batching_method = "random"`` this is
    mosaicml-streaming's order (resampled, shuffled over the canonical nodes, dealt round-robin
    over them) without its padding, or with ``shuffle_algo = "feistel"`` this project's own.

    Raises:
        MosaicDataError: The data are too few for the canonical nodes or for the batch.
    """
    nodes = options.num_canonical_nodes
    if options.batching_method != "random":
        ids, owners = build_units(mixture, options, epoch)
        return ListedEpoch(ids, nodes, owners)
    require_samples(mixture, options)
    if options.feistel:
        return FeistelOrder(mixture, options, epoch)
    total = mixture.epoch_samples
    sizes, small = resample(mixture, options, epoch)
    big = deal(shuffled(sizes, total, options, epoch, options.shuffle_block_size), nodes)
    return ListedEpoch(small[big], nodes)


def require_samples(mixture: Mixture, options: SettledOrder) -> None:
    """Refuse more canonical nodes than an epoch has samples.

    Raises:
        MosaicDataError: There are.
    """
    total, nodes = mixture.epoch_samples, options.num_canonical_nodes
    if total < nodes:
        raise MosaicDataError(
            f"an epoch of {total} samples cannot be dealt over {nodes} canonical nodes; lower "
            f"num_canonical_nodes or add data"
        )
