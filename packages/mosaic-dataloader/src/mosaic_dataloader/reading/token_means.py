"""Target tokens that a sample gives on average, for weights and stages that count tokens."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.order.mixture import TokenMean
from mosaic_dataloader.reading.document_length import mean_bytes, stored_tokens, tokens_per_row
from mosaic_dataloader.reading.documents import DocumentReader
from mosaic_dataloader.reading.manifest import prepared_form, prepared_tokens
from mosaic_dataloader.storage.store import ShardStore
from mosaic_dataloader.storage.streams import DataStream, ShardSamples

# What is read of a stream where nothing else tells it: so many samples, or so many bytes where
# they are large, but some in any case; from a few shards, which may have to be downloaded, or from
# more where each holds little.
_SAMPLES, _BYTES, _FEWEST = 1024, 16 << 20, 16
_SHARDS, _MOST_SHARDS = 4, 64


def known_mean(stream: DataStream, seq_len: int | None, *, adds_eos: bool) -> TokenMean | None:
    """The mean by a stream's manifest or index.

    A sample gives at most ``seq_len`` targets, or all its tokens with packing, where that is None.
    With ``adds_eos`` packing ends documents with an EOS token that they may lack.

    Returns:
        None where neither tells: for text, for rows of unequal lengths that are cut or padded, and
        for documents that may lack EOS.
    """
    tokens = prepared_tokens(stream)
    if tokens is not None and prepared_form(stream) == ("rows" if seq_len else "documents"):
        mean = tokens / stream.samples
        return _mean(min(mean, seq_len) if seq_len else mean, "its manifest")
    row = tokens_per_row(stream)
    if row is None or (adds_eos if seq_len is None else not _equal_rows(stream)):
        return None
    mean = row if seq_len is None else float(_targets(row, seq_len))
    return _mean(mean, "the sizes in its index")


def estimated_mean(stream: DataStream, seq_len: int | None) -> TokenMean:
    """The mean about, by the sizes in a stream's index; arguments are those of `known_mean`."""
    mean = stored_tokens(stream) / stream.samples
    found = _mean(mean if seq_len is None else min(mean, seq_len), "the sizes in its index")
    return found._replace(estimated=True)


def measured_mean(
    stream: DataStream,
    first_shard: int,
    store: ShardStore,
    reader: DocumentReader,
    seq_len: int | None,
) -> TokenMean:
    """The mean by some of a stream's samples; the same samples on every rank.

    With packing, the tokens for each stored byte of text, or stored token, are measured, and
    multiplied by what a sample stores on average: that varies less than the lengths of samples.

    ``first_shard`` is the number of its first shard over all streams.

    Raises:
        MosaicDataError: A sample cannot be read.
    """
    parts = _parts(stream)
    lengths, sizes = [], []
    for shard, places in parts:
        read = reader.read([first_shard + shard] * len(places), places)
        lengths.append(np.array([len(tokens) for tokens in read], np.float64))
        sizes.append(_sizes(stream, store, first_shard + shard, places))
    text = stream.column.kind == "text"
    stored = None if seq_len else mean_bytes(stream) if text else tokens_per_row(stream)
    if stored is not None and (total := np.concatenate(sizes).sum()):
        mean = stored * float(np.concatenate(lengths).sum() / total)
    else:
        # Each shard counts by its samples.
        counts = [len(stream.readers[shard]) for shard, _ in parts]
        means = [np.mean(_targets(own, seq_len) if seq_len else own) for own in lengths]
        mean = float(np.average(means, weights=counts))
    read_samples = sum(len(places) for _, places in parts)
    return _mean(mean, f"measured on {read_samples:,} of its {stream.samples:,} samples")


def _parts(stream: DataStream) -> list[ShardSamples]:
    filled = [number for number, reader in enumerate(stream.readers) if len(reader)]
    samples = stream.samples
    wanted = min(_SAMPLES, max(_FEWEST, _BYTES * samples // max(1, stream.raw_bytes)))
    shards = max(_SHARDS, min(_MOST_SHARDS, wanted * len(filled) // samples))
    chosen = [filled[index] for index in _spread(len(filled), shards)]
    of_each = -(-wanted // len(chosen))
    return [ShardSamples(shard, _spread(len(stream.readers[shard]), of_each)) for shard in chosen]


def _spread(count: int, most: int) -> list[int]:
    """Up to ``most`` numbers below ``count``, at equal distances."""
    wanted = min(count, most)
    return [(2 * n + 1) * count // (2 * wanted) for n in range(wanted)]


def _sizes(
    stream: DataStream, store: ShardStore, shard: int, places: Sequence[int]
) -> NDArray[np.float64]:
    """Bytes of text, or stored tokens, of samples of a shard, float64[n]."""
    with store.reading(shard) as opened:
        if stream.column.kind == "text":
            found = [len(opened.text(n).encode(errors="surrogatepass")) for n in places]
        else:
            found = [len(opened.tokens(n)) for n in places]
    store.release()
    return np.array(found, np.float64)


def _targets(lengths: Any, seq_len: int) -> Any:
    """Targets in unpacked rows, of the shape of ``lengths``: see `fill_row`."""
    return np.clip(np.asarray(lengths, np.float64) - 1, 0, seq_len)


def _equal_rows(stream: DataStream) -> bool:
    """Whether the index says that all rows, whose column is their only one, are equally long."""
    sizes = {getattr(reader, "column_sizes", [None])[0] for reader in stream.readers}
    return len(sizes) == 1 and None not in sizes


def _mean(tokens: float, source: str) -> TokenMean:
    return TokenMean(max(1, round(1000 * tokens)), source)
