"""Shards of the other formats (JSONL, CSV, TSV), read by mosaicml-streaming's own readers."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.shards.column import Column


class ReaderShard:
    """The same access as ``MappedShard``, one decoded sample at a time.

    Args:
        reader: A ``streaming`` shard reader whose files are present.
        column: The column to read.
    """

    uniform = None

    def __init__(self, reader: Any, column: Column):
        self._reader = reader
        self._column = column

    def tokens(self, index: int) -> NDArray[Any]:
        """Token ids of one sample, 1-D.

        Raises:
            MosaicDataError: The values are no integers.
        """
        value = self._reader.get_item(index)[self._column.name]
        if isinstance(value, bytes):
            return np.frombuffer(value, self._column.dtype)
        array = np.asarray(value).ravel()
        if array.dtype.kind not in "iu":
            raise MosaicDataError(f'"tokens" holds {array.dtype} values; token ids are integers')
        return array

    def text(self, index: int) -> str:
        """Text of one sample."""
        return str(self._reader.get_item(index)[self._column.name])

    def close(self) -> None:
        """Nothing is held open between samples."""
