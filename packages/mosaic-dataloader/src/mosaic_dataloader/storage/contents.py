"""What an index says, read as data from outside: checked before anything is done by it.

The author of the index chose its names and sizes. So no name may lead out of the stream's
directory, and no size is believed that the rest of the index or the file itself contradicts.
"""

import json
import os
import re
import reprlib
import stat
from typing import TYPE_CHECKING, Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.storage.unpack import ALGORITHMS
from mosaic_dataloader.util.store_errors import CorruptShardError, InvalidIndexError

if TYPE_CHECKING:
    from streaming.base.format import Reader

VERSION = 2
# A shard stores where its samples begin as uint32.
_LONGEST_RAW = (1 << 32) - 1
# What does not compress grows a little.
_LONGEST_ZIPPED = 2 * _LONGEST_RAW
# The number of samples, and where the first of them begins.
_LEAST_BYTES = 8

_LONGEST_NAME, _LONGEST_PART = 1024, 255
# Control characters, NUL, lone surrogates; and what separates folders on another system.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]")
# Where this project keeps files of its own beside the shards, whatever the file system makes of
# upper and lower case. (`.mosaic` is hidden, as no shard may be.)
_RESERVED = ("index.json", "manifest.json")

_COMMON = ("version", "format", "hashes", "compression", "size_limit", "samples")
_COLUMNS = {
    "mds": ("column_names", "column_encodings", "column_sizes"),
    "json": ("columns", "newline"),
    "csv": ("column_names", "column_encodings", "newline"),
    "tsv": ("column_names", "column_encodings", "newline"),
    "xsv": ("column_names", "column_encodings", "newline", "separator"),
}

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 100
_SHOWN.maxlevel, _SHOWN.maxlist, _SHOWN.maxdict = 2, 4, 4


def shown(value: object) -> str:
    """A value from outside as messages quote it: on one line, and no longer than a line may be."""
    return _SHOWN.repr(value)


def load_index(path: str) -> list[dict[str, Any]]:
    """The shards that an index file describes.

    Each is a mapping with the keys that mosaicml-streaming writes and no others. Its names stay in
    the stream's directory as far as a name tells, its values are of the right types, and its sizes
    agree with one another.

    Raises:
        OSError: It cannot be read.
        CorruptShardError: It is not JSON, as after a broken transfer.
        InvalidIndexError: It is, but not an index of shards.
    """
    try:
        with open(path, encoding="utf-8") as file:
            index = json.load(file)
    except RecursionError as error:
        raise InvalidIndexError("it is nested too deeply") from error
    except ValueError as error:
        raise CorruptShardError(f"it is empty or damaged ({error})") from error
    if not isinstance(index, dict):
        raise InvalidIndexError(f"it is {shown(index)}, not an index of shards")
    _require_version(index)
    if "shards" not in index:
        raise InvalidIndexError("it lacks 'shards'")
    shards = index["shards"]
    if not isinstance(shards, list):
        raise InvalidIndexError(f'its "shards" is {shown(shards)}, not a list')
    names: set[str] = set()
    previous: dict[str, Any] = {}
    for number, shard in enumerate(shards):
        try:
            _check_shard(shard, names, previous)
        except InvalidIndexError as error:
            raise InvalidIndexError(f"shard {number} of it: {error}") from None
        previous = shard
    return shards


def path_in_stream(directory: str, name: str) -> str:
    """The path of a file that an index names, inside its stream's directory, a real path.

    The one way from a name to a path: whatever opens, writes or removes a shard's file asks here.

    Raises:
        MosaicDataError: The name leads out of the directory, also through a symbolic link.
    """
    try:
        check_name(name)
    except InvalidIndexError as error:
        raise MosaicDataError(f"the index of {directory}: {error}") from None
    refuse_link_outside(directory, name)
    return os.path.join(directory, name)


