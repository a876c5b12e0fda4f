"""Tokenizing documents in batches, whatever kind of tokenizer was handed in."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array


class BatchTokenizer:
    """Token ids of documents, as the tokenizer itself encodes them, special tokens included.

    Args:
        tokenizer: A ``transformers`` tokenizer, a ``tokenizers.Tokenizer``, or an object that has
            one of these as its attribute ``tokenizer`` (TorchTitan's tokenizers do).

    Attributes:
        inner: The tokenizer that encodes.
        fast: The Rust tokenizer in it, or itself.

    Raises:
        MosaicDataError: It is none of these.
    """

    def __init__(self, tokenizer: Any):
        inner = tokenizer
        while not _encodes_batches(inner) and hasattr(inner, "tokenizer"):
            inner = inner.tokenizer
        if not _encodes_batches(inner):
            raise MosaicDataError(
                f"a tokenizer of type {type(tokenizer).__name__} cannot encode batches; pass a "
                f"transformers tokenizer or a tokenizers.Tokenizer"
            )
        self.inner = inner
        # The Rust tokenizer encodes a batch on all cores without holding Python's lock.
        self.fast = getattr(inner, "backend_tokenizer", inner)

    def encode(self, texts: Sequence[str]) -> Iterator[Int64Array]:
        """Encode texts at once.

        Returns:
            Token ids, one int64[n] per text. Only when they are asked for are they made arrays of,
            which holds Python's lock, as encoding does not.
        """
        if not texts:
            return iter(())
        if hasattr(self.fast, "encode_batch_fast"):
            # A truncation or padding set on the tokenizer would cut or fill documents unseen.
            if self.fast.truncation is not None:
                self.fast.no_truncation()
            if self.fast.padding is not None:
                self.fast.no_padding()
            encoded = self.fast.encode_batch_fast(list(texts), add_special_tokens=True)
            return (np.asarray(e.ids, np.int64) for e in encoded)
        # A tokenizer written in Python has no batch encoder of its own.
        ids = self.inner(list(texts), truncation=False, padding=False)["input_ids"]
        return (np.asarray(i, np.int64) for i in ids)


def pad_token_id(tokenizer: Any) -> int:
    """Token id for padded inputs: the pad token's, else the EOS token's, else 0.

    Args:
        tokenizer: As for ``BatchTokenizer``, of any kind, or None.
    """
    while tokenizer is not None:
        for name in ("pad_token_id", "eos_token_id"):
            value = getattr(tokenizer, name, None)
            if value is not None:
                return int(value)
        tokenizer = getattr(tokenizer, "tokenizer", None)
    return 0


def eos_token_id(tokenizer: Any) -> int | None:
    """Token id that ends a document; None if the tokenizer does not say.

    Args:
        tokenizer: As for ``BatchTokenizer``, of any kind, or None.
    """
    while tokenizer is not None:
        for name in ("eos_token_id", "eos_id"):
            value = getattr(tokenizer, name, None)
            if value is not None:
                return int(value)
        tokenizer = getattr(tokenizer, "tokenizer", None)
    return None


def _encodes_batches(candidate: Any) -> bool:
    if hasattr(candidate, "encode_batch"):
        return True
    return callable(candidate) and hasattr(candidate, "get_vocab")
