"""One epoch's order as files in a folder of its own."""

import hashlib
import json
import mmap
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from mosaic_dataloader.order.epoch import ListedEpoch
from mosaic_dataloader.order.mixture import Mixture, StreamSize
from mosaic_dataloader.order.resolved import ResolvedOrder, field_names
from mosaic_dataloader.util import threads

# Raised when the same key gives another order than before.
_VERSION = 1


@dataclass(frozen=True)
class OrderKey:
    """Data sizes and options of an order.

    Args:
        mixture: The data.
        options: The resolved order.
    """

    mixture: Mixture
    options: ResolvedOrder

    def to_json(self) -> str:
        """As one line; the same for the same order."""
        streams = [[s.samples_per_shard.tolist(), s.choose] for s in self.mixture.streams]
        return json.dumps({"streams": streams, "options": self.options.to_dict()}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "OrderKey":
        """The key that ``to_json`` wrote, its streams without their names."""
        told = json.loads(text)
        streams = [
            StreamSize(f"number {number}", np.array(sizes, np.int64), choose)
            for number, (sizes, choose) in enumerate(told["streams"])
        ]
        return OrderKey(Mixture(streams), ResolvedOrder(**field_names(told["options"])))


def name_of(key: str) -> str:
    """What the orders of a key, in its JSON form, go by on disk.

    The libraries' versions are part of it: numpy promises the same random numbers only within a
    version, and the shuffle algorithms are mosaicml-streaming's.
    """
    made_with = [_VERSION, version("numpy"), version("mosaicml-streaming")]
    digest = hashlib.sha256(json.dumps(made_with).encode())
    digest.update(key.encode())
    return digest.hexdigest()[:24]


_IDS, _NODES = "ids.npy", "nodes.npy"
# What is unmapped at a time, and the pause after it, in bytes and seconds.
_PIECE, _PAUSE = 1 << 20, 1e-3
# For so long after an epoch's end nothing is done that can wait.
QUIET_SECONDS = 1.0


def write_order(order: ListedEpoch, folder: str, partial: str) -> None:
    """Write an order; the folder appears whole, and only once it is on disk.

    Args:
        order: What to write.
        folder: Its final place.
        partial: Where it is written before, beside that.
    """
    os.makedirs(partial)
    _write(os.path.join(partial, _IDS), order.ids)
    if order.nodes is not None:
        _write(os.path.join(partial, _NODES), order.nodes)
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(partial, folder)


def holds_order(folder: str) -> bool:
    """Whether an order is there; what cleans temporary folders may leave the folder alone."""
    return os.path.isfile(os.path.join(folder, _IDS))


def map_order(folder: str, num_canonical_nodes: int) -> ListedEpoch:
    """Map an order that was written; it takes no memory of the process's own.

    Raises:
        OSError: It is not there.
    """
    ids = _map(os.path.join(folder, _IDS))
    nodes = os.path.join(folder, _NODES)
    return ListedEpoch(ids, num_canonical_nodes, _map(nodes) if os.path.exists(nodes) else None)


def release_pages(order: ListedEpoch) -> None:
    """Give back the pages of a mapped order piece by piece.

    Python's lock is held while a map is closed, which takes ten milliseconds and more for one whose
    pages have all been read: so long nobody could train.
    """
    threads.sleep(QUIET_SECONDS)
    for array in (order.ids, order.nodes):
        mapped = getattr(getattr(array, "base", None), "_mmap", None)
        if not isinstance(mapped, mmap.mmap):
            continue
        for start in range(0, len(mapped), _PIECE):
            mapped.madvise(mmap.MADV_DONTNEED, start, min(_PIECE, len(mapped) - start))
            threads.sleep(_PAUSE)


def _write(path: str, values: np.ndarray) -> None:  # type: ignore[type-arg]
    # Half the size wherever there are fewer than four billion samples.
    small = values.astype(np.uint32) if len(values) and values.max() < 1 << 32 else values
    with open(path, "wb") as file:
        np.save(file, small)
        file.flush()
        # Without this, a power cut could leave a file of the right length that is full of zeros.
        os.fsync(file.fileno())


def _map(path: str) -> np.ndarray:  # type: ignore[type-arg]
    # As a plain array: slices of numpy's own memmap class cost several times as much.
    return np.asarray(np.load(path, mmap_mode="r"))
