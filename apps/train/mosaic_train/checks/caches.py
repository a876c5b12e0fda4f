"""Can shards be cached where they are to be, and how fast and how many?"""

import os
import shutil
import tempfile
from typing import Any

from mosaic_train.checks.filesystems import filesystem_type, is_network
from mosaic_train.checks.report import Report
from mosaic_train.errors import TrainError

_GB = 1e9


def check_caches(section: str, options: Any, loader: Any, report: Report) -> None:
    """Look at the directories that the data are read from and written to.

    Args:
        section: Name of the loader's section, for messages.
        options: Its `dataset` section.
        loader: The first rank's loader.
        report: Where mistakes and costs are noted.
    """
    streams = loader.dataset.streams
    cache_dir = os.path.dirname(loader.dataset.orders_dir)
    if options.cache_dir:
        report.attempt(_check_writable, f"{section}.dataset.cache_dir", cache_dir)
        _warn_of_network("the cache directory", cache_dir, report)
    for stream in streams:
        name = f'the cache of stream "{stream.name}"'
        if stream.fetched:
            report.attempt(_check_writable, name, stream.directory)
        else:
            name = f'stream "{stream.name}"'
        _warn_of_network(name, stream.directory, report)
    _warn_of_space(section, [stream for stream in streams if stream.fetched], loader, report)


def _check_writable(name: str, directory: str) -> None:
    try:
        os.makedirs(directory, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"x")
    except OSError as error:
        raise TrainError(
            f"{name}: cannot write to {directory} ({error.strerror}): choose another directory, on "
            "a local disk"
        ) from error


def _warn_of_network(name: str, directory: str, report: Report) -> None:
    kind = filesystem_type(directory)
    if not is_network(kind):
        return
    if name.startswith("stream"):
        report.warn(
            f"{name} is read in place from {directory}, a network file system ({kind}): every read "
            "of every epoch goes over the network; give it as `remote`, with `local` on a disk of "
            "this machine"
        )
    else:
        report.warn(
            f"{name}, {directory}, is on a network file system ({kind}): each shard goes over the "
            "network when it is stored and whenever it is read, for all machines through one "
            "server; choose a directory on a disk of this machine"
        )


def _warn_of_space(section: str, streams: list[Any], loader: Any, report: Report) -> None:
    """Compare what is to be fetched with the room that there is, disk by disk."""
    limit = loader.dataset.cache_limit
    by_disk: dict[int, list[Any]] = {}
    for stream in streams:
        if os.path.isdir(stream.directory):  # else it could not be made, which is told elsewhere
            by_disk.setdefault(os.stat(stream.directory).st_dev, []).append(stream)
    for group in by_disk.values():
        directories = sorted({stream.directory for stream in group})
        present = sum(map(_bytes_in, directories))
        # Every machine fetches its own share, at best.
        whole = sum(_bytes_when_cached(stream) for stream in group) / loader.num_nodes
        wanted = whole if limit is None else min(whole, limit)
        room = shutil.disk_usage(directories[0]).free + present
        if wanted <= room:
            continue
        report.warn(
            f"{directories[0]} has room for {room / _GB:,.1f} GB of shards, but this machine is to "
            f"keep {wanted / _GB:,.1f} GB ({'cache_limit' if limit else 'its share of the data'}): "
            f"the disk will be full, and training will stop, after about {room / wanted:.0%} of "
            "them; set mosaic_dataloader.dataset.cache_limit below the room, which has shards "
            "fetched again in every epoch, or cache on a larger disk"
        )


def _bytes_when_cached(stream: Any) -> int:
    """Bytes that a stream's shards take once all are fetched."""
    kept = stream.stream.safe_keep_zip
    return sum(r.get_max_size() if kept else r.get_raw_size() for r in stream.readers)


def _bytes_in(directory: str) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # another run may be evicting
                continue
    return total
