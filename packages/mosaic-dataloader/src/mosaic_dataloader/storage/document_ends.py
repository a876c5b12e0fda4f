"""The column `document_ends` of a shard: where documents end in its rows."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError

ENDS_COLUMN = "document_ends"
# As `mosaic-prepare` writes it.
_ENCODING = "ndarray:int32"


def ends_column(reader: Any, stream: str) -> int | None:
    """The place of the column among those of a ``streaming`` shard; None if the shard has none.

    Raises:
        MosaicDataError: It is of another encoding.
    """
    names = getattr(reader, "column_names", [])
    if ENDS_COLUMN not in names:
        return None
    index: int = names.index(ENDS_COLUMN)
    encoding = reader.column_encodings[index]
    if encoding != _ENCODING:
        raise MosaicDataError(
            f'stream "{stream}": column "{ENDS_COLUMN}" has encoding {encoding}, not {_ENCODING}; '
            f"write it so, or leave it out"
        )
    return index


class DocumentEnds:
    """Ends of the documents in each row of a shard, read all at once.

    Args:
        path: The shard file, for messages.
        data: uint8[n], its bytes.
        offsets: uint32[samples + 1], where each sample begins and the last one ends.
        sizes: Size in bytes of each column, None where it varies.
        column: Place of the column among them.

    Raises:
        MosaicDataError: The column is damaged.
    """

    def __init__(
        self,
        path: str,
        data: NDArray[np.uint8],
        offsets: NDArray[np.uint32],
        sizes: list[int | None],
        column: int,
    ):
        damaged = MosaicDataError(f'{path}: its column "{ENDS_COLUMN}" is damaged; restore it')
        values = values_of_column(data, offsets, sizes, column)
        if values is None or (values[1] < 2).any():
            raise damaged
        at, size = values
        # One byte for the shape's own form: the number of axes, and how wide their lengths are.
        form = data[at].astype(np.int64)
        header = 1 + (form >> 2) * (1 << (form & 3))
        counts, rest = np.divmod(size - header, 4)
        if (form >> 2 != 1).any() or (counts < 0).any() or rest.any():
            raise damaged
        bounds = np.concatenate([[0], np.cumsum(counts)])
        first = np.repeat(at + header - 4 * bounds[:-1], counts) + 4 * np.arange(bounds[-1])
        self._ends: NDArray[np.int32] = data[first[:, None] + np.arange(4)].view("<i4").reshape(-1)
        self._bounds: list[int] = bounds.tolist()

    def __getitem__(self, place: int) -> NDArray[np.int32]:
        """int32[n]: places, in a row, of the tokens that end a document; -1 stands for none."""
        return self._ends[self._bounds[place] : self._bounds[place + 1]]


def values_of_column(
    data: NDArray[np.uint8], offsets: NDArray[np.uint32], sizes: list[int | None], column: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Where a column's value begins in each sample, and its bytes, both int64[samples].

    The arguments are those of `DocumentEnds`. None where a sample is damaged.
    """
    begins, stops = offsets[:-1].astype(np.int64), offsets[1:].astype(np.int64)
    varying = sum(size is None for size in sizes)
    if (stops - begins < 4 * varying).any():
        return None
    # A sample begins with the sizes that are not fixed.
    at, header = begins + 4 * varying, begins
    size = np.zeros_like(begins)
    for fixed in sizes[: column + 1]:
        at = at + size
        if fixed is None:
            size = data[header[:, None] + np.arange(4)].view("<u4")[:, 0].astype(np.int64)
            header = header + 4
        else:
            size = np.full_like(begins, fixed)
    return None if (at + size > stops).any() else (at, size)
