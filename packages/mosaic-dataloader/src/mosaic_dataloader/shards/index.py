"""The index of a cache directory: fetched once, and compared with its remote at every start."""

import filecmp
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.shards.faults import Damaged, one_line
from mosaic_dataloader.shards.layout import (
    INDEX_BYTE,
    incoming_root,
    lock_path,
    manifest_paths,
)
from mosaic_dataloader.shards.locks import LOCK_TIMEOUT, locked
from mosaic_dataloader.shards.secrets import redacted
from mosaic_dataloader.shards.transfer import AbsentError, Transfers
from mosaic_dataloader.threads import run_async

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
    transfers = Transfers(name, stream, directory)
    # As long as another process may take that does not give up either.
    timeout = LOCK_TIMEOUT + transfers.longest
    with locked(lock_path(directory), INDEX_BYTE, timeout):
        if os.path.isfile(path) and _age(checked) < _FRESH_SECONDS:
            return
        with _incoming(directory) as folder:
            needed = not os.path.isfile(path)
            # A distant store takes as long for each as for both.
            manifest = run_async(lambda: _manifest(transfers, folder), "mosaic-manifest")
            arrived = _download(name, transfers, folder, directory, needed=needed)
            if arrived is not None:
                _accept(name, stream, arrived, path)
                _keep_manifest(manifest, directory)
        with open(checked, "w"):
            os.utime(checked)


def _download(
    name: str, transfers: Transfers, folder: str, directory: str, *, needed: bool
) -> str | None:
    try:
        arrived = transfers.bring(
            "index.json", folder, "index.json", _check, attempts=None if needed else 1
        )
    except MosaicDataError as error:
        if needed:
            raise
        logger.warning("%s. Going on with the one in %s", error, directory)
        return None
    # Out of the folder, which some downloaders leave notes of their own in.
    kept = os.path.join(directory, ".mosaic", "index.json")
    os.replace(arrived, kept)
    return kept


@contextmanager
def _incoming(directory: str) -> Iterator[str]:
    """A folder for what arrives."""
    # One for all: the caller holds the lock. Left by a killed process, it is swept here.
    folder = os.path.join(incoming_root(directory), "index")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(path: str) -> None:
    _arrived(path)
    try:
        with open(path, encoding="utf-8") as file:
            json.load(file)
    except ValueError as error:
        raise Damaged(f"it is no JSON ({one_line(error)})") from error


def _arrived(path: str) -> None:
    if not os.path.isfile(path):
        raise Damaged("nothing arrived")


def _accept(name: str, stream: "Stream", arrived: str, path: str) -> None:
    if not os.path.isfile(path):
        os.replace(arrived, path)
        return
    same = filecmp.cmp(arrived, path, shallow=False)
    os.remove(arrived)
    if not same:
        raise MosaicDataError(
            f'stream "{name}": {os.path.dirname(path)} caches other data than '
            f"{redacted(os.path.join(str(stream.remote), stream.split))} holds (their indexes "
            f"differ); delete that directory or choose another local"
        )


def _manifest(transfers: Transfers, folder: str) -> str:
    """Fetch the remote's manifest. It serves checks only, so one attempt is made.

    Most data sets have none, and repeating what is not there costs seconds.
    """
    return transfers.bring("manifest.json", folder, "manifest.json", _arrived, attempts=1)


def _keep_manifest(manifest: Callable[[], str], directory: str) -> None:
    """Have the remote's manifest in the cache, if it holds one.

    Args:
        manifest: Gives its path, or raises what fetching it did.
        directory: The cache directory.
    """
    path = manifest_paths(directory)[1]
    try:
        arrived = manifest()
    except AbsentError:
        with suppress(FileNotFoundError):
            os.remove(path)
    except MosaicDataError as error:
        logger.warning("%s. What its rows were made with is not checked", error)
    else:
        os.replace(arrived, path)


def _age(path: str) -> float:
    try:
        return time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return float("inf")
