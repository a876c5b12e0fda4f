"""From texts to token ids."""

import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class TokenizerSpec:
    """A tokenizer as it travels between processes.

    Attributes:
        definition: A `tokenizers` tokenizer as JSON; None where it is written in Python.
        slow: Name of a tokenizer written in Python, and its keywords as JSON.
        eos_id: Token after each document.
        bos_id: Token before each document, if any.
        dtype: Type of the token ids.
        parse_special: Whether text that spells a special token becomes that token.
    """

    definition: str | None = field(repr=False)
    slow: tuple[str, str] | None
    eos_id: int
    bos_id: int | None
    dtype: str
    parse_special: bool


def encode(spec: TokenizerSpec, texts: Sequence[str]) -> Iterable[Tokens]:
    """Token ids of each text, begun and ended as documents are; none for a text without a token."""
    begin = [] if spec.bos_id is None else [spec.bos_id]
    dtype = np.dtype(spec.dtype)
    for ids in _batch_encoder(spec)(list(texts)):
        # Of an array, numpy need not look at each integer.
        tokens = array(dtype.char, begin)
        tokens.fromlist(ids)
        tokens.append(spec.eos_id)
        yield np.frombuffer(tokens, dtype) if ids else np.empty(0, dtype)


@lru_cache(maxsize=1)
def _batch_encoder(spec: TokenizerSpec) -> Callable[[list[str]], Iterable[list[int]]]:
    """A function from texts to lists of token ids: the loader's own, without special tokens."""
    from mosaic_dataloader.reading.batch_tokenizer import BatchTokenizer
    from mosaic_dataloader.reading.pretrained import load_pretrained

    if spec.definition is None:
        assert spec.slow is not None
        tokenizer = load_pretrained(spec.slow[0], json.loads(spec.slow[1]))
    else:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(spec.definition)
    own = BatchTokenizer(
        tokenizer, add_special_tokens=False, parse_special_tokens=spec.parse_special
    )
    return own.ids
