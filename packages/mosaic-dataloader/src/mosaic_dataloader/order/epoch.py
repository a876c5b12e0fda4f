"""The list of sample ids of one epoch."""

from dataclasses import dataclass

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.deal import deal, node_of
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.options import SettledOrder
from mosaic_dataloader.order.resample import resample
from mosaic_dataloader.order.shuffle import shuffled
from mosaic_dataloader.order.units import build_units


@dataclass(frozen=True)
class EpochOrder:
    """One epoch.

    Attributes:
        ids: int64[N], sample ids in the order of their positions.
        num_canonical_nodes: Canonical nodes over which they were dealt.
        nodes: int64[N], the canonical node of each position where it follows from no formula
            (batching methods other than ``random``), else None.
    """

    ids: Int64Array
    num_canonical_nodes: int
    nodes: Int64Array | None = None

    def __len__(self) -> int:
        """Samples in the epoch."""
        return len(self.ids)

    def rows(self, start: int, stop: int) -> tuple[Int64Array, Int64Array]:
        """Sample ids and their canonical nodes, both int64[stop - start], at ``[start, stop)``."""
        ids = np.asarray(self.ids[start:stop])
        if self.nodes is not None:
            return ids, np.asarray(self.nodes[start:stop])
        positions = np.arange(start, stop, dtype=np.int64)
        return ids, node_of(positions, len(self.ids), self.num_canonical_nodes)


def build_epoch(mixture: Mixture, options: SettledOrder, epoch: int) -> EpochOrder:
    """Build the order of one epoch.

    A pure function of its arguments. For ``batching_method = "random"`` this is
    mosaicml-streaming's order (resampled, shuffled over the canonical nodes, dealt round-robin
    over them) without its padding.

    Raises:
        MosaicDataError: The data are too few for the canonical nodes or for the batch.
    """
    nodes = options.num_canonical_nodes
    if options.batching_method != "random":
        ids, owners = build_units(mixture, options, epoch)
        return EpochOrder(ids, nodes, owners)
    require_samples(mixture, options)
    total = mixture.epoch_samples
    sizes, small = resample(mixture, options, epoch)
    big = deal(shuffled(sizes, total, options, epoch, options.shuffle_block_size), nodes)
    return EpochOrder(small[big], nodes)


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