def check_name(name: object) -> None:
    """Refuse a file name that is not one of a file below the stream's directory.

    Raises:
        InvalidIndexError: It is empty, absolute, contains ``..``, a backslash or a control
            character, is hidden or too long, or is one of this project's own files.
    """
    if not isinstance(name, str) or not name:
        raise InvalidIndexError(f"basename {shown(name)} is not a file name")
    parts = name.split("/")
    if not parts[0] or ".." in parts:
        raise InvalidIndexError(f"basename {shown(name)} leads out of the stream's directory")
    if _UNSAFE.search(name):
        raise InvalidIndexError(
            f"basename {shown(name)} contains a control character or a backslash; folders are "
            f'separated by "/"'
        )
    if len(name) > _LONGEST_NAME or max(len(os.fsencode(part)) for part in parts) > _LONGEST_PART:
        raise InvalidIndexError(f"basename {shown(name)} is too long for a file name")
    # Some writers of merged indexes begin with "./".
    if any(part.startswith(".") and part != "." for part in parts):
        raise InvalidIndexError(f"basename {shown(name)} is hidden, which no shard is")
    if parts[-1] in ("", "."):
        raise InvalidIndexError(f"basename {shown(name)} is a directory")
    if next(part for part in parts if part not in ("", ".")).casefold() in _RESERVED:
        raise InvalidIndexError(f"basename {shown(name)} is not a shard's")


def refuse_link_outside(directory: str, name: str) -> None:
    """Refuse a file that is reached through a symbolic link out of its directory, a real path.

    Raises:
        MosaicDataError: A folder in the name, or the file itself, is such a link.
    """
    path = directory
    for part in name.split("/"):
        path = os.path.join(path, part)
        if os.path.islink(path):
            real = os.path.realpath(path)
            if os.path.commonpath([directory, real]) != directory:
                raise MosaicDataError(
                    f"{path} is a symbolic link to {shown(real)}, out of the stream's directory; "
                    f"put what it points to in its place"
                )


def require_in_place(stream: str, directory: str, reader: "Reader") -> None:
    """Check that a shard which is read in place has its files in full length.

    Raises:
        MosaicDataError: A file is missing, is too short or too long, or cannot be read.
    """
    for raw, _ in reader.file_pairs:
        path = path_in_stream(directory, raw.basename)
        try:
            size = file_size(path)
        except OSError as error:
            raise unreadable(stream, path, error) from error
        if size != raw.bytes:
            what = "is not as long as its index says"
            what = {None: "is missing", -1: "is not a file"}.get(size, what)
            raise MosaicDataError(f'stream "{stream}": {path} {what}; restore it')


def unreadable(stream: str, path: str, error: OSError) -> MosaicDataError:
    """What to say of a shard's file that this user cannot read."""
    return MosaicDataError(
        f'stream "{stream}": cannot read {path} ({error.strerror}); let this user read it, or '
        f"restore it"
    )


def file_size(path: str) -> int | None:
    """Bytes of a file; None if it is missing, -1 if it is not a regular file."""
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return info.st_size if stat.S_ISREG(info.st_mode) else -1


def _check_shard(shard: Any, names: set[str], previous: dict[str, Any]) -> None:
    """Check one shard, given the one before it.

    ``names`` are the files of all shards before; its own are added.
    """
    if not isinstance(shard, dict):
        raise InvalidIndexError(f"{shown(shard)} is not a mapping")
    kind = shard.get("format")
    if not isinstance(kind, str) or kind not in _COLUMNS:
        raise InvalidIndexError(f"format {shown(kind)} is not one of {', '.join(_COLUMNS)}")
    _require_version(shard)
    described = (*_COLUMNS[kind], "hashes")
    raw_files = ("raw_data",) if kind == "mds" else ("raw_data", "raw_meta")
    packed = {key: key.replace("raw", "zip") for key in raw_files}
    _require_keys(shard, (*_COMMON, *_COLUMNS[kind], *packed.keys(), *packed.values()))
    # Nearly always as in the shard before, whose own are then kept: 8.0 and 8 are equal, too.
    if all(key in previous and shard[key] == previous[key] for key in described):
        shard.update({key: previous[key] for key in described})
    else:
        _check_columns(kind, shard)
    compression = shard["compression"]
    if compression is not None and (
        not isinstance(compression, str) or compression.partition(":")[0] not in ALGORITHMS
    ):
        raise InvalidIndexError(
            f"compression {shown(compression)} is not one of {', '.join(ALGORITHMS)}"
        )
    if shard["size_limit"] is not None:
        _check_whole("size_limit", shard["size_limit"], 1 << 63)
    for raw, zipped in packed.items():
        _check_file(raw, shard[raw], _LONGEST_RAW, names)
        if shard[zipped] is not None:
            _check_file(zipped, shard[zipped], _LONGEST_ZIPPED, names)
            if compression is None:
                raise InvalidIndexError(f"it has {zipped}, but no compression")
    samples = shard["samples"]
    _check_whole("samples", samples, _LONGEST_RAW)
    # Where each sample begins stands in this file, four bytes each.
    listed = shard["raw_data" if kind == "mds" else "raw_meta"]
    if _LEAST_BYTES + 4 * samples > listed["bytes"]:
        raise InvalidIndexError(
            f"{samples} samples do not fit into the {listed['bytes']} bytes of "
            f"{shown(listed['basename'])}"
        )


