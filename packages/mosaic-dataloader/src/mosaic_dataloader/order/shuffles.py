"""The shuffle algorithms: to add one, add an entry to ``SHUFFLES``."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from mosaic_dataloader.order.feistel import FeistelOrder
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.resample import resample, shuffled_by_streaming
from mosaic_dataloader.order.resolved import ResolvedOrder

# The data, the order, the epoch, numbers of the streams, and samples in a shuffle block; returns
# int64[n], the sample ids that the epoch takes from these streams, canonical node after node.
ListIds = Callable[[Mixture, ResolvedOrder, int, range, int], Int64Array]


@dataclass(frozen=True)
class ShuffleAlgorithm:
    """One way to shuffle an epoch.

    Attributes:
        list_ids: Builds the list of an epoch's samples.
        window: Samples that are in use at a time, given the order and the samples of all streams.
        nodes_per_machine: Canonical nodes by default, for each machine of the run's first start.
        evaluate: Makes an epoch that is evaluated position by position, so that it is a list
            nowhere; None where it must be listed.
    """

    list_ids: ListIds
    window: Callable[[ResolvedOrder, int], int]
    nodes_per_machine: int = 1
    evaluate: Callable[[Mixture, ResolvedOrder, int], FeistelOrder] | None = None


def _listed_by_streaming(
    mixture: Mixture, options: ResolvedOrder, epoch: int, streams: range, block: int
) -> Int64Array:
    sizes, ids = resample(mixture, options, epoch, streams)
    return ids[shuffled_by_streaming(sizes, options, epoch, block)]


def _unshuffled(
    mixture: Mixture, options: ResolvedOrder, epoch: int, streams: range, block: int
) -> Int64Array:
    return resample(mixture, options, epoch, streams)[1]


def _listed_by_feistel(
    mixture: Mixture, options: ResolvedOrder, epoch: int, streams: range, block: int
) -> Int64Array:
    order = FeistelOrder(mixture, options, epoch, streams, block)
    return order.listed(np.arange(len(order), dtype=np.int64))


def _blocks(options: ResolvedOrder, samples: int) -> int:
    return options.shuffle_block_size * options.num_canonical_nodes


def _shards(options: ResolvedOrder, samples: int) -> int:
    return 0


def _everything(options: ResolvedOrder, samples: int) -> int:
    return samples


_by_streaming = partial(ShuffleAlgorithm, _listed_by_streaming)
SHUFFLES = {
    "py1e": _by_streaming(_blocks),
    "py1s": _by_streaming(_shards, nodes_per_machine=64),
    "py2s": _by_streaming(_shards, nodes_per_machine=64),
    "py1br": _by_streaming(_blocks),
    "naive": _by_streaming(_everything),
    "feistel": ShuffleAlgorithm(_listed_by_feistel, _blocks, evaluate=FeistelOrder),
}
_UNSHUFFLED = ShuffleAlgorithm(_unshuffled, _shards)


def shuffle_of(options: ResolvedOrder) -> ShuffleAlgorithm:
    """The algorithm that orders a run."""
    return SHUFFLES[options.shuffle_algo] if options.shuffle else _UNSHUFFLED
