"""Reading whole documents as tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.reading.batch_tokenizer import BatchTokenizer
from mosaic_dataloader.storage.store import ShardStore

# int32 where every id fits, else int64.
Tokens = NDArray[np.integer[Any]]


class DocumentReader:
    """Turns samples into documents' tokens.

    An empty document (no text, or no token) has no tokens. Any other ends with EOS, if that is
    given: one is added unless it is there already.
    """

    def __init__(
        self,
        store: ShardStore,
        tokenizer: BatchTokenizer | None,
        eos_id: int | None,
    ):
        self._store = store
        self._tokenizer = tokenizer
        self._eos_id = eos_id
        dtypes = {
            np.dtype(np.int32) if s.column.kind == "text" else dtype
            for s in store.streams
            for dtype in s.dtypes
        }
        narrow = all(d is not None and np.can_cast(d, np.int32) for d in dtypes)
        self.dtype: np.dtype[np.integer[Any]] = np.dtype(np.int32 if narrow else np.int64)

    def read(self, shards: Sequence[int], places: Sequence[int]) -> list[Tokens]:
        """Read documents, given the shard of each and its place within the shard.

        Returns:
            Token ids of each, freshly allocated, ``dtype[n]``; n is 0 for an empty one.

        Raises:
            MosaicDataError: A shard cannot be fetched or is damaged.
        """
        found: list[Tokens] = [np.empty(0, self.dtype)] * len(shards)
        texts: list[str] = []
        text_numbers: list[int] = []
        by_shard: dict[int, list[int]] = {}
        for number, shard in enumerate(shards):
            by_shard.setdefault(shard, []).append(number)
        for shard, numbers in by_shard.items():
            with self._store.reading(shard) as opened:
                if opened.has_text:
                    texts += [opened.text(places[n]) for n in numbers]
                    text_numbers += numbers
                    continue
                for number in numbers:
                    found[number] = self._ended(opened.tokens(places[number]))
        # No file is held during that: encoding takes longer than anything else here.
        self._store.release()
        encoded = encode_texts(self._store, self._tokenizer, texts)
        for number, text, tokens in zip(text_numbers, texts, encoded, strict=True):
            # Of an empty text, a tokenizer would make BOS.
            found[number] = self._ended(tokens if text else tokens[:0])
        return found

    def _ended(self, tokens: Tokens) -> Tokens:
        """A copy that ends with EOS; empty if the document is."""
        count = len(tokens)
        if not count or self._eos_id is None or tokens[-1] == self._eos_id:
            return tokens.astype(self.dtype)
        ended = np.empty(count + 1, self.dtype)
        ended[:count] = tokens
        ended[count] = self._eos_id
        return ended


def encode_texts(
    store: ShardStore, tokenizer: BatchTokenizer | None, texts: list[str]
) -> Iterator[Int64Array]:
    """Token ids, int64[n], of each of some texts of a store."""
    if not texts:
        return iter(())
    # A data set with text is not opened without one.
    assert tokenizer is not None
    with store.traffic.encoding(len(texts)):
        return tokenizer.encode(texts)


def joined(documents: Sequence[Tokens]) -> tuple[Tokens, NDArray[np.int64]]:
    """Documents as two arrays, which pass cheaply from process to process.

    Their tokens end to end, and int64[n], the length of each.
    """
    lengths = np.fromiter(map(len, documents), np.int64, len(documents))
    return (np.concatenate(documents) if documents else np.empty(0, np.int32)), lengths


def separated(tokens: Tokens, lengths: NDArray[np.int64]) -> list[Tokens]:
    """The documents that `joined` joined, none holding on to the others' memory."""
    ends = np.cumsum(lengths).tolist()
    return [
        tokens[end - size : end].copy() for end, size in zip(ends, lengths.tolist(), strict=True)
    ]
