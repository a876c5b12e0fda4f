"""The index of a cache directory: fetched once, and compared with its remote at every start."""

import filecmp
import gc
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.storage.contents import load_index
from mosaic_dataloader.storage.layout import (
    INDEX_BYTE,
    cached_files,
    lock_path,
    manifest_paths,
    shard_files,
    staging,
)
from mosaic_dataloader.storage.transfer import NotFoundError, Transfers
from mosaic_dataloader.storage.versions import Version, read_shard_note
from mosaic_dataloader.util.locks import LOCK_TIMEOUT, locked
from mosaic_dataloader.util.secrets import redacted
from mosaic_dataloader.util.store_errors import CorruptShardError, InvalidIndexError
from mosaic_dataloader.util.threads import map_concurrent, run_async

if TYPE_CHECKING:
    from streaming import Stream
    from streaming.base.format import Reader

logger = logging.getLogger(__name__)

# Shards asked about at a time.
_ASKED_AT_ONCE = 16
_UNREACHABLE = "%s. Continuing with the one in %s"
# What shards of a data set usually have in common.
_SHARED = ("column_encodings", "column_names", "column_sizes", "hashes")


def read_index(stream: "Stream", allow_unsafe_types: bool) -> list["Reader"]:
    """Read a stream's index, which is there.

    Raises:
        OSError: It cannot be read.
        CorruptShardError: It is not JSON.
        InvalidIndexError: It is not an index of shards; see `load_index`.
        ValueError: It has columns of a type that is not safe.
    """
    place = (str(stream.local), str(stream.split))
    enabled = gc.isenabled()
    # There are no reference cycles, and a search for them would visit all readers repeatedly.
    gc.disable()
    try:
        shards = load_index(os.path.join(*place, "index.json"))
        return list(_readers(shards, place, allow_unsafe_types))
    finally:
        if enabled:
            gc.enable()


def _readers(
    shards: list[dict[str, Any]], place: tuple[str, str], allow_unsafe_types: bool
) -> Iterator["Reader"]:
    from streaming.base.format import reader_from_json
    from streaming.base.format.base.reader import FileInfo
    from streaming.base.format.mds import MDSReader

    shared: dict[str, Any] = {}
    for info in shards:
        if info["format"] != "mds":
            foreign = reader_from_json(*place, info)
            foreign.validate(allow_unsafe_types)
            yield foreign
            continue
        options = {k: v for k, v in info.items() if k not in ("version", "format")}
        known = all(options[key] == shared.get(key) for key in _SHARED)
        if known:
            options.update(shared)
        for key in ("raw_data", "zip_data"):
            options[key] = FileInfo(**options[key]) if options[key] else None
        reader = MDSReader(*place, **options)
        if not known:
            # Equal columns are as safe as those that were looked at.
            reader.validate(allow_unsafe_types)
            shared = {key: options[key] for key in _SHARED}
        yield reader


@dataclass(frozen=True)
class _Checked:
    """What `.mosaic/checked` says of the last comparison with the remote.

    How many have ended, whether the remote could be reached, and what the store says of the index.
    """

    number: int = 0
    reached: bool = False
    version: Version | None = None


def fetch_index(transfers: Transfers) -> bool:
    """Download ``index.json`` into a cache directory, or check that it is still the remote's.

    A cache that holds shards of other data would mix them with the remote's, so it is refused: if
    the indexes differ, and also if the index was written again with the same bytes and a cached
    shard without hashes is not known to be the one that the store has now. A remote that cannot be
    reached is only warned of where an index is there already: a complete cache works without it.

    Returns:
        Whether the remote could be reached.

    Raises:
        MosaicDataError: There is no index, or the cache belongs to other data.
    """
    directory = transfers.directory
    path = os.path.join(directory, "index.json")
    # As long as another process may take that does not give up either.
    timeout = LOCK_TIMEOUT + transfers.longest
    before = _read_checked(directory)
    with locked(lock_path(directory), INDEX_BYTE, timeout):
        checked = _read_checked(directory)
        if os.path.isfile(path) and checked.number >= before.number + 2:
            # The ranks of a machine start together. Of two comparisons that ended since this one
            # was asked for, the second also began since then: it serves this one, too.
            return checked.reached
        reached = True
        with staging(directory, "index") as folder:
            # A distant store takes as long for each as for both. The manifest serves checks only,
            # so one attempt is made: most data sets have none.
            file = "manifest.json"
            manifest = run_async(
                lambda: transfers.download(file, folder, file, _arrived, attempts=1)[0],
                "mosaic-manifest",
            )
            try:
                version = _compare(transfers, folder, checked.version)
            except _UnreachableError as error:
                logger.warning(_UNREACHABLE, error, directory)
                version, reached = checked.version, False
            else:
                _keep_manifest(manifest, directory)
        _write_checked(directory, _Checked(checked.number + 1, reached, version))
        return reached


