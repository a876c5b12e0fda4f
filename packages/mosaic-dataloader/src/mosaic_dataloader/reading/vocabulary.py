"""Token ids that a model does not embed.

A model that is given one dies in an IndexError, or in an assert on the device, which name neither
stream nor sample. So ids are compared with the vocabulary where rows are made of them.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.storage.column import Column
from mosaic_dataloader.storage.streams import DataStream


def first_outside(ids: NDArray[Any], vocab_size: int | None) -> int:
    """The place of a token id, integer[n], that is negative or beyond the vocabulary; -1 for none.

    Without a ``vocab_size``, only negative ones are refused.
    """
    unsigned, limit = _bounds(ids.dtype, vocab_size)
    if unsigned is None or not len(ids):
        return -1
    looked_at = ids.view(unsigned)
    # Every batch comes through here, with little of it left in the processor's caches: one pass,
    # and not by `max`, whose call alone then takes three times as long.
    if looked_at[looked_at.argmax()] < limit:
        return -1
    return int((looked_at >= limit).argmax())


@cache
def _bounds(dtype: np.dtype[Any], vocab_size: int | None) -> tuple[np.dtype[Any] | None, int]:
    """As what to look at ids of a type, and the least that is refused; None to refuse nothing.

    As unsigned numbers negative ids are the largest of all, so that one comparison finds both.
    """
    bits = 8 * dtype.itemsize
    refused = 1 << (bits - 1 if dtype.kind == "i" else bits)
    limit = refused if vocab_size is None else min(refused, vocab_size)
    return (None if limit >> bits else np.dtype(f"u{dtype.itemsize}")), limit


def outside_error(
    streams: Sequence[DataStream],
    mixture: Mixture,
    vocab_size: int | None,
    shard: int,
    place: int,
    token_id: int,
) -> MosaicDataError:
    """Say where a token id comes from that the model does not embed.

    ``shard`` is its number over all streams, ``place`` the number of the sample within it.
    """
    number, shard_number = mixture.shard_in_stream(shard)
    stream = streams[number]
    reader = stream.readers[shard_number]
    sample = int(mixture.shard_offsets[shard] - mixture.stream_offsets[number]) + place
    if stream.column.kind == "text":
        hint = "train with a tokenizer whose ids the model embeds, or a model that embeds more"
    elif stream.column.kind == "bytes":
        hint = (
            f"set token_encoding_type, now {type_name(stream.column)!r}, to the type that the "
            "tokens were written in, or prepare the data with the model's tokenizer"
        )
    else:
        hint = "prepare the data with the model's tokenizer, or train a model that embeds more"
    return MosaicDataError(
        f'stream "{stream.name}", shard {reader.file_pairs[-1][0].basename}, sample {place} of the '
        f"shard ({sample} of the stream): token id {token_id} {refused(vocab_size)}; {hint}"
    )


def type_name(column: Column) -> str:
    """The type of a column's token ids, as messages name it."""
    return "" if column.dtype is None else column.dtype.name


def refused(vocab_size: int | None) -> str:
    """Why a token id is refused; follows the id."""
    if vocab_size is None:
        return "is negative, or too large for any model"
    return f"is outside the model's vocabulary of {vocab_size:,}"
