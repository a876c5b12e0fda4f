"""Do the first samples of each stream hold token ids that the model embeds?"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.dataset import StreamingTextDataset
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.options import TOKEN_ENCODING_TYPES
from mosaic_dataloader.reading.vocabulary import (
    first_outside,
    outside_error,
    refused,
    type_name,
)
from mosaic_dataloader.storage.column import Column
from mosaic_dataloader.storage.streams import DataStream

# Samples of each stream that are looked at before a run.
_FIRST_SAMPLES = 32
# So many ids other than 0 distinguish one type from another.
_TELLING_IDS = 16
# First shards that are fetched to look at their samples take no more than this together.
_FETCHED_BYTES = 256 << 20


def first_samples(dataset: StreamingTextDataset, *, vocab_size: int | None = None) -> list[str]:
    """A mistake: the first samples of a stream hold token ids outside the model's vocabulary.

    A stream whose first shard is not on this machine is left out where fetching all such shards
    would take long; its rows are checked as they are trained on.

    Args:
        dataset: The data.
        vocab_size: Token ids that the model embeds; None finds only negative ones.

    Returns:
        A line for each stream that has some, or whose first shard cannot be read.
    """
    lines = []
    may_fetch = _FETCHED_BYTES
    for number, stream in enumerate(dataset.streams):
        # The tokenizer of text can be compared with the model as a whole.
        if stream.column.kind == "text":
            continue
        first = _first_shard(stream)
        if not os.path.exists(stream.path(first)):
            size = int(stream.readers[first].get_raw_size())
            if size > may_fetch:
                continue
            may_fetch -= size
        try:
            check_first_samples(dataset, number, vocab_size)
        except MosaicDataError as error:
            lines.append(str(error))
    return lines


def check_first_samples(dataset: StreamingTextDataset, number: int, vocab_size: int | None) -> None:
    """Compare the first samples of a stream of tokens with the vocabulary, before a run begins.

    Args:
        dataset: The data.
        number: The stream's. Its first shard is fetched if it is not there yet.
        vocab_size: See `first_outside`.

    Raises:
        MosaicDataError: An id lies outside, or the tokens in a `bytes` column are evidently of
            another type than `token_encoding_type`; or the shard cannot be fetched.
    """
    stream = dataset.streams[number]
    first = _first_shard(stream)
    shard = int(dataset.mixture.stream_shards[number]) + first
    with dataset.store.reading(shard) as opened:
        count = min(_FIRST_SAMPLES, len(stream.readers[first]))
        samples = [opened.tokens(place).copy() for place in range(count)]
    likely = _likely_type(samples, stream.column, vocab_size)
    for place, ids in enumerate(samples):
        found = first_outside(ids, vocab_size)
        if found < 0:
            continue
        if likely is None:
            raise outside_error(
                dataset.streams, dataset.mixture, vocab_size, shard, place, int(ids[found])
            )
        raise MosaicDataError(
            f'stream "{stream.name}": token id {ids[found]} in sample {place} '
            f"{refused(vocab_size)}; token_encoding_type = {type_name(stream.column)!r} is not "
            f"what the tokens were written in: set {likely!r}, by which all of the first {count} "
            f"samples are inside"
        )
    if likely is not None:
        raise MosaicDataError(
            f'stream "{stream.name}": token_encoding_type = {type_name(stream.column)!r} cuts its '
            f"token ids into pieces, most of them 0: set {likely!r}, by which all of the first "
            f"{count} samples are inside the vocabulary"
        )


def _first_shard(stream: DataStream) -> int:
    # An index may have shards without samples.
    return next(number for number, reader in enumerate(stream.readers) if len(reader))


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