def compare_unwritable(transfers: Transfers) -> None:
    """Compare the index of a cache that cannot be written to with its remote's.

    Shards without hashes are compared if the cache holds what the store said of them: one that was
    copied without that is taken as it is.

    Raises:
        MosaicDataError: The cache belongs to other data.
    """
    version = _read_checked(transfers.directory).version
    try:
        with tempfile.TemporaryDirectory() as folder:
            _compare(transfers, folder, version, noted=version is not None)
    except (_UnreachableError, FileNotFoundError) as error:
        logger.warning(_UNREACHABLE, error, transfers.directory)


class _UnreachableError(Exception):
    """The remote cannot be compared with the index that is here."""


def _compare(
    transfers: Transfers, folder: str, known: Version | None, *, noted: bool = True
) -> Version | None:
    """Put the remote's index into the directory, or compare it with the one that is there.

    ``known`` is the version of the index that is here, as far as the store reported it; that of the
    remote's is returned. Unless ``noted``, shards that nothing is noted of are taken as they are.

    Raises:
        MosaicDataError: There is none to be found, or the cache belongs to other data.
        _UnreachableError: The remote cannot be asked, but there is an index.
    """
    path = os.path.join(transfers.directory, "index.json")
    needed = not os.path.isfile(path)
    try:
        if not needed and known is not None and transfers.version("index.json") == known:
            return known
        arrived, version = transfers.download(
            "index.json", folder, "index.json", _check, attempts=None if needed else 1, ask=True
        )
    except MosaicDataError as error:
        if needed:
            raise
        raise _UnreachableError(str(error)) from error
    same = not needed and filecmp.cmp(arrived, path, shallow=False)
    if needed or not (same or _usable(path)):
        os.replace(arrived, path)
        return version
    if not same:
        raise _other_data(transfers, "their indexes differ")
    if noted and version is not None and version != known:
        _compare_shards(transfers)
    return version


def _compare_shards(transfers: Transfers) -> None:
    """Compare the cached shards that have no hashes with what the store says of them now.

    Their sizes alone do not tell them from those of a data set written in their place.
    """

    def compare(file: str, noted: bytes | None) -> None:
        try:
            version = transfers.version(file)
        except NotFoundError:
            version = None
        except MosaicDataError as error:
            raise _UnreachableError(str(error)) from error
        if version is None or version.digest() != noted:
            raise _other_data(
                transfers,
                f"the index was written again, and nothing shows that {file} is still the same; "
                f'hashes=["xxh64"] in the index would',
            )

    jobs, directory = [], transfers.directory
    for shard, files in enumerate(shard_files(directory)):
        if not files.hashed and any(cached_files(directory, files.names)):
            noted = read_shard_note(directory, shard)
            jobs += [partial(compare, file, noted) for file in (files.zipped or files.raw)[:1]]
    map_concurrent(jobs, _ASKED_AT_ONCE, "mosaic-versions")


def _other_data(transfers: Transfers, why: str) -> MosaicDataError:
    remote = redacted(os.path.join(str(transfers.stream.remote), transfers.stream.split))
    return MosaicDataError(
        f'stream "{transfers.name}": {transfers.directory} caches other data than {remote} holds '
        f"({why}); delete that directory or choose another local"
    )


def _read_checked(directory: str) -> _Checked:
    try:
        with open(os.path.join(directory, ".mosaic", "checked"), encoding="utf-8") as file:
            number, reached, version = json.load(file)
        return _Checked(int(number), bool(reached), Version(*version) if version else None)
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        # Never compared, or not by this release.
        return _Checked()


def _write_checked(directory: str, checked: _Checked) -> None:
    path = os.path.join(directory, ".mosaic", "checked")
    # Others may write to a shared cache: whatever this may be a link to is left alone.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(f"{path}.new", flags, 0o666), "w", encoding="utf-8") as file:
        json.dump([checked.number, checked.reached, checked.version], file)
    os.replace(f"{path}.new", path)


def discard_index(directory: str) -> None:
    """Forget an index that cannot be used; it is then downloaded like a new one."""
    path = os.path.join(directory, "index.json")
    with locked(lock_path(directory), INDEX_BYTE), suppress(FileNotFoundError):
        # Another process may have replaced it already.
        if not _usable(path):
            os.remove(path)


def _check(path: str) -> None:
    _arrived(path)
    # All of it, so that none is kept that cannot be used.
    load_index(path)


def _arrived(path: str) -> None:
    if not os.path.isfile(path):
        raise CorruptShardError("nothing arrived")


def _usable(path: str) -> bool:
    try:
        load_index(path)
    except (CorruptShardError, InvalidIndexError):
        return False
    return True


def _keep_manifest(manifest: Callable[[], str], directory: str) -> None:
    """Keep the remote's manifest in the cache, if the remote has one.

    ``manifest`` gives its path, or raises what fetching it did.
    """
    path = manifest_paths(directory)[1]
    try:
        arrived = manifest()
    except NotFoundError:
        with suppress(FileNotFoundError):
            os.remove(path)
    except MosaicDataError as error:
        logger.warning("%s. What its rows were made with is not checked", error)
    else:
        os.replace(arrived, path)
