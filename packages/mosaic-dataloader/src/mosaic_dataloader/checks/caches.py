"""Can shards be cached where they are to be, how fast, and how many?"""

import os
import shutil
import tempfile

from mosaic_dataloader.checks.filesystems import network_filesystem
from mosaic_dataloader.checks.names import PYTHON, OptionNames
from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.loader import MosaicParallelAwareDataloader
from mosaic_dataloader.storage.cache import usage
from mosaic_dataloader.storage.streams import DataStream

_GB = 1e9


def unwritable_caches(dataset: StreamingTextDataset, *, names: OptionNames = PYTHON) -> list[str]:
    """A mistake: a directory that shards or orders are to be cached in cannot be written to.

    Args:
        dataset: The data.
        names: What the caller's options are called.

    Returns:
        A line for each such directory.
    """
    lines = []
    for name, directory in _caches(dataset, f"{names.dataset}cache_dir").items():
        try:
            os.makedirs(directory, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory) as file:
                file.write(b"x")
        except OSError as error:
            lines.append(
                f"{name}: cannot write to {directory} ({error.strerror}): choose another "
                f"directory, on a local disk"
            )
    return lines


def slow_caches(dataset: StreamingTextDataset) -> list[str]:
    """A cost: shards are cached on a network file system, or read from one in place.

    Args:
        dataset: The data.

    Returns:
        A line for each such directory.
    """
    lines = []
    for stream in dataset.streams:
        if not stream.fetched and (kind := network_filesystem(stream.directory)):
            lines.append(
                f'stream "{stream.name}" is read in place from {stream.directory}, a network file '
                f"system ({kind}): every read of every epoch goes over the network; give it as "
                f"`remote`, with `local` on a disk of this machine"
            )
    for name, directory in _caches(dataset, "the cache directory").items():
        if kind := network_filesystem(directory):
            lines.append(
                f"{name}, {directory}, is on a network file system ({kind}): each shard goes over "
                f"the network when it is stored and whenever it is read, for all machines through "
                f"one server; choose a directory on a disk of this machine"
            )
    return lines


def full_caches(loader: MosaicParallelAwareDataloader, *, names: OptionNames = PYTHON) -> list[str]:
    """A cost: a disk has less room than the shards that this machine is to keep.

    Args:
        loader: The loader of any rank.
        names: What the caller's options are called.

    Returns:
        A line for each such disk.
    """
    limit = loader.dataset.cache_limit
    by_disk: dict[int, list[DataStream]] = {}
    for stream in loader.dataset.streams:
        # A directory that is missing could not be made, which `unwritable_caches` reports.
        if stream.fetched and os.path.isdir(stream.directory):
            by_disk.setdefault(os.stat(stream.directory).st_dev, []).append(stream)
    lines = []
    for group in by_disk.values():
        directories = sorted({stream.directory for stream in group})
        present = sum(map(usage, directories))
        # Every machine fetches its own share, at best.
        whole = sum(map(_bytes_when_cached, group)) / loader.num_nodes
        wanted = whole if limit is None else min(whole, limit)
        room = shutil.disk_usage(directories[0]).free + present
        if wanted <= room:
            continue
        lines.append(
            f"{directories[0]} has room for {room / _GB:,.1f} GB of shards, but this machine is to "
            f"keep {wanted / _GB:,.1f} GB ({'cache_limit' if limit else 'its share of the data'}): "
            f"the disk will be full, and training will stop, after about {room / wanted:.0%} of "
            f"them; set {names.dataset}cache_limit below the room, so that shards are fetched "
            f"again in every epoch, or cache on a larger disk"
        )
    return lines


def _caches(dataset: StreamingTextDataset, main: str) -> dict[str, str]:
    """The directories that orders and shards are cached in, by what messages call them."""
    caches = {main: os.path.dirname(dataset.orders_dir)}
    fetched = (stream for stream in dataset.streams if stream.fetched)
    return caches | {f'the cache of stream "{s.name}"': s.directory for s in fetched}


def _bytes_when_cached(stream: DataStream) -> int:
    """Bytes that a stream's shards take once all are fetched."""
    kept = stream.stream.safe_keep_zip
    return sum(r.get_max_size() if kept else r.get_raw_size() for r in stream.readers)
