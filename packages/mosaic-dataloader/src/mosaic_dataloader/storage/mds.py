"""One MDS shard, memory-mapped.

Layout of a shard file (mosaicml-streaming, ``streaming/base/format/mds``): ``uint32`` number of
samples, ``uint32[samples + 1]`` offsets, a header, then the samples. A sample begins with a
``uint32`` size for each column of no fixed size, followed by the values of all columns.
"""

import errno
import math
import os
import struct
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.storage.column import Column
from mosaic_dataloader.storage.document_ends import DocumentEnds, values_of_column
from mosaic_dataloader.util.store_errors import one_line


class ReaderShard:
    """The same access as ``MappedShard``, one decoded sample at a time.

    Such a shard is two files: the samples, and where each of them begins
    (``uint32`` number of samples, ``uint32[samples + 1]`` offsets).

    Raises:
        MosaicDataError: The files do not hold what the index says.
        OSError: One of them cannot be read.
    """

    # Only MDS shards store where documents end.
    ends = None

    def __init__(self, reader: Any, column: Column, data: str, meta: str):
        self.has_text = column.kind == "text"
        self._reader = reader
        self._column = column
        self._path = data
        offsets = np.fromfile(meta, "<u4", len(reader) + 2)
        length = os.stat(data).st_size
        # Wider, so that a step back does not look like a long one forward.
        self._offsets = offsets[1:].astype(np.int64)
        if (
            len(offsets) < len(reader) + 2
            or int(offsets[0]) != len(reader)
            or (np.diff(self._offsets) < 0).any()
            or int(self._offsets[-1]) > length
        ):
            raise MosaicDataError(
                f"{meta} does not fit {data}: its offsets are damaged; restore it"
            )

    def full_rows(self, count: int) -> None:
        """See `MappedShard.full_rows`: here each sample must be looked at."""
        return None

    def tokens(self, index: int) -> NDArray[Any]:
        """Token ids of one sample, 1-D.

        Raises:
            MosaicDataError: The sample is damaged, or its values are not integers.
        """
        value = self._value(index)
        try:
            array = np.asarray(value).ravel()
        except ValueError as error:
            raise self._error(index, f"its {self._column.name} are not one array") from error
        if array.dtype.kind not in "iu":
            raise self._error(index, f'"tokens" holds {array.dtype} values, not integers')
        return array

    def text(self, index: int) -> str:
        """Text of one sample.

        Raises:
            MosaicDataError: The sample is damaged.
        """
        value = self._value(index)
        if not isinstance(value, str):
            raise self._error(index, f'"text" holds a value of type {type(value).__name__}')
        return value

    def close(self) -> None:
        """Nothing is held open between samples."""

    def _value(self, index: int) -> Any:
        begin, end = self._offsets[index : index + 2].tolist()
        try:
            with open(self._path, "rb", 0) as file:
                data = os.pread(file.fileno(), end - begin, begin)
            return self._reader.decode_sample(data)[self._column.name]
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            # What the decoders of these formats raise for a line that is not one of theirs.
            raise self._error(index, f"it cannot be read ({one_line(error)})") from error

    def _error(self, index: int, what: str) -> MosaicDataError:
        return MosaicDataError(f"{self._path}, sample {index}: {what}; restore the shard")


_UINT32 = struct.Struct("<I")
# Codes of value dtypes in an ``ndarray`` value that carries its own (MDS encodings table).
_DTYPE_OF_CODE = {
    bits + signed: f"{'int' if signed else 'uint'}{bits}"
    for bits in (8, 16, 32, 64)
    for signed in (False, True)
}


class ScatteredRows:
    """Rows of one length at uneven distances in a map, as views.

    Args:
        data: uint8[n], the map.
        dtype: Of the token ids.
        starts: Offset of each sample's first token; -1 where the sample is another length.
        count: Tokens of a row that are wanted.
        ends: See `MappedShard`.
    """

    def __init__(
        self,
        data: NDArray[np.uint8],
        dtype: np.dtype[Any],
        starts: list[int],
        count: int,
        ends: DocumentEnds | None = None,
    ):
        self.ends = ends
        # One byte apart, so that every offset is an index.
        shape = (len(data) - count * dtype.itemsize + 1, count)
        self._windows: NDArray[Any] = np.ndarray(shape, dtype, data, 0, (1, dtype.itemsize))
        self._starts = starts

    def __getitem__(self, place: int) -> NDArray[Any]:
        """The row of a sample; KeyError where the sample is another length."""
        start = self._starts[place]
        if start < 0:
            raise KeyError(place)
        row: NDArray[Any] = self._windows[start]
        return row


