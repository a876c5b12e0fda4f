"""Streams as given, turned into opened ones."""

import copy
import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.options import DatasetOptions, StreamOptions
from mosaic_dataloader.storage.column import Column, find_column
from mosaic_dataloader.storage.contents import (
    path_in_stream,
    refuse_link_outside,
    require_in_place,
)
from mosaic_dataloader.storage.index import (
    compare_unwritable,
    discard_index,
    fetch_index,
    read_index,
)
from mosaic_dataloader.storage.layout import shard_files
from mosaic_dataloader.storage.transfer import Transfers
from mosaic_dataloader.util import arguments
from mosaic_dataloader.util.secrets import hide_secrets_of, printable, redacted, without_secrets
from mosaic_dataloader.util.store_errors import CorruptShardError, InvalidIndexError, one_line
from mosaic_dataloader.util.threads import map_concurrent

if TYPE_CHECKING:
    from streaming import Stream
    from streaming.base.format import Reader

# Its own logger: every process warns, and a launcher that wants one line silences the others.
at_start_logger = logging.getLogger("mosaic_dataloader.at_start")

# Streams whose indexes are fetched at a time.
_OPENED_AT_ONCE = 16
STREAM_OPTIONS = {field.name: field for field in fields(StreamOptions)}
_WEIGHTS = ("proportion", "repeat", "choose")
# Options of a stream that a data set gives to all its streams.
_DEFAULTS = ("split", "download_retry", "download_timeout", "validate_hash", "keep_zip")


class UnusableIndexError(MosaicDataError):
    """An index is there and is not one."""


@dataclass
class DataStream:
    """One opened stream.

    Attributes:
        name: How messages call it.
        stream: mosaicml-streaming's stream, of this loader alone; downloads and decompresses.
        readers: Its shard readers, in order.
        columns: The column that rows are read from, as each shard describes it; one object where
            shards describe it alike.
        directory: Where its shard files are, or are put.
        fetched: Whether shards come from elsewhere into ``directory``; otherwise they are read in
            place and nothing is ever written beside them.
        compared: Whether the cached index was compared with the remote's; False while the remote
            has been out of reach.
    """

    name: str
    stream: "Stream"
    readers: list["Reader"]
    columns: list[Column]
    directory: str
    fetched: bool
    compared: bool = True

    @property
    def column(self) -> Column:
        """The first shard's column; all hold tokens, or all text."""
        return self.columns[0]

    @cached_property
    def distinct_columns(self) -> list[Column]:
        """Each description that a shard has of the column, once."""
        return list({id(column): column for column in self.columns}.values())

    @property
    def samples(self) -> int:
        """Samples in the stream."""
        return sum(map(len, self.readers))

    def path(self, shard: int) -> str:
        """Path that the file of an uncompressed shard has, or will have once it is fetched."""
        return os.path.join(self.directory, self.readers[shard].file_pairs[-1][0].basename)

    @property
    def raw_bytes(self) -> int:
        """Bytes of its shards, decompressed."""
        return sum(int(reader.get_raw_size()) for reader in self.readers)

    @property
    def dtypes(self) -> set[np.dtype[Any] | None]:
        """Dtypes of the stored token ids; None for text and where each value has its own."""
        return {column.dtype for column in self.distinct_columns}

    @property
    def hashed(self) -> bool:
        """Whether the index has hashes of all shards, as the store has them."""
        pairs = (pair for reader in self.readers for pair in reader.file_pairs)
        return all((zipped or raw).hashes for raw, zipped in pairs)


class ShardSamples(NamedTuple):
    """Samples of one shard, both by their numbers: the shard in its stream, they in the shard."""

    shard: int
    places: list[int]


def open_streams(
    streams: Mapping[str, Mapping[str, Any]] | Sequence["Stream"], options: DatasetOptions
) -> list[DataStream]:
    """Read every stream's index, fetching it where needed.

    ``streams`` are their own options by their names, or streams of mosaicml-streaming; ``options``
    hold, with their ``cache_dir``, for every stream that does not say otherwise.

    Raises:
        MosaicDataError: Options contradict each other, an index is missing or unreadable, or a
            stream has no column to read.
    """
    if isinstance(streams, Mapping):
        named = [(name, _from_options(name, dict(o), options)) for name, o in streams.items()]
    else:
        names = [f"stream_{i}" for i in range(len(streams))]
        named = [(n, _own_copy(n, s, options)) for n, s in zip(names, streams, strict=True)]
    if not named:
        raise MosaicDataError("there is no stream; give streams, or remote and/or local")
    # Side by side: their stores answer late, each for itself.
    opened = map_concurrent(
        [partial(_open, name, stream, options) for name, stream in named],
        _OPENED_AT_ONCE,
        "mosaic-index",
    )
    _refuse_shared_caches(opened)
    _warn_of_no_hashes(opened)
    return opened


