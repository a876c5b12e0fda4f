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
from mosaic_dataloader.storage.column import TOKEN_ENCODING_TYPES, Column
from mosaic_dataloader.storage.store import ShardStore
from mosaic_dataloader.storage.streams import DataStream

# Samples of each stream that are looked at before a run.
_FIRST_SAMPLES = 32
# So many ids other than 0 tell one type from another.
_TELLING_IDS = 16


def first_outside(ids: NDArray[Any], vocab_size: int | None) -> int:
    """Find a token id that is negative or beyond the vocabulary.

    Args:
        ids: integer[n].
        vocab_size: Ids that are embedded; None refuses only negative ones.

    Returns:
        Its place; -1 where there is none.
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

    Args:
        streams: The opened streams.
        mixture: Their sizes.
        vocab_size: See `first_outside`.
        shard: Number of the shard over all streams.
        place: Number of the sample within the shard.
        token_id: The id.
    """
    number = int(mixture.stream_shards.searchsorted(shard, side="right")) - 1
    stream = streams[number]
    reader = stream.readers[shard - int(mixture.stream_shards[number])]
    sample = int(mixture.shard_offsets[shard] - mixture.stream_offsets[number]) + place
    if stream.column.kind == "text":
        advice = "train with a tokenizer whose ids the model embeds, or a model that embeds more"
    elif stream.column.kind == "bytes":
        advice = (
            f"set token_encoding_type, now {_type_name(stream.column)!r}, to the type that the "
            "tokens were written in, or prepare the data with the model's tokenizer"
        )
    else:
        advice = "prepare the data with the model's tokenizer, or train a model that embeds more"
    return MosaicDataError(
        f'stream "{stream.name}", shard {reader.file_pairs[-1][0].basename}, sample {place} of the '
        f"shard ({sample} of the stream): token id {token_id} {_refused(vocab_size)}; {advice}"
    )


def check_first_samples(
    store: ShardStore, mixture: Mixture, number: int, vocab_size: int | None
) -> None:
    """Compare the first samples of a stream of tokens with the vocabulary, before a run begins.

    Text is left out: its tokenizer can be compared with the model as a whole.

    Args:
        store: The shards.
        mixture: Their sizes.
        number: The stream's. Its first shard is fetched if it is not there yet.
        vocab_size: See `first_outside`.

    Raises:
        MosaicDataError: An id lies outside, or the tokens in a `bytes` column are evidently of
            another type than `token_encoding_type`; or the shard cannot be had.
    """
    stream = store.streams[number]
    if stream.column.kind == "text":
        return
    # An index may have shards without samples.
    first = next(n for n, reader in enumerate(stream.readers) if len(reader))
    shard = int(mixture.stream_shards[number]) + first
    with store.reading(shard) as opened:
        count = min(_FIRST_SAMPLES, len(stream.readers[first]))
        samples = [opened.tokens(place).copy() for place in range(count)]
    likely = _likely_type(samples, stream.column, vocab_size)
    for place, ids in enumerate(samples):
        found = first_outside(ids, vocab_size)
        if found < 0:
            continue
        if likely is None:
            raise outside_error(store.streams, mixture, vocab_size, shard, place, int(ids[found]))
        raise MosaicDataError(
            f'stream "{stream.name}": token id {ids[found]} in sample {place} '
            f"{_refused(vocab_size)}; token_encoding_type = {_type_name(stream.column)!r} is not "
            f"what the tokens were written in: set {likely!r}, by which all of the first {count} "
            f"samples are inside"
        )
    if likely is not None:
        raise MosaicDataError(
            f'stream "{stream.name}": token_encoding_type = {_type_name(stream.column)!r} cuts its '
            f"token ids into pieces, most of them 0: set {likely!r}, by which all of the first "
            f"{count} samples are inside the vocabulary"
        )


def _likely_type(
    samples: Sequence[NDArray[Any]], column: Column, vocab_size: int | None
) -> str | None:
    """The type that the tokens of a `bytes` column were written in, if it is not the given one.

    Read as too wide a type, ids are absurd. Read as too narrow a type, each is followed by zeros;
    of ids that really are so narrow, several together hardly ever make one of the vocabulary.
    """
    if column.kind != "bytes" or column.dtype is None or vocab_size is None:
        return None
    fits = [np.dtype(n) for n in TOKEN_ENCODING_TYPES if _all_inside(samples, n, vocab_size)]
    if vocab_size > 256:
        fits = [dtype for dtype in fits if dtype.itemsize > 1]  # any byte would be inside
    # Of two equally wide ones the usual.
    best = max(fits, key=lambda d: (d.itemsize, (d.kind == "u") == (d.itemsize < 4)), default=None)
    if best is None or best.itemsize == column.dtype.itemsize:
        return None
    if best.itemsize < column.dtype.itemsize:
        # Ids of another tokenizer are large; several in one are larger than one can be.
        packed = np.concatenate(samples).view(f"u{column.dtype.itemsize}") >> (8 * best.itemsize)
        if np.count_nonzero(packed) < 0.9 * len(packed):
            return None
    return best.name


def _all_inside(samples: Sequence[NDArray[Any]], name: str, vocab_size: int) -> bool:
    dtype, told = np.dtype(name), 0
    for sample in samples:
        if sample.nbytes % dtype.itemsize:
            return False
        ids = sample.view(dtype)
        if first_outside(ids, vocab_size) >= 0:
            return False
        told += int(np.count_nonzero(ids))
    return told >= _TELLING_IDS


def _type_name(column: Column) -> str:
    return "" if column.dtype is None else column.dtype.name


def _refused(vocab_size: int | None) -> str:
    if vocab_size is None:
        return "is negative, or too large for any model"
    return f"is outside the model's vocabulary of {vocab_size:,}"
