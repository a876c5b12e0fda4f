"""Opening input files wherever they are, unpacked on the way."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, cast

from mosaic_dataloader.errors import MosaicDataError

COMPRESSIONS = {
    ".gz": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
}
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file.

    Attributes:
        name: How it counts for order, identity and messages.
        url: Its path or fsspec URL.
        size: Bytes as stored; -1 where the store does not tell.
        stamp: Changes when the file does: its time of change or its ETag, as far as known.
    """

    name: str
    url: str
    size: int
    stamp: str

    @property
    def remote(self) -> bool:
        """Whether fsspec opens it."""
        return "://" in self.url

    @property
    def compression(self) -> str | None:
        """By its suffix."""
        return COMPRESSIONS.get(PurePosixPath(self.url).suffix.lower())

    @property
    def suffix(self) -> str:
        """In lower case, without that of a compression."""
        path = PurePosixPath(self.url)
        if self.compression:
            path = path.with_suffix("")
        return path.suffix.lower()


@contextmanager
def opened(file: InputFile) -> Iterator[IO[bytes]]:
    """Open a file as it is stored.

    Raises:
        MosaicDataError: It cannot be opened, or reading it inside the block fails.
    """
    try:
        if file.remote:
            import fsspec

            with fsspec.open(file.url, "rb") as stream:
                yield stream
        else:
            with open(file.url, "rb") as stream:
                yield stream
    except MosaicDataError:
        raise
    except Exception as error:
        # Object stores and decompressors raise errors of their own of every kind.
        if not file.remote and not _is_read_error(error):
            raise
        raise MosaicDataError(f"prepare: cannot read {file.name}: {reason(error)}") from error


@contextmanager
def unpacked(file: InputFile) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file for reading from its beginning.

    Yields:
        Its unpacked contents, and the file as stored, whose position tells the progress.

    Raises:
        MosaicDataError: It cannot be opened or unpacked.
    """
    with opened(file) as stored:
        kind = file.compression
        if kind is None:
            yield stored, stored
        elif kind == "gzip":
            with gzip.open(stored) as stream:
                yield cast(IO[bytes], stream), stored
        elif kind == "bz2":
            with bz2.open(stored) as stream:
                yield cast(IO[bytes], stream), stored
        elif kind == "xz":
            with lzma.open(stored) as stream:
                yield cast(IO[bytes], stream), stored
        else:
            # Nothing in Python's library, nor in the package that mosaicml-streaming uses, unpacks
            # this bit by bit.
            pyarrow = need_pyarrow(f"{file.name} is compressed with zstd")
            with pyarrow.CompressedInputStream(pyarrow.PythonFile(stored), "zstd") as stream:
                yield stream, stored


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """Read `size` bytes, or what is left.

    Streams from the network return whatever has arrived; blocks must not depend on that.
    """
    parts: list[bytes] = []
    while size > 0 and (data := stream.read(size)):
        parts.append(data)
        size -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def need_pyarrow(why: str) -> Any:
    """Import pyarrow.

    Raises:
        MosaicDataError: It is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MosaicDataError(
            f"prepare: {why}, which needs pyarrow; install mosaic-dataloader[prepare]"
        ) from error
    return pyarrow


def line_at_byte(file: InputFile, offset: int) -> int:
    """Number, from 1, of the line that a byte of an uncompressed file belongs to."""
    line = 1
    with opened(file) as stream:
        while offset > 0 and (data := stream.read(min(offset, _READ_BYTES))):
            line += data.count(b"\n")
            offset -= len(data)
    return line


def reason(error: BaseException) -> str:
    """Why, on one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _is_read_error(error: Exception) -> bool:
    if isinstance(
        error, OSError | EOFError | zlib.error | lzma.LZMAError | io.UnsupportedOperation
    ):
        return True
    return type(error).__module__.split(".")[0] == "pyarrow"
