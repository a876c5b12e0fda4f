"""How long documents are, as far as that is known before any is read."""

from collections import Counter
from collections.abc import Sequence

from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.storage.streams import DataStream

# Of a byte-level tokenizer of some ten thousand entries, on text of Latin letters.
_BYTES_PER_TOKEN = 4.0


def tokens_per_stream(streams: Sequence[DataStream], mixture: Mixture) -> list[float]:
    """Tokens that one epoch draws from each stream, about."""
    tokens = []
    for stream, size in zip(streams, mixture.streams, strict=True):
        stored: Counter[float] = Counter()
        for reader, column in zip(stream.readers, stream.columns, strict=True):
            token = _BYTES_PER_TOKEN if column.dtype is None else float(column.dtype.itemsize)
            stored[token] += reader.get_raw_size()
        drawn = sum(size.choose * count / token for token, count in stored.items())
        tokens.append(drawn / size.samples)
    return tokens


def mean_tokens(streams: Sequence[DataStream], mixture: Mixture) -> float:
    """Tokens of a document, over one epoch, about."""
    return sum(tokens_per_stream(streams, mixture)) / mixture.epoch_samples


def rows_of_epoch(streams: Sequence[DataStream], mixture: Mixture, seq_len: int) -> int:
    """Rows that packing makes of an epoch, about; the same on all ranks, and at least 1."""
    return max(1, round(sum(tokens_per_stream(streams, mixture)) / seq_len))
