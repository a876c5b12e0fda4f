"""Do stored samples have the length that is trained on?"""

from collections.abc import Iterator

import numpy as np

from mosaic_dataloader.checks.names import PYTHON, OptionNames
from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.options import TOKEN_ENCODING_TYPES
from mosaic_dataloader.reading.document_length import BYTES_PER_TOKEN, mean_bytes, tokens_per_row
from mosaic_dataloader.reading.manifest import prepared_form, prepared_row_length
from mosaic_dataloader.storage.streams import DataStream

# Lengths computed from sizes are means: rows of other lengths may hide in them.
_TOLERANCE = 0.05
# Texts' lengths in tokens are estimates, which are off by up to this factor.
_TEXT_TOLERANCE = 2.0


def row_lengths(dataset: StreamingTextDataset, *, names: OptionNames = PYTHON) -> list[str]:
    """A cost: a stream has tokens that are never trained on, or makes batches mostly of padding.

    Args:
        dataset: The data.
        names: What the caller's options are called.

    Returns:
        A line for each stream that has either; none with packing, which makes rows of the length
        that is wanted.
    """
    if dataset.packing:
        return []
    return [
        line for stream in dataset.streams for line in _stream_lines(stream, dataset.seq_len, names)
    ]


def _stream_lines(stream: DataStream, wanted: int, names: OptionNames) -> Iterator[str]:
    if stream.column.kind == "text":
        yield from _text_lines(stream, wanted, names)
        return
    noted = prepared_row_length(stream)
    tokens = tokens_per_row(stream) if noted is None else noted + 1.0
    if tokens is None:
        return
    tolerance = _TOLERANCE if noted is None else 0
    hold = f"hold {'about ' if noted is None else ''}{tokens:,.0f} tokens"
    pack = f"set {names.dataset}packing = true"
    if prepared_form(stream) != "documents":
        pack = f"if each row is a document, {pack}"
    if wanted <= tokens - 1 <= wanted * (1 + tolerance) or (
        wanted * (1 - tolerance) <= tokens <= (wanted + 1) * (1 + tolerance)
    ):
        return
    prepare = "prepare the data for this one" if noted is not None else pack
    other = _other_encoding(stream, tokens, wanted)
    if noted is None and other is not None:
        yield (
            f'rows of stream "{stream.name}" {hold} of type {stream.column.dtype}, and exactly '
            f"the {wanted + 1} of {names.seq_len} = {wanted} if they are {other}: set "
            f"{names.dataset}token_encoding_type to the type that they were written with"
        )
    elif tokens > wanted + 1:
        lost = 1 - (wanted + 1) / tokens
        yield (
            f'rows of stream "{stream.name}" {hold}, of which {names.seq_len} = {wanted} takes the '
            f"first {wanted + 1}: {lost:.0%} of the tokens are never trained on; raise "
            f"{names.seq_len}, or {prepare}"
        )
    else:
        yield (
            f'rows of stream "{stream.name}" {hold}, fewer than {names.seq_len} = {wanted}: '
            f"{1 - tokens / wanted:.0%} of what is computed is padding; lower {names.seq_len}, or "
            f"{prepare}"
        )


def _text_lines(stream: DataStream, wanted: int, names: OptionNames) -> Iterator[str]:
    size = mean_bytes(stream)
    if size is None:
        return
    tokens = size / BYTES_PER_TOKEN
    hold = (
        f'texts of stream "{stream.name}" have about {tokens:,.0f} tokens (at '
        f"{BYTES_PER_TOKEN:.0f} bytes each)"
    )
    if tokens > (wanted + 1) * _TEXT_TOLERANCE:
        # Of texts of unequal lengths, more is lost.
        yield (
            f"{hold}, of which {names.seq_len} = {wanted} takes the first {wanted + 1}: at least "
            f"{1 - (wanted + 1) / tokens:.0%} is never trained on; set {names.dataset}packing = "
            f"true, or raise {names.seq_len}"
        )
    elif tokens < wanted / _TEXT_TOLERANCE:
        yield (
            f"{hold}, fewer than {names.seq_len} = {wanted}: about {1 - tokens / wanted:.0%} of "
            f"what is computed is padding; set {names.dataset}packing = true, or lower "
            f"{names.seq_len}"
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
