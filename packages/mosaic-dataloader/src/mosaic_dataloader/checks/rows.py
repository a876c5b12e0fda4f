"""Do stored samples have the length that is trained on?"""

import json
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mosaic_dataloader.options import TOKEN_ENCODING_TYPES
from mosaic_dataloader.reading.manifest import prepared_form, prepared_row_length
from mosaic_dataloader.storage.streams import DataStream

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset

# Lengths computed from sizes are means: rows of other lengths may hide in them.
_TOLERANCE = 0.05
# Texts' lengths in tokens are estimates, which are off by up to this factor.
_TEXT_TOLERANCE = 2.0
# Of a byte-level tokenizer of some ten thousand entries, on text of Latin letters.
_BYTES_PER_TOKEN = 4.0
# Bytes of a sample's offset, of the size of a column without a fixed one, and of the number of
# samples.
_OFFSET, _SIZE, _COUNT = 4, 4, 4
# What a shard says about itself beside its format.
_DESCRIBED = (
    *("compression", "hashes", "size_limit"),
    *("column_names", "column_encodings", "column_sizes"),
)


def row_lengths(
    dataset: "StreamingTextDataset",
    *,
    length_name: str = "seq_len",
    prefix: str = "",
    skip: Collection[str] = (),
) -> list[str]:
    """Find streams with tokens that are never trained on, or with batches that are mostly padding.

    Args:
        dataset: The data.
        length_name: How the caller's option for the row length is called.
        prefix: What comes before the names of the data set's options.
        skip: Streams whose token ids are known to be read in a wrong way.

    Returns:
        A line for each stream that has either; none with packing, which makes rows of the length
        that is wanted.
    """
    if dataset.packing:
        return []
    return [
        line
        for stream in dataset.streams
        if stream.name not in skip
        for line in _stream_lines(stream, dataset.seq_len, length_name, prefix)
    ]


def _stream_lines(stream: DataStream, wanted: int, length_name: str, prefix: str) -> Iterator[str]:
    if stream.column.kind == "text":
        yield from _text_lines(stream, wanted, length_name, prefix)
        return
    noted = prepared_row_length(stream)
    tokens = mean_tokens(stream) if noted is None else noted + 1.0
    if tokens is None:
        return
    tolerance = _TOLERANCE if noted is None else 0
    hold = f"hold {'about ' if noted is None else ''}{tokens:,.0f} tokens"
    pack = f"set {prefix}packing = true"
    if prepared_form(stream) != "documents":
        pack = f"if each row is a document, {pack}"
    if wanted <= tokens - 1 <= wanted * (1 + tolerance) or (
        wanted * (1 - tolerance) <= tokens <= (wanted + 1) * (1 + tolerance)
    ):
        return
    other = _other_encoding(stream, tokens, wanted)
    if noted is None and other is not None:
        yield (
            f'rows of stream "{stream.name}" {hold} of type {stream.column.dtype}, and exactly '
            f"the {wanted + 1} of {length_name} = {wanted} if they are {other}: set "
            f"{prefix}token_encoding_type to the type that they were written with"
        )
    elif tokens > wanted + 1:
        lost = 1 - (wanted + 1) / tokens
        prepare = "prepare the data for this one" if noted is not None else pack
        yield (
            f'rows of stream "{stream.name}" {hold}, of which {length_name} = {wanted} takes the '
            f"first {wanted + 1}: {lost:.0%} of the tokens are never trained on; raise "
            f"{length_name}, or {prepare}"
        )
    else:
        prepare = "prepare the data for this one" if noted is not None else pack
        yield (
            f'rows of stream "{stream.name}" {hold}, fewer than {length_name} = {wanted}: '
            f"{1 - tokens / wanted:.0%} of what is computed is padding; lower {length_name}, or "
            f"{prepare}"
        )


def _text_lines(stream: DataStream, wanted: int, length_name: str, prefix: str) -> Iterator[str]:
    size = _mean_bytes(stream)
    if size is None:
        return
    tokens = size / _BYTES_PER_TOKEN
    hold = (
        f'texts of stream "{stream.name}" have about {tokens:,.0f} tokens (at '
        f"{_BYTES_PER_TOKEN:.0f} bytes each)"
    )
    if tokens > (wanted + 1) * _TEXT_TOLERANCE:
        # Of texts of unequal lengths, more is lost.
        yield (
            f"{hold}, of which {length_name} = {wanted} takes the first {wanted + 1}: at least "
            f"{1 - (wanted + 1) / tokens:.0%} is never trained on; set {prefix}packing = true, or "
            f"raise {length_name}"
        )
    elif tokens < wanted / _TEXT_TOLERANCE:
        yield (
            f"{hold}, fewer than {length_name} = {wanted}: about {1 - tokens / wanted:.0%} of what "
            f"is computed is padding; set {prefix}packing = true, or lower {length_name}"
        )


def _other_encoding(stream: DataStream, tokens: float, wanted: int) -> str | None:
    """The types of integer with which rows of `bytes` have the wanted length, if not theirs."""
    if stream.column.kind != "bytes" or stream.column.dtype is None:
        return None
    size = tokens * stream.column.dtype.itemsize
    types = [
        name
        for name in TOKEN_ENCODING_TYPES
        if size in ((wanted + 1) * np.dtype(name).itemsize, wanted * np.dtype(name).itemsize)
    ]
    return " or ".join(types) or None


def mean_tokens(stream: DataStream) -> float | None:
    """Tokens in a row of an opened stream, on average, by the sizes in its index.

    Returns:
        None where the sizes do not tell: text, arrays of any or several types, and rows of several
        columns.
    """
    column = stream.column
    if column.kind == "text" or column.dtype is None or len(stream.distinct_columns) > 1:
        return None
    size = _mean_bytes(stream)
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


def _mean_bytes(stream: DataStream) -> float | None:
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
