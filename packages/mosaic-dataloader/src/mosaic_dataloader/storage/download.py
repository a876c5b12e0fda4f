"""Downloading one shard into its cache directory, once per machine."""

import contextlib
import hashlib
import logging
import os
import time
from functools import partial
from typing import TYPE_CHECKING

import xxhash

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.storage.cache import reserved
from mosaic_dataloader.storage.contents import (
    file_size,
    path_in_stream,
    require_in_place,
    unreadable,
)
from mosaic_dataloader.storage.index import fetch_index
from mosaic_dataloader.storage.layout import (
    fetch_byte,
    live_staging,
    lock_path,
    staging,
    staging_folder,
)
from mosaic_dataloader.storage.streams import DataStream
from mosaic_dataloader.storage.traffic import RETRIES, Traffic
from mosaic_dataloader.storage.transfer import Transfers
from mosaic_dataloader.storage.unpack import unpack
from mosaic_dataloader.storage.versions import Version, note_shard_version
from mosaic_dataloader.util.locks import LOCK_TIMEOUT, LockTimeoutError, locked
from mosaic_dataloader.util.secrets import printable
from mosaic_dataloader.util.store_errors import CorruptShardError, hint, one_line

if TYPE_CHECKING:
    from streaming.base.format import FileInfo

logger = logging.getLogger(__name__)

# In the folder of a download: by which process, which attempt it is, and of how many.
_ATTEMPT = "attempt"
# Gigabytes a second (xxhash) come before what does well to reach one; these are all that
# mosaicml-streaming writes.
_FASTEST_FIRST = (
    *("xxh3_64", "xxh128", "xxh3_128", "xxh64", "xxh32"),
    *("sha1", "sha256", "md5", "blake2b", "sha224", "sha512", "sha384", "blake2s"),
    *("sha3_224", "sha3_256", "sha3_384", "sha3_512"),
)