@cache
def warn_at_start(line: str) -> None:
    """Say something about the data, once in this process however often they are opened."""
    at_start_logger.warning("%s", line)


def _warn_of_no_hashes(streams: list[DataStream]) -> None:
    """Name the streams whose cached shards only size and time tell from others."""
    names = [stream.name for stream in streams if stream.fetched and not stream.hashed]
    if names:
        which = f'stream{"s" if len(names) > 1 else ""} "' + '", "'.join(names) + '"'
        warn_at_start(
            f"{which}: the index has no hashes, so that only size and time tell cached shards from "
            f"those of a data set written again at the same remote; write it with "
            f'hashes=["xxh64"], as mosaic-prepare does'
        )


def _from_options(name: str, given: dict[str, Any], options: DatasetOptions) -> "Stream":
    unknown = sorted(set(given) - set(STREAM_OPTIONS))
    if unknown:
        raise MosaicDataError(
            f'stream "{name}" has no option {unknown[0]!r}; it takes {", ".join(STREAM_OPTIONS)}'
        )
    own = _checked(name, given)
    remote, local = own.get("remote"), own.get("local")
    hide_secrets_of(str(remote))
    if not remote and not local:
        raise MosaicDataError(f'stream "{name}" has neither remote nor local; give at least one')
    if not remote:
        # Before mosaicml-streaming is imported, which takes seconds.
        split = own.get("split") or options.split or ""
        _check_directory(name, os.path.realpath(os.path.join(str(local), split)))
    from streaming import Stream

    own["local"] = local or _cache_directory(remote, options)
    # Not one of mosaicml-streaming's: the data set keeps it.
    own.pop("max_repeats", None)
    try:
        stream = Stream(**own)
    except (ValueError, ImportError) as error:
        # What a store's library is missing, or mosaicml-streaming refuses.
        message = redacted(" ".join(str(error).split()))
        raise MosaicDataError(f'stream "{name}": {message}') from printable(error)
    stream.apply_default(_defaults(options))
    return stream


def _defaults(options: DatasetOptions) -> dict[str, Any]:
    """As ``Stream.apply_default`` takes them."""
    return {name: getattr(options, name) for name in _DEFAULTS}


