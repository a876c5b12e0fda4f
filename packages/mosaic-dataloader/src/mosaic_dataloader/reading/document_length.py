"""How long documents are, as far as that is known before any is read."""

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset

# Of a byte-level tokenizer of some ten thousand entries, on text of Latin letters.
_BYTES_PER_TOKEN = 4.0


def tokens_per_stream(dataset: "StreamingTextDataset") -> list[float]:
    """Tokens that one epoch draws from each stream, about."""
    tokens = []
    for stream, size in zip(dataset.streams, dataset.mixture.streams, strict=True):
        stored: Counter[float] = Counter()
        for reader, column in zip(stream.readers, stream.columns, strict=True):
            token = _BYTES_PER_TOKEN if column.dtype is None else float(column.dtype.itemsize)
            stored[token] += reader.get_raw_size()
        drawn = sum(size.choose * count / token for token, count in stored.items())
        tokens.append(drawn / size.samples)
    return tokens


def mean_tokens(dataset: "StreamingTextDataset") -> float:
    """Tokens of a document, over one epoch, about."""
    return sum(tokens_per_stream(dataset)) / dataset.mixture.epoch_samples


def rows_of_epoch(dataset: "StreamingTextDataset") -> int:
    """Rows that an epoch gives, about; the same on all ranks, and at least 1."""
    return max(1, round(mean_tokens(dataset) * dataset.mixture.epoch_samples / dataset.seq_len))
