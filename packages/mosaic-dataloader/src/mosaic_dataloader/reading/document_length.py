"""How long rows and documents are, as far as that is known before any is read."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.storage.streams import DataStream

# Of a byte-level tokenizer of some ten thousand entries, on text of Latin letters.
BYTES_PER_TOKEN = 4.0
# Bytes of a sample's offset, of the size of a column without a fixed one, and of the number of
# samples.
_OFFSET, _SIZE, _COUNT = 4, 4, 4
# Documents after the last mixture begins; more than any run has.
_FAR = 1 << 44
# What a shard says about itself beside its format.
_DESCRIBED = (
    *("compression", "hashes", "size_limit"),
    *("column_names", "column_encodings", "column_sizes"),
)


def tokens_per_stream(streams: Sequence[DataStream], mixture: Mixture) -> list[float]:
    """Tokens that one epoch draws from each stream, about."""
    return [
        size.choose * stored_tokens(stream) / size.samples
        for stream, size in zip(streams, mixture.streams, strict=True)
    ]


def stored_tokens(stream: DataStream) -> float:
    """Tokens in all samples of a stream, about."""
    stored: Counter[float] = Counter()
    for reader, column in zip(stream.readers, stream.columns, strict=True):
        token = BYTES_PER_TOKEN if column.dtype is None else float(column.dtype.itemsize)
        stored[token] += reader.get_raw_size()
    return sum(count / token for token, count in stored.items())


def mean_tokens(streams: Sequence[DataStream], mixture: Mixture) -> float:
    """Tokens of a document, over one epoch, about."""
    return sum(tokens_per_stream(streams, mixture)) / mixture.epoch_samples


def rows_of_epoch(streams: Sequence[DataStream], mixture: Mixture, seq_len: int) -> int:
    """Rows that packing makes of an epoch, about; the same on all ranks, and at least 1."""
    return max(1, round(sum(tokens_per_stream(streams, mixture)) / seq_len))


def tokens_per_row(stream: DataStream) -> float | None:
    """Tokens in a row of an opened stream, on average, by the sizes in its index.

    Returns:
        None where the sizes do not tell: text, arrays of any or several types, and rows of several
        columns.
    """
    column = stream.column
    if column.kind == "text" or column.dtype is None or len(stream.distinct_columns) > 1:
        return None
    size = mean_bytes(stream)
    if size is None:
        return None
    if not column.has_shape:
        return size / column.dtype.itemsize
    # An array begins with the number of its dimensions and its length, in as many bytes as it
    # needs.
    tokens = (size - 2) / column.dtype.itemsize
    for bytes_of_length in (2, 4):
        if tokens > 1 << (4 * bytes_of_length):
            tokens = (size - 1 - bytes_of_length) / column.dtype.itemsize
    return max(tokens, 0.0)


def mean_bytes(stream: DataStream) -> float | None:
    """Bytes of a value of a stream's only column, on average; None where the index does not tell.

    Exact for what MDSWriter writes, whose shards describe themselves as the index does.
    """
    samples = size = 0
    for reader in stream.readers:
        sizes = getattr(reader, "column_sizes", None)
        if sizes is None or len(sizes) > 1:  # another format than MDS, or several columns
            return None
        samples += len(reader)
        if sizes[0] is not None:
            size += len(reader) * sizes[0]
        else:
            header = _COUNT + _OFFSET * (len(reader) + 1) + _description_bytes(reader)
            size += max(reader.get_raw_size() - header - _SIZE * len(reader), 0)
    return size / samples


def _description_bytes(reader: Any) -> int:
    """Bytes of a shard's description of itself, in JSON."""
    description = {name: getattr(reader, name) for name in _DESCRIBED}
    return len(json.dumps({"version": 2, "format": "mds", **description}, sort_keys=True).encode())


def tokens_before(
    mixtures: Sequence[tuple[int, Sequence[int]]], millitokens: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions of documents, and the tokens before each, about; between them they grow evenly.

    Worked example: a stage of 1,000 documents of 30 tokens, and one of documents of 300. The
    positions are 0, 1,000 and a far one; the tokens before them are 0, 30,000, and 300 more for
    each further document.

    Args:
        mixtures: The position where each begins, ascending, and in which proportion it draws from
            the streams.
        millitokens: Tokens of a document of each stream, in thousandths.
    """
    means = [np.average(millitokens, weights=counts) / 1000 for _, counts in mixtures]
    starts = [start for start, _ in mixtures]
    positions = np.array([*starts, starts[-1] + _FAR], np.float64)
    return positions, np.concatenate([[0.0], np.cumsum(np.diff(positions) * means)])
