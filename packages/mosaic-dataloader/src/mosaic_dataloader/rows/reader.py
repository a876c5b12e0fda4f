"""Reading a batch of samples into tensors."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.rows.fill import fill_padding, fill_row, fill_uniform
from mosaic_dataloader.rows.tokenizer import BatchTokenizer
from mosaic_dataloader.shards.store import ShardStore


class RowReader:
    """Turns sample ids into rows.

    Args:
        store: The shards.
        mixture: Their sizes.
        seq_len: Tokens in a row, T.
        tokenizer: For text; None where all streams hold tokens.
        pad_id: Token id of padded inputs.
    """

    def __init__(
        self,
        store: ShardStore,
        mixture: Mixture,
        seq_len: int,
        tokenizer: BatchTokenizer | None,
        pad_id: int,
    ):
        self._store = store
        self._mixture = mixture
        self._seq_len = seq_len
        self._tokenizer = tokenizer
        self._pad_id = pad_id

    def batch(self, ids: Int64Array) -> tuple[torch.Tensor, torch.Tensor]:
        """Read a batch.

        Args:
            ids: int64[B], sample ids; a negative id is a row of padding.

        Returns:
            Inputs and labels, both int64[B, T], freshly allocated: the caller may keep them.

        Raises:
            MosaicDataError: A shard cannot be had or is damaged.
        """
        shape = (len(ids), self._seq_len)
        inputs, labels = (torch.empty(shape, dtype=torch.int64) for _ in range(2))
        into = inputs.numpy(), labels.numpy()
        for row in np.flatnonzero(ids < 0).tolist():
            fill_padding(*into, row, self._pad_id)
        real = np.flatnonzero(ids >= 0)
        shards, places = self._mixture.locate(ids[real])
        texts: list[str] = []
        text_rows: list[int] = []
        # Shard by shard, so that each is opened once per batch.
        order = np.argsort(shards, kind="stable")
        bounds = np.flatnonzero(np.diff(shards[order])) + 1
        for group in np.split(order, bounds) if len(order) else []:
            shard = int(shards[group[0]])
            with self._store.reading(shard) as opened:
                if self._is_text(shard):
                    texts += [opened.text(p) for p in places[group].tolist()]
                    text_rows += real[group].tolist()
                elif opened.uniform is None or not fill_uniform(
                    *into, real[group], opened.uniform, places[group]
                ):
                    rows, where = real[group].tolist(), places[group].tolist()
                    for row, place in zip(rows, where, strict=True):
                        fill_row(*into, row, opened.tokens(place), self._pad_id)
        self._store.release()
        for row, tokens in zip(text_rows, self._encode(texts), strict=True):
            fill_row(*into, row, tokens, self._pad_id)
        return inputs, labels

    def sample(self, sample_id: int) -> torch.Tensor:
        """One sample's token ids, int64[n], at most T+1 of them."""
        shards, places = self._mixture.locate(np.array([sample_id], np.int64))
        shard, place = int(shards[0]), int(places[0])
        tokens: NDArray[Any]
        with self._store.reading(shard) as opened:
            if self._is_text(shard):
                tokens = self._encode([opened.text(place)])[0][: self._seq_len + 1]
            else:
                tokens = opened.tokens(place)[: self._seq_len + 1].astype(np.int64)
        return torch.from_numpy(tokens)

    def _is_text(self, shard: int) -> bool:
        bounds = self._mixture.stream_shards
        stream = int(bounds.searchsorted(shard, side="right")) - 1
        return self._store.streams[stream].column.kind == "text"

    def _encode(self, texts: list[str]) -> list[Int64Array]:
        if not texts:
            return []
        if self._tokenizer is None:
            raise MosaicDataError("a stream holds text, and there is no tokenizer to encode it")
        return self._tokenizer.encode(texts)