class MappedShard:
    """Random access to one column of one shard file.

    Args:
        path: The uncompressed shard file.
        samples: Samples that the index says it holds.
        column_sizes: Size in bytes of each column, None where it varies.
        ends_column: The place of the column `document_ends`, to be read too; None to leave it.

    Attributes:
        has_text: Whether the column is text, which is to be encoded.
        ends: Where documents end in the rows; None where that is not stored or not wanted.

    Raises:
        MosaicDataError: The file does not hold what the index says.
        OSError: The file cannot be opened.
    """

    def __init__(
        self,
        path: str,
        samples: int,
        column_sizes: list[int | None],
        column: Column,
        ends_column: int | None = None,
    ):
        self.has_text = column.kind == "text"
        self._path = path
        self._column = column
        self._sizes = column_sizes
        length = os.stat(path).st_size
        self._map = _mapped(path, length)
        if length < 4 * (samples + 2) or int(self._map[:4].view("<u4")[0]) != samples:
            raise MosaicDataError(f"{path} does not hold {samples} samples; it is damaged")
        self._offsets: NDArray[np.uint32] = np.frombuffer(self._map, "<u4", samples + 1, 4)
        if int(self._offsets[-1]) != length:
            raise MosaicDataError(f"{path} is not as long as its own offsets say; it is damaged")
        # Wider than the offsets, so that a step back does not look like a long one forward.
        strides = np.diff(self._offsets.astype(np.int64))
        if int(self._offsets[0]) < 4 * (samples + 2) or (strides < 0).any():
            raise MosaicDataError(f"{path}: its offsets are damaged; restore it")
        self.uniform = self._uniform_rows(samples, strides)
        self.ends: DocumentEnds | None = None
        if ends_column is not None:
            self.ends = DocumentEnds(path, self._map, self._offsets, column_sizes, ends_column)

    def tokens(self, index: int) -> NDArray[Any]:
        """Token ids of one sample, a view into the map of the stored dtype, 1-D.

        Raises:
            MosaicDataError: The bytes are not a whole number of token ids.
        """
        if self.uniform is not None:
            row: NDArray[Any] = self.uniform[index]
            return row
        begin, end = self._value(index)
        dtype, first = self._first_token(begin, end, index)
        count, rest = divmod(end - first, dtype.itemsize)
        if rest or count < 0:
            raise MosaicDataError(
                f"{self._path}, sample {index}: {end - first} bytes are not a whole number of "
                f"{dtype.name} token ids; check token_encoding_type"
            )
        return np.frombuffer(self._map, dtype, count, first)

    def full_rows(self, count: int) -> "NDArray[Any] | ScatteredRows | None":
        """What gives a row of ``count`` tokens by its number; None where each must be looked at."""
        if self.uniform is not None:
            return self.uniform[:, :count] if self.uniform.shape[1] >= count else None
        column = self._column
        # Rows beside another column, such as `document_ends`; alone, they are uniform or ragged.
        if len(self._sizes) == 1 or column.kind == "text" or column.dtype is None:
            return None
        values = values_of_column(self._map, self._offsets, self._sizes, column.index)
        if values is None or not len(values[0]):
            return None
        begins, sizes = values
        largest = int(sizes.argmax())
        begin, end = self._value(largest)
        first = self._first_token(begin, end, largest)[1]
        lead = first - begin
        fits = sizes == sizes[largest]
        if lead:
            heads = self._map[np.where(fits, begins, begin)[:, None] + np.arange(lead)]
            # Equal lengths do not make equal headers: compare them all.
            fits &= (heads == self._map[begin:first]).all(axis=1)
        if (end - first) % column.dtype.itemsize or end - first < count * column.dtype.itemsize:
            return None
        starts: list[int] = np.where(fits, begins + lead, -1).tolist()
        return ScatteredRows(self._map, column.dtype, starts, count, self.ends)

    def text(self, index: int) -> str:
        """Text of one sample."""
        begin, end = self._value(index)
        try:
            return bytes(self._map[begin:end]).decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._damaged(index, "its text is") from error

    def close(self) -> None:
        """Unmap the file. Views handed out before must be gone, or they keep it mapped."""
        self.uniform = None
        del self._offsets, self._map

    def _value(self, index: int) -> tuple[int, int]:
        """Where the column's value of one sample lies, as byte offsets."""
        begin, stop = int(self._offsets[index]), int(self._offsets[index + 1])
        position = begin + 4 * sum(size is None for size in self._sizes)
        if position > stop:
            raise self._damaged(index, "its sizes are")
        header, size = begin, 0
        for fixed in self._sizes[: self._column.index + 1]:
            position += size
            if fixed is None:
                (size,) = _UINT32.unpack(self._map[header : header + 4].tobytes())
                header += 4
            else:
                size = fixed
        if not begin <= position <= position + size <= stop:
            raise self._damaged(index, "its sizes are")
        return position, position + size

    def _first_token(self, begin: int, end: int, index: int) -> tuple[np.dtype[Any], int]:
        """Dtype of a value and the offset of its first element; ``bytes`` have no header."""
        dtype = self._column.dtype
        # A byte for the dtype, one for the shape's own form.
        if begin + (dtype is None) + self._column.has_shape > end:
            raise self._damaged(index, "its array's header is")
        if dtype is None:
            code = int(self._map[begin])
            if code not in _DTYPE_OF_CODE:
                raise MosaicDataError(
                    f'{self._path}, sample {index}: "tokens" holds values that are not integers'
                )
            dtype = np.dtype(_DTYPE_OF_CODE[code])
            begin += 1
        if self._column.has_shape:
            form = int(self._map[begin])
            axes, width = form >> 2, 1 << (form & 3)
            first = begin + 1 + axes * width
            shape = [
                int.from_bytes(self._map[at : at + width].tobytes(), "little")
                for at in range(begin + 1, first, width)
            ]
            if not axes or math.prod(shape) * dtype.itemsize != end - first:
                raise self._damaged(index, "its array's shape is")
            begin = first
        return dtype, begin

    def _damaged(self, index: int, what: str) -> MosaicDataError:
        return MosaicDataError(f"{self._path}, sample {index}: {what} damaged; restore the shard")

    def _uniform_rows(self, samples: int, strides: NDArray[np.int64]) -> NDArray[Any] | None:
        """All token rows as one 2-D view, where they are laid out alike; else None.

        Gathering from it costs no Python object per sample.
        """
        if self._column.kind == "text" or not samples:
            return None
        stride = int(strides[0])
        if len(self._sizes) > 1 or (strides != stride).any():
            return None
        begin, end = self._value(0)
        dtype, first = self._first_token(begin, end, 0)
        lead = first - int(self._offsets[0])
        if lead:
            # Equal lengths do not make equal headers: compare them all.
            heads: NDArray[np.uint8] = np.ndarray(
                (samples, lead), np.uint8, self._map, int(self._offsets[0]), (stride, 1)
            )
            if (heads != heads[0]).any():
                return None
        count, rest = divmod(end - first, dtype.itemsize)
        if rest:
            return None
        return np.ndarray((samples, count), dtype, self._map, first, (stride, dtype.itemsize))


def _mapped(path: str, length: int) -> NDArray[np.uint8]:
    """A file's bytes, uint8[length], mapped; unmapped when the last view of them is gone.

    Python's own ``mmap`` would keep a file descriptor for every map (before 3.13 always), and many
    systems allow a process 1,024 of them.
    """
    if not length:
        return np.zeros(0, np.uint8)
    try:
        mapped: NDArray[np.uint8] = torch.from_file(
            path, shared=False, size=length, dtype=torch.uint8
        ).numpy()
    except RuntimeError as error:
        # Raises what is wrong, if that is so for Python as well: PyTorch's words are several lines.
        with open(path, "rb"):
            raise OSError(errno.EIO, str(error).partition("\n")[0], path) from error
    return mapped