def _checked(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options of a stream that are not None, with paths resolved."""
    checked: dict[str, Any] = {}
    for key, value in given.items():
        where = f'stream "{name}": {key}'
        if value is not None and key in ("remote", "local"):
            checked[key] = arguments.place(where, value)
        elif value is not None:
            checked[key] = arguments.checked(STREAM_OPTIONS[key], where, value)
    weights = [key for key in _WEIGHTS if key in checked]
    if len(weights) > 1:
        raise MosaicDataError(
            f'stream "{name}" has {" and ".join(weights)}; a stream takes only one of proportion, '
            f"repeat and choose"
        )
    return checked


def _own_copy(name: str, stream: "Stream", options: DatasetOptions) -> "Stream":
    """A copy without the weights that an earlier dataset derived for it."""
    own = copy.copy(stream)
    hide_secrets_of(str(own.remote))
    if own.remote is not None:
        own.remote = arguments.place(f'stream "{name}": remote', own.remote)
    if own._local is None and own.remote is not None:
        # mosaicml-streaming's own choice is a name in the temporary directory that can be guessed.
        own.local = _cache_directory(own.remote, options)
    given = {key: getattr(own, key, None) for key in STREAM_OPTIONS if key not in _WEIGHTS}
    given |= {key: getattr(own, f"_{key}") for key in _WEIGHTS}
    checked = _checked(name, given)
    own.remote, own.local = checked.get("remote"), checked["local"]
    for weight in _WEIGHTS:
        if getattr(own, f"_{weight}") is None and hasattr(own, weight):
            delattr(own, weight)
    own.apply_default(_defaults(options))
    return own


def _cache_directory(remote: str | None, options: DatasetOptions) -> str:
    """Where the shards of a stream without ``local`` are cached: the same for the same remote."""
    digest = hashlib.sha256(_address(str(remote), "").encode()).hexdigest()[:16]
    return os.path.join(str(options.cache_dir), "streams", digest)


def _open(name: str, stream: "Stream", options: DatasetOptions) -> DataStream:
    # Documented as further attempts, but the library takes it for the number of all attempts.
    stream.download_retry += 1
    # One spelling for each place: locks, limits and caches go by it.
    stream.local = os.path.realpath(stream.local)
    directory = os.path.realpath(os.path.join(stream.local, stream.split))
    if stream.remote is None or _address(stream.remote, stream.split) == directory:
        _check_directory(name, directory)
        readers = _read_index(name, stream, options)
        if all(os.path.isfile(_raw_path(directory, r)) for r in readers):
            return _opened(name, stream, readers, directory, False, options)
        if not all(r.compression for r in readers):
            missing = next(r for r in readers if not os.path.isfile(_raw_path(directory, r)))
            raise MosaicDataError(
                f'stream "{name}": {_raw_path(directory, missing)} is missing; copy it, or give '
                f"remote"
            )
        # Compressed and local only: unpack into the cache, for nothing is written beside the data.
        stream.remote = stream.local
        stream.local = _cache_directory(stream.local, options)
        stream.safe_keep_zip = stream.keep_zip = False
        directory = os.path.realpath(os.path.join(stream.local, stream.split))
    if _complete_and_unwritable(stream, directory):
        # Another user's cache, or one on read-only storage: read like data in place.
        readers = _read_index(name, stream, options)
        compare_unwritable(Transfers(name, stream, directory))
        return _opened(name, stream, readers, directory, False, options)
    source = _address(stream.remote, stream.split)
    if os.path.isdir(source) and not os.path.isfile(os.path.join(directory, "index.json")):
        _check_directory(name, source)
    _make_cache(name, directory)
    transfers = Transfers(name, stream, directory)
    try:
        compared = fetch_index(transfers)
        try:
            readers = _read_index(name, stream, options)
        except UnusableIndexError:
            # The copy here is damaged: what comes from the remote was checked when it arrived.
            discard_index(directory)
            compared = fetch_index(transfers)
            readers = _read_index(name, stream, options)
    except OSError as error:
        raise MosaicDataError(
            f'stream "{name}": cannot use the cache directory {directory} ({one_line(error)}); '
            f"choose another local"
        ) from error
    opened = _opened(name, stream, readers, directory, True, options)
    opened.compared = compared
    return opened


def _check_directory(name: str, directory: str) -> None:
    if os.path.isfile(os.path.join(directory, "index.json")):
        return
    if not os.path.isdir(directory):
        raise MosaicDataError(
            f'stream "{name}": directory {directory} does not exist; correct local, or give remote'
        )
    splits = sorted(
        entry.name
        for entry in os.scandir(directory)
        if os.path.isfile(os.path.join(entry.path, "index.json"))
    )
    if splits:
        first = "train" if "train" in splits else splits[0]
        shown = ", ".join(splits[:3]) + (", …" if len(splits) > 3 else "")
        raise MosaicDataError(
            f'stream "{name}": directory {directory} holds no index.json, but folders in it do '
            f'({shown}); choose one, as with split = "{first}", or merge their indexes'
        )
    raise MosaicDataError(
        f'stream "{name}": directory {directory} holds no index.json; correct local, or give remote'
    )


def _opened(
    name: str,
    stream: "Stream",
    readers: list["Reader"],
    directory: str,
    fetched: bool,
    options: DatasetOptions,
) -> DataStream:
    if not any(map(len, readers)):
        raise MosaicDataError(f'stream "{name}" holds no samples ({directory})')
    columns = _find_columns(name, readers, options.token_encoding_type)
    if stream.validate_hash:
        _check_hash(name, stream.validate_hash, readers)
    if not fetched:
        # Before much is made of it.
        for reader in readers:
            require_in_place(name, directory, reader)
    return DataStream(name, stream, readers, columns, directory, fetched)


def _check_hash(name: str, wanted: str, readers: list["Reader"]) -> None:
    from streaming.base.hashing import is_hash

    for raw, zipped in (pair for reader in readers for pair in reader.file_pairs):
        known = (zipped or raw).hashes
        if wanted not in known or not is_hash(wanted):
            have = ", ".join(filter(is_hash, sorted(known))) or "none"
            raise MosaicDataError(
                f'stream "{name}": validate_hash = {wanted!r}, but its index has {have}; choose '
                f"one of those or leave validate_hash out"
            )


def _find_columns(name: str, readers: list["Reader"], token_encoding_type: str) -> list[Column]:
    """The column to read of each shard: a merged index may hold shards that differ."""
    found: list[Column] = []
    # One object where shards are described alike.
    find = cache(partial(find_column, stream=name, token_encoding_type=token_encoding_type))
    for reader in readers:
        try:
            column = find(*shard_columns(reader))
        except MosaicDataError as error:
            if not found:
                raise
            first, here = _basename(readers[0]), _basename(reader)
            raise MosaicDataError(f"{error}; that is {here}, while {first} can be read") from error
        if found and column.kind != found[0].kind and "text" in (column.kind, found[0].kind):
            raise MosaicDataError(
                f'stream "{name}": {_basename(readers[0])} holds "{found[0].name}", but '
                f'{_basename(reader)} holds "{column.name}"; put tokens and text into streams of '
                f"their own"
            )
        found.append(column)
    return found


def _basename(reader: "Reader") -> str:
    return str(reader.file_pairs[0][0].basename)


def shard_columns(reader: "Reader") -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and encodings of a shard's columns, whatever its format."""
    described: Any = reader
    if hasattr(reader, "column_names"):
        return tuple(described.column_names), tuple(described.column_encodings)
    columns = dict(getattr(reader, "columns", {}))
    return tuple(columns), tuple(columns.values())


def _raw_path(directory: str, reader: "Reader") -> str:
    return path_in_stream(directory, reader.file_pairs[-1][0].basename)


def _address(remote: str, split: str) -> str:
    """One spelling of where a remote is; directories by their real path."""
    whole = without_secrets(os.path.join(remote, split))
    return whole.rstrip("/") if "://" in whole else os.path.realpath(whole)


def _complete_and_unwritable(stream: "Stream", directory: str) -> bool:
    if not os.path.isdir(directory) or os.access(directory, os.W_OK):
        return False
    if not os.path.isfile(os.path.join(directory, "index.json")):
        return False
    needed = [raw for files in shard_files(directory) for raw in files.raw]
    return all(os.path.isfile(path_in_stream(directory, raw)) for raw in needed)


def _refuse_shared_caches(streams: list[DataStream]) -> None:
    """Two remotes in one directory would overwrite each other's shards."""
    remotes: dict[str, tuple[str, str]] = {}
    for data in streams:
        if not data.fetched:
            continue
        place = _address(str(data.stream.remote), data.stream.split)
        name, other = remotes.setdefault(data.directory, (data.name, place))
        if other != place:
            raise MosaicDataError(
                f'streams "{name}" and "{data.name}" fetch different data into {data.directory}; '
                f"give each a local of its own"
            )


def _make_cache(name: str, directory: str) -> None:
    own = os.path.join(directory, ".mosaic")
    # Other users of a shared cache must not make this process write elsewhere.
    below = ("lock", "staging", "leases", "versions", "checked", "checked.new", "manifest.json")
    for path in (own, *(os.path.join(own, entry) for entry in below)):
        if os.path.islink(path):
            raise MosaicDataError(
                f'stream "{name}": {path} is a symbolic link; remove it, or choose another local'
            )
    try:
        os.makedirs(own, exist_ok=True)
    except OSError as error:
        raise MosaicDataError(
            f'stream "{name}": cannot write to its cache directory {directory} ({error.strerror}); '
            f"choose another local"
        ) from error


def _read_index(name: str, stream: "Stream", options: DatasetOptions) -> list["Reader"]:
    directory = os.path.join(stream.local, stream.split)
    path = os.path.join(directory, "index.json")
    try:
        refuse_link_outside(os.path.realpath(directory), "index.json")
        return read_index(stream, options.allow_unsafe_types)
    except (CorruptShardError, InvalidIndexError) as error:
        raise UnusableIndexError(
            f'stream "{name}": cannot read {path}: {error}; restore it, or write it again'
        ) from error
    except MosaicDataError as error:
        raise MosaicDataError(f'stream "{name}": {error}') from None
    except (ValueError, OSError) as error:
        raise MosaicDataError(f'stream "{name}": cannot read {path}: {one_line(error)}') from error