def _check_file(key: str, info: Any, longest: int, names: set[str]) -> None:
    if not isinstance(info, dict):
        raise InvalidIndexError(f"{key} is {shown(info)}, not a mapping")
    _require_keys(info, ("basename", "bytes", "hashes"))
    name, hashes = info["basename"], info["hashes"]
    check_name(name)
    _check_whole(f"bytes of {key}", info["bytes"], longest)
    if not isinstance(hashes, dict) or not _is_texts(list(hashes.values())):
        raise InvalidIndexError(f"hashes of {key} are {shown(hashes)}, not a mapping of texts")
    plain = os.path.normpath(name)
    if plain in names:
        raise InvalidIndexError(f"basename {shown(name)} is that of another file, too")
    names.add(plain)


def _check_columns(kind: str, entry: dict[str, Any]) -> None:
    if not _is_texts(entry["hashes"]):
        raise InvalidIndexError(f"hashes is {shown(entry['hashes'])}, not a list of texts")
    for key in ("newline", "separator"):
        if key in entry and not (isinstance(entry[key], str) and entry[key]):
            raise InvalidIndexError(f"{key} is {shown(entry[key])}, not a text")
    if kind == "json":
        columns = entry["columns"]
        if not isinstance(columns, dict) or not _is_texts(list(columns.values())):
            raise InvalidIndexError(f"columns is {shown(columns)}, not a mapping of texts")
        return
    names, encodings = entry["column_names"], entry["column_encodings"]
    for key, value in (("column_names", names), ("column_encodings", encodings)):
        if not _is_texts(value):
            raise InvalidIndexError(f"{key} is {shown(value)}, not a list of texts")
    if len(set(names)) != len(names):
        raise InvalidIndexError(f"column_names {shown(names)} names a column twice")
    sizes = entry.get("column_sizes", [None] * len(names))
    if not isinstance(sizes, list) or not len(names) == len(encodings) == len(sizes):
        raise InvalidIndexError("column_names, column_encodings and column_sizes do not match")
    for size in sizes:
        if size is not None:
            _check_whole("a column's size", size, _LONGEST_RAW)
        if size == 0:
            raise InvalidIndexError("a column's size is 0")


def _require_version(entry: dict[str, Any]) -> None:
    version = entry.get("version")
    if type(version) is not int or version != VERSION:
        raise InvalidIndexError(f"version {shown(version)} is not supported, only {VERSION}")


def _require_keys(entry: dict[str, Any], keys: tuple[str, ...]) -> None:
    for key in keys:
        if key not in entry:
            raise InvalidIndexError(f"it lacks {key!r}")
    if len(entry) > len(keys):
        raise InvalidIndexError(f"it has {shown(min(set(entry) - set(keys)))}, which is unknown")


def _check_whole(what: str, value: Any, most: int) -> None:
    # True is an int, too.
    if type(value) is not int or not 0 <= value <= most:
        raise InvalidIndexError(f"{what}: {shown(value)} is not a whole number up to {most}")


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is str for item in value)