class ShardFetcher:
    """Fetches the shards of one stream, and counts them.

    A shard is downloaded into a folder of its own, checked, unpacked and moved to its name in one
    step, all under the shard's lock: other processes see it complete or not at all, and what a
    killed process left is removed by the next one.
    """

    def __init__(self, data: DataStream, number: int, traffic: Traffic):
        self._data = data
        self._number, self._traffic = number, traffic
        self._transfers = Transfers(data.name, data.stream, data.directory)
        self._swept = False
        # Downloaded, or found with the right hash, by this process.
        self._verified: set[int] = set()
        # When a download failed in this process, and why.
        self._failed: dict[int, tuple[float, str]] = {}

    def path(self, shard: int) -> str:
        """Where the uncompressed shard lies, or will."""
        return path_in_stream(self._data.directory, self._raw(shard).basename)

    def present(self, shard: int) -> bool:
        """Whether the shard is there in full length.

        Raises:
            MosaicDataError: One of its files lies elsewhere, behind a symbolic link.
        """
        return all(
            file_size(path_in_stream(self._data.directory, raw.basename)) == raw.bytes
            for raw, _ in self._data.readers[shard].file_pairs
        )

    def ensure(self, shard: int) -> bool:
        """Fetch the shard unless it is present.

        Returns whether it was, and no other process was fetching it.

        Raises:
            MosaicDataError: It cannot be fetched, or is not what the index says.
        """
        if not self._data.fetched:
            require_in_place(self._data.name, self._data.directory, self._data.readers[shard])
            return False
        # As long as another process may take that does not give up either.
        timeout = LOCK_TIMEOUT + self._transfers.longest * len(self._data.readers[shard].file_pairs)
        begun = time.monotonic()
        try:
            if self.present(shard) and self._is_verified(shard):
                return True
            if not self._swept:
                # Of killed processes; one that lives holds its shard's lock.
                self._swept = True
                live_staging(self._data.directory)
            with locked(lock_path(self._data.directory), fetch_byte(shard), timeout):
                if self.present(shard) and self._is_verified(shard):
                    return False
                failed, message = self._failed.get(shard, (0.0, ""))
                if failed > begun:
                    # Another thread has tried all that time for this one, too.
                    raise MosaicDataError(message)
                self._remove(shard)
                self._fetch(shard)
                return False
        except LockTimeoutError as error:
            if error.byte != fetch_byte(shard):
                # The index's lock, or the budget's: it says so itself.
                raise
            raise self._error(
                shard, f"{error.holder} has been fetching it for {timeout:.0f} s; end that process"
            ) from error
        except OSError as error:
            cause = f"{one_line(error)}; {hint(error, self._data.directory)}"
            raise self._error(shard, cause) from printable(error)

    def _is_verified(self, shard: int) -> bool:
        """Whether a shard that is present has the hash in the index, if there is one.

        Each process checks once, before it first reads the shard. Another loader may have put it
        there: mosaicml-streaming leaves a shard in place that failed its check.
        """
        raw = self._raw(shard)
        # With compression the index may know only the packed form's hash.
        if shard in self._verified or self._algorithm(raw) is None:
            return True
        try:
            verified = self._hash_fits(self.path(shard), raw)
        except FileNotFoundError:
            # Evicted in between.
            return False
        if verified:
            self._verified.add(shard)
        return verified

    def _remove(self, shard: int) -> None:
        """Remove the files of a shard that are not what they should be."""
        complete = self.present(shard)
        for raw, _ in self._data.readers[shard].file_pairs:
            path = path_in_stream(self._data.directory, raw.basename)
            if complete or file_size(path) not in (None, raw.bytes):
                logger.warning(
                    'stream "%s": %s is not what its index says; it is fetched again',
                    self._data.name,
                    path,
                )
                with contextlib.suppress(FileNotFoundError):
                    os.remove(path)

    def _fetch(self, shard: int) -> None:
        if not self._data.compared:
            # The store was out of reach at the start. If it is back, so may other data be.
            self._data.compared = fetch_index(self._transfers)
        directory, reader = self._data.directory, self._data.readers[shard]
        size = reader.get_max_size()
        timeout = max(60.0, self._data.stream.download_timeout)
        try:
            with (
                staging(directory, shard),
                reserved(directory, shard, size, timeout, self._traffic),
            ):
                fetched = [self._fetch_file(shard, *pair) for pair in reader.file_pairs]
                # For later starts to compare; of several files, that of the first.
                version = next((v for _, v in fetched if v is not None), None)
                if version is not None:
                    note_shard_version(directory, shard, version)
        except MosaicDataError as error:
            self._failed[shard] = (time.monotonic(), str(error))
            raise
        self._verified.add(shard)
        if arrived := sum(size for size, _ in fetched):
            self._traffic.fetched(self._number, arrived)

    def _fetch_file(
        self, shard: int, raw: "FileInfo", zipped: "FileInfo | None"
    ) -> tuple[int, Version | None]:
        """Put a file in its place.

        Returns the bytes that came from the store, and what it says of the file where the index has
        no hash of it.
        """
        directory, folder = self._data.directory, self._staging(shard)
        # The compressed form, which an earlier run may have kept; no file has an empty name.
        kept = path_in_stream(directory, zipped.basename) if zipped else ""
        unpacked = os.path.join(folder, "unpacked")
        wanted = zipped or raw
        version: Version | None = None

        def accept(path: str) -> None:
            self._check(path, wanted)
            if zipped:
                compression = str(self._data.readers[shard].compression)
                unpack(path, unpacked, compression, raw.bytes)

        try:
            accept(kept)
            arrived, size = kept, 0
        except (FileNotFoundError, CorruptShardError):
            arrived, version = self._transfers.download(
                wanted.basename,
                folder,
                f"shard {raw.basename}",
                accept,
                size=wanted.bytes,
                ask=not wanted.hashes,
                on_attempt=partial(self._begin_attempt, shard),
            )
            size = int(wanted.bytes)
        final = path_in_stream(directory, raw.basename)
        # A merged index has its shards in folders.
        os.makedirs(os.path.dirname(final), exist_ok=True)
        if not zipped:
            os.replace(arrived, final)
            return size, version
        if self._data.stream.safe_keep_zip:
            os.replace(arrived, kept)
        elif os.path.exists(kept):
            os.remove(kept)
        os.replace(unpacked, final)
        return size, version

    def _begin_attempt(self, shard: int, attempt: int, attempts: int) -> None:
        """Note an attempt, for those who wait for the shard, in whichever process."""
        if attempt > 1:
            self._traffic.counts[RETRIES] += 1
        path = os.path.join(self._staging(shard), _ATTEMPT)
        # Where it cannot be written, the download itself fails, and says why.
        with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
            file.write(f"{os.getpid()} {attempt} {attempts}")

    def progress(self, shard: int) -> str:
        """What is known of a shard that a thread waits for, in words."""
        about = self._transfers.subject(f"shard {self._raw(shard).basename}")
        if not self._data.fetched:
            return f"{about}, which is read in place"
        if self.present(shard):
            return f"{about}, which is in the cache and is checked or opened"
        folder = self._staging(shard)
        # Its download may begin and end at any moment, and the folder be another user's.
        try:
            path = os.path.join(folder, _ATTEMPT)
            with open(path, encoding="ascii") as file:
                process, attempt, attempts = map(int, file.read().split())
            seconds = time.time() - os.stat(path).st_mtime
            sizes = [
                e.stat().st_size for e in os.scandir(folder) if e.name.startswith(f"{process}-")
            ]
        except (OSError, ValueError):
            return f"{about}, no attempt has begun: it waits for room in the cache, or its turn"
        pairs = self._data.readers[shard].file_pairs
        whole = sum(int((zipped or raw).bytes) for raw, zipped in pairs)
        where = "this process" if process == os.getpid() else f"process {process}"
        return (
            f"{about}, attempt {attempt} of {attempts}, begun {seconds:.0f} s ago by {where}; "
            f"{sum(sizes):,} of {whole:,} bytes are here"
        )

    def _check(self, path: str, info: "FileInfo") -> None:
        size = file_size(path)
        if size != info.bytes:
            arrived = "nothing" if size is None else f"{size} bytes"
            raise CorruptShardError(f"{arrived} arrived where the index says {info.bytes} bytes")
        if not self._hash_fits(path, info):
            raise CorruptShardError(f"its {self._algorithm(info)} is not the one in the index")

    def _algorithm(self, info: "FileInfo") -> str | None:
        """The hash to compare a file by: the one asked for, else the fastest in the index."""
        known = set(info.hashes or ())
        asked = self._data.stream.validate_hash
        if asked:
            return asked if asked in known else None
        return next((name for name in _FASTEST_FIRST if name in known), None)

    def _hash_fits(self, path: str, info: "FileInfo") -> bool:
        """Whether a file has the hash in the index; true where there is none to compare."""
        algorithm = self._algorithm(info)
        if algorithm is None:
            return True
        begin = getattr(xxhash, algorithm, None) or partial(hashlib.new, algorithm)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, begin).hexdigest() == info.hashes[algorithm]

    def check_in_place(self, shard: int) -> None:
        """Check the hash of a shard that is read in place, if ``validate_hash`` asks for it.

        Raises:
            MosaicDataError: It is not the one in the index.
        """
        raw = self._raw(shard)
        # With compression the index may know only the packed form's hash.
        if self._data.fetched or self._data.stream.validate_hash not in (raw.hashes or {}):
            return
        path = self.path(shard)
        try:
            self._check(path, raw)
        except CorruptShardError as error:
            raise MosaicDataError(
                f'stream "{self._data.name}": {path} is damaged: {error}; restore it, or write its '
                f"index again"
            ) from error
        except OSError as error:
            raise unreadable(self._data.name, path, error) from error

    def _staging(self, shard: int) -> str:
        return staging_folder(self._data.directory, shard)

    def _raw(self, shard: int) -> "FileInfo":
        info: FileInfo = self._data.readers[shard].file_pairs[-1][0]
        return info

    def _error(self, shard: int, cause: str) -> MosaicDataError:
        about = self._transfers.subject(f"shard {self._raw(shard).basename}")
        return MosaicDataError(f"{about}: {cause}")
