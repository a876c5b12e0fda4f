"""Shards of the other formats (JSONL, CSV, TSV), decoded by mosaicml-streaming's own readers."""

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.shards.column import Column
from mosaic_dataloader.shards.faults import one_line


class ReaderShard:
    """The same access as ``MappedShard``, one decoded sample at a time.

    Such a shard is two files: the samples, and where each of them begins
    (``uint32`` number of samples, ``uint32[samples + 1]`` offsets).

    Args:
        reader: A ``streaming`` shard reader whose files are present.
        column: The column to read.
        data: The file of the samples.
        meta: The file of the offsets.

    Raises:
        MosaicDataError: The files do not hold what the index says, or cannot be read.
        FileNotFoundError: One of them is missing.
    """

    def __init__(self, reader: Any, column: Column, data: str, meta: str):
        self._reader = reader
        self._column = column
        self._path = data
        try:
            offsets = np.fromfile(meta, "<u4", len(reader) + 2)
            length = os.stat(data).st_size
        except FileNotFoundError:
            raise
        except OSError as error:
            raise MosaicDataError(
                f"cannot read {meta} ({error.strerror}); let this user read it, or restore it"
            ) from error
        # Wider, lest a step back look like a long one forward.
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
