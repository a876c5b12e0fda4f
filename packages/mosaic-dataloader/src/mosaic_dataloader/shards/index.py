"""The index of a cache directory: fetched once, and compared with its remote at every start."""

import filecmp
import logging
import os
import time
from typing import TYPE_CHECKING

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.shards.layout import INDEX_BYTE, lock_path
from mosaic_dataloader.shards.locks import locked

if TYPE_CHECKING:
    from streaming import Stream

logger = logging.getLogger(__name__)

# The ranks of a machine start together; one look at the remote serves them all.
_FRESH_SECONDS = 60.0


def fetch_index(name: str, stream: "Stream", directory: str) -> None:
    """Have ``index.json`` in a cache directory, and be sure that it is the remote's.

    A cache that holds shards of other data would mix them with the remote's: if the index differs,
    the cache is refused. A remote that cannot be reached is only warned of where an index is there
    already: a complete cache works without it.

    Raises:
        MosaicDataError: There is no index to be had, or the cache belongs to other data.
    """
    path = os.path.join(directory, "index.json")
    checked = os.path.join(directory, ".mosaic", "checked")
    with locked(lock_path(directory), INDEX_BYTE):
        if os.path.isfile(path) and _age(checked) < _FRESH_SECONDS:
            return
        arrived = _download(name, stream, directory, needed=not os.path.isfile(path))
        if arrived is not None:
            _accept(name, stream, arrived, path)
        with open(checked, "w"):
            os.utime(checked)


def _download(name: str, stream: "Stream", directory: str, *, needed: bool) -> str | None:
    incoming = os.path.join(".mosaic", "index.json")
    partial = os.path.join(directory, incoming)
    if os.path.exists(partial):
        # Left by a killed process; downloaders take what exists for complete.
        os.remove(partial)
    try:
        stream._download_file("index.json", incoming)
    except Exception as error:
        # Object stores raise errors of their own of every kind.
        where = os.path.join(str(stream.remote), stream.split)
        problem = f'stream "{name}": cannot fetch index.json from {where}: {one_line(error)}'
        if needed:
            raise MosaicDataError(problem) from error
        logger.warning("%s; going on with the one in %s", problem, directory)
        return None
    return partial


def _accept(name: str, stream: "Stream", arrived: str, path: str) -> None:
    if not os.path.isfile(path):
        os.replace(arrived, path)
        return
    same = filecmp.cmp(arrived, path, shallow=False)
    os.remove(arrived)
    if not same:
        raise MosaicDataError(
            f'stream "{name}": {os.path.dirname(path)} caches other data than '
            f"{os.path.join(str(stream.remote), stream.split)} holds (their indexes differ); "
            f"delete that directory or choose another local"
        )


def _age(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return float("inf")


def one_line(error: BaseException) -> str:
    """An error's type and text on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
