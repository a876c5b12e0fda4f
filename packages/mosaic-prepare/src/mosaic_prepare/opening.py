"""Opening input files wherever they are, unpacked on the way."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

import pyarrow

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.store_errors import one_line

if TYPE_CHECKING:
    from mosaic_prepare.inputs import InputFile

COMPRESSIONS = {
    ".gz": "gzip",
    ".bz2": "bz2",
    ".xz": "xz",
    ".zst": "zstd",
    ".zstd": "zstd",
}
# What decoders raise for contents that are not valid. Corrupt pages are OSErrors to
# pyarrow, corrupt members to gzip; those of the system itself are a `CannotReadError` by then.
DAMAGE = (EOFError, OSError, zlib.error, lzma.LZMAError, pyarrow.ArrowException)


class CannotReadError(MosaicDataError):
    """The disk, the store or the permissions fail, not the contents: the file is not left out."""


class _StoredFile(io.RawIOBase):
    """A file as it is stored, for decoders to read."""

    def __init__(self, stream: IO[bytes], name: str):
        self._stream = stream
        self._name = name

    def read(self, size: int = -1) -> bytes:
        return bytes(self._try(self._stream.read, size))

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._try(self._stream.seek, offset, whence))

    def tell(self) -> int:
        return self._stream.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._stream.seekable()

    def _try(self, call: Any, *arguments: int) -> Any:
        try:
            return call(*arguments)
        except Exception as error:
            # Object stores raise errors of their own of every kind.
            raise CannotReadError(f"prepare: cannot read {self._name}: {reason(error)}") from error


@contextmanager
def opened(file: "InputFile") -> Iterator[IO[bytes]]:
    """Open a file as it is stored."""
    try:
        if file.remote:
            import fsspec

            stream = fsspec.open(file.url, "rb").open()
        else:
            stream = open(file.url, "rb")  # noqa: SIM115
    except Exception as error:
        # As above.
        raise CannotReadError(f"prepare: cannot read {file.name}: {reason(error)}") from error
    with stream:
        yield cast(IO[bytes], _StoredFile(stream, file.name))


@contextmanager
def unpacked(file: "InputFile") -> Iterator[IO[bytes]]:
    """Open a file for reading its unpacked contents from the beginning."""
    with opened(file) as stored:
        kind = file.compression
        if kind is None:
            yield stored
        elif kind == "zstd":
            # Python's library does not know it before 3.14.
            with pyarrow.CompressedInputStream(
                pyarrow.PythonFile(stored, mode="r"), "zstd"
            ) as stream:
                yield stream
        else:
            module: Any = {"gzip": gzip, "bz2": bz2, "xz": lzma}[kind]
            with module.open(stored) as stream:
                yield stream


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """Read `size` bytes, or what is left: streams from the network return what has arrived."""
    parts: list[bytes] = []
    while size > 0 and (data := stream.read(size)):
        parts.append(data)
        size -= len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def line_at_byte(file: "InputFile", offset: int) -> int:
    """Number, from 1, of the line that a byte of the unpacked file belongs to."""
    line = 1
    with unpacked(file) as stream:
        while offset > 0 and (data := stream.read(min(offset, 1 << 20))):
            line += data.count(b"\n")
            offset -= len(data)
    return line


def reason(error: BaseException) -> str:
    """Why, on one line and without secrets."""
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return one_line(error)
