"""One epoch's order as files in a folder of its own, and the process that computes them.

That process (``python -m``) imports numpy and the shuffle algorithms, but neither torch nor the
rest of mosaicml-streaming, which takes seconds: the training process waits for the first order.
"""

import hashlib
import importlib.util
import json
import mmap
import os
import shutil
import sys
import types
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.epoch import ListedEpoch, build_epoch
from mosaic_dataloader.order.mixture import Mixture, StreamSize
from mosaic_dataloader.order.resolved import ResolvedOrder, field_names
from mosaic_dataloader.util import threads

# Raised when the same key gives another order than before.
_VERSION = 1
_IDS, _NODES = "ids.npy", "nodes.npy"
# What is unmapped at a time, and the pause after it, in bytes and seconds.
_PIECE, _PAUSE = 1 << 20, 1e-3
# For so long after an epoch's end nothing is done that can wait.
QUIET_SECONDS = 1.0
# Exit statuses with which a message is on standard output: the data or options do not allow the
# order; it cannot be written.
REFUSED, UNWRITABLE = 3, 4


@dataclass(frozen=True)
class OrderKey:
    """Data sizes and options of an order."""

    mixture: Mixture
    options: ResolvedOrder

    def to_json(self) -> str:
        """As one line; the same for the same order."""
        streams = [[s.samples_per_shard.tolist(), s.choose] for s in self.mixture.streams]
        return json.dumps({"streams": streams, "options": self.options.to_dict()}, sort_keys=True)

    @staticmethod
    def from_json(text: str) -> "OrderKey":
        """The key that ``to_json`` wrote, its streams without their names."""
        saved = json.loads(text)
        streams = [
            StreamSize(f"number {number}", np.array(sizes, np.int64), choose)
            for number, (sizes, choose) in enumerate(saved["streams"])
        ]
        return OrderKey(Mixture(streams), ResolvedOrder(**field_names(saved["options"])))


def name_of(key: str) -> str:
    """What the orders of a key, in its JSON form, go by on disk.

    The libraries' versions are part of it: numpy promises the same random numbers only within a
    version, and the shuffle algorithms are mosaicml-streaming's.
    """
    made_with = [_VERSION, version("numpy"), version("mosaicml-streaming")]
    digest = hashlib.sha256(json.dumps(made_with).encode())
    digest.update(key.encode())
    return digest.hexdigest()[:24]


def _write_order(order: ListedEpoch, folder: str, partial: str) -> None:
    """Write an order; the folder appears complete, and only once it is on disk."""
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

    Closing a map whose pages have all been read takes ten milliseconds and more, holds Python's
    lock, and would halt training for as long.
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


def _without_its_parents(package: str, child: str) -> None:
    """Let modules below ``package.child`` be imported without running either's ``__init__``."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        return
    folders = list(spec.submodule_search_locations)
    for name in (package, f"{package}.{child}"):
        empty = types.ModuleType(name)
        empty.__path__ = folders
        sys.modules[name] = empty
        folders = [os.path.join(folder, child) for folder in folders]


def _main(key_path: str, epoch: str, folder: str, partial: str) -> None:
    """Compute the order of an epoch and write it; see `_write_order`."""
    try:
        with open(key_path, encoding="utf-8") as file:
            key = OrderKey.from_json(file.read())
        if key.options.shuffle:
            _without_its_parents("streaming", "base")
        order = build_epoch(key.mixture, key.options, int(epoch))
        assert isinstance(order, ListedEpoch)  # the one order that is not a list is never stored
        _write_order(order, folder, partial)
    except (MosaicDataError, OSError) as error:
        # What was written of it takes the space that may be what is missing.
        shutil.rmtree(partial, ignore_errors=True)
        print(str(error).replace("\n", " "))
        raise SystemExit(REFUSED if isinstance(error, MosaicDataError) else UNWRITABLE) from None


if __name__ == "__main__":
    _main(*sys.argv[1:])
