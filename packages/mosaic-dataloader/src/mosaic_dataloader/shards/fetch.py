"""Bringing one shard into its cache directory, once per machine."""

import copy
import os
import shutil
import threading
from typing import TYPE_CHECKING

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.shards.budget import reserved
from mosaic_dataloader.shards.incoming import incoming_folder, live_incoming
from mosaic_dataloader.shards.index import one_line
from mosaic_dataloader.shards.layout import fetch_byte, lock_path
from mosaic_dataloader.shards.locks import locked
from mosaic_dataloader.shards.streams import DataStream

if TYPE_CHECKING:
    from streaming import Stream
    from streaming.base.format import FileInfo


class ShardFetcher:
    """Fetches the shards of one stream.

    A shard is downloaded into a folder of its own, checked, unpacked and moved to its name in one
    step, all under the shard's lock: other processes see it whole or not at all, and what a killed
    process left is swept away by the next one.

    Args:
        data: The stream.
    """

    def __init__(self, data: DataStream):
        self._data = data
        self._threads = threading.local()
        self._swept = False

    def path(self, shard: int) -> str:
        """Where the uncompressed shard lies, or will."""
        return os.path.join(self._data.directory, self._raw(shard).basename)

    def present(self, shard: int) -> bool:
        """Whether the shard is there in full length."""
        return all(
            _size(os.path.join(self._data.directory, raw.basename)) == raw.bytes
            for raw, _ in self._data.readers[shard].file_pairs
        )

    def ensure(self, shard: int) -> None:
        """Fetch the shard unless it is present.

        Raises:
            MosaicDataError: It cannot be had, or is not what the index says.
        """
        if self.present(shard):
            return
        if not self._data.fetched:
            path = self.path(shard)
            what = "is missing" if _size(path) is None else "is not as long as its index says"
            raise MosaicDataError(f'stream "{self._data.name}": {path} {what}; restore it')
        stream = self._data.stream
        # As long as another process may take that does not give up either.
        patience = 60.0 + stream.download_retry * (stream.download_timeout + 10.0)
        try:
            self._sweep()
            with locked(lock_path(self._data.directory), fetch_byte(shard), patience):
                if not self.present(shard):
                    self._fetch(shard)
        except TimeoutError as error:
            raise self._error(
                shard, f"another process has been fetching it for {patience:.0f} s; end that one"
            ) from error
        except OSError as error:
            raise self._error(shard, one_line(error)) from error

    def _fetch(self, shard: int) -> None:
        folder = self._incoming(shard)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        size = self._data.readers[shard].get_max_size()
        patience = max(60.0, self._data.stream.download_timeout)
        try:
            with reserved(self._data.directory, shard, size, patience):
                for raw, zipped in self._data.readers[shard].file_pairs:
                    self._fetch_file(shard, raw, zipped)
        except MosaicDataError:
            raise
        except Exception as error:
            # Object stores raise errors of their own of every kind.
            raise self._error(shard, one_line(error)) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _fetch_file(self, shard: int, raw: "FileInfo", zipped: "FileInfo | None") -> None:
        directory, stream = self._data.directory, self._stream()
        source = zipped or raw
        kept = os.path.join(directory, source.basename)
        partial = os.path.join(self._incoming(shard), os.path.basename(source.basename))
        if zipped and _size(kept) == zipped.bytes and self._hash_fits(kept, zipped):
            # An earlier run kept the compressed form.
            os.link(kept, partial)
        else:
            stream._download_file(source.basename, os.path.relpath(partial, directory))
        if _size(partial) != source.bytes:
            raise self._error(
                shard, f"{_size(partial)} bytes arrived where the index says {source.bytes}"
            )
        self._check_hash(shard, partial, source)
        final = os.path.join(directory, raw.basename)
        # A merged index has its shards in folders.
        os.makedirs(os.path.dirname(final), exist_ok=True)
        if zipped:
            partial = self._unpack(shard, partial, kept, raw, stream)
        os.replace(partial, final)

    def _unpack(self, shard: int, packed: str, kept: str, raw: "FileInfo", stream: "Stream") -> str:
        from streaming.base.compression import decompress

        with open(packed, "rb") as file:
            data = decompress(self._data.readers[shard].compression, file.read())
        if len(data) != raw.bytes:
            raise self._error(
                shard, f"it unpacks to {len(data)} bytes where the index says {raw.bytes}"
            )
        unpacked = os.path.join(self._incoming(shard), "unpacked")
        with open(unpacked, "wb") as file:
            file.write(data)
        if stream.safe_keep_zip:
            os.replace(packed, kept)
        elif os.path.exists(kept):
            os.remove(kept)
        return unpacked

    def _check_hash(self, shard: int, path: str, info: "FileInfo") -> None:
        if not self._hash_fits(path, info):
            algorithm = self._data.stream.validate_hash
            raise self._error(shard, f"its {algorithm} is not the one in the index")

    def _hash_fits(self, path: str, info: "FileInfo") -> bool:
        """Whether a file has the hash in the index; true where none is asked for."""
        algorithm = self._data.stream.validate_hash
        if not algorithm:
            return True
        from streaming.base.hashing import get_hash

        with open(path, "rb") as file:
            return bool(get_hash(algorithm, file.read()) == info.hashes[algorithm])

    def check_in_place(self, shard: int) -> None:
        """Check the hash of a shard that is read where it lies, if ``validate_hash`` asks for it.

        Raises:
            MosaicDataError: It is not the one in the index.
        """
        raw = self._raw(shard)
        # With compression the index may know only the packed form's hash.
        if not self._data.fetched and self._data.stream.validate_hash in (raw.hashes or {}):
            self._check_hash(shard, self.path(shard), raw)

    def _sweep(self) -> None:
        """Remove what killed processes left half-fetched; whoever still works holds its lock."""
        if self._swept:
            return
        self._swept = True
        live_incoming(self._data.directory)

    def _incoming(self, shard: int) -> str:
        return incoming_folder(self._data.directory, shard)

    def _raw(self, shard: int) -> "FileInfo":
        info: FileInfo = self._data.readers[shard].file_pairs[-1][0]
        return info

    def _stream(self) -> "Stream":
        """The stream with a downloader of this thread's own; their clients are not shared."""
        if not hasattr(self._threads, "stream"):
            from streaming.base.storage import CloudDownloader

            stream = copy.copy(self._data.stream)
            fresh = CloudDownloader.get(stream.remote)
            # One of the user's own is kept: nobody here knows how to make another.
            if type(stream._downloader) is type(fresh):
                stream._downloader = fresh
            self._threads.stream = stream
        own: Stream = self._threads.stream
        return own

    def _error(self, shard: int, cause: str) -> MosaicDataError:
        where = os.path.join(str(self._data.stream.remote), self._data.stream.split)
        return MosaicDataError(
            f'stream "{self._data.name}", shard {self._raw(shard).basename} from {where}: {cause}'
        )


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None
