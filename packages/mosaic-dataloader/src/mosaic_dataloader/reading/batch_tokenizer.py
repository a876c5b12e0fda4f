"""Tokenizing documents in batches, whatever kind of tokenizer was handed in."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array


class BatchTokenizer:
    """Token ids of documents.

    Text that happens to spell a special token is text like any other, so that no document ends in
    its middle because of what it says.

    Args:
        tokenizer: A ``transformers`` tokenizer, a ``tokenizers.Tokenizer``, or an object that has
            one of these as its attribute ``tokenizer`` (TorchTitan's tokenizers do).
        add_special_tokens: Add those that the tokenizer itself adds to a text, such as BOS.
        parse_special_tokens: Make special tokens of text that spells them.

    Attributes:
        inner: The tokenizer that encodes.
        fast: The Rust tokenizer in it, or itself.

    Raises:
        MosaicDataError: It is none of these.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        add_special_tokens: bool = True,
        parse_special_tokens: bool = False,
    ):
        inner = next(filter(_encodes_batches, wrapped_tokenizers(tokenizer)), None)
        if inner is None:
            raise MosaicDataError(
                f"a tokenizer of type {type(tokenizer).__name__} cannot encode batches; pass a "
                f"transformers tokenizer or a tokenizers.Tokenizer"
            )
        self.inner = inner
        self._add_special = add_special_tokens
        self._parse_special = parse_special_tokens
        self.fast = getattr(inner, "backend_tokenizer", inner)
        self._is_fast = hasattr(self.fast, "encode_batch_fast")
        if self._is_fast:
            # The Rust tokenizer encodes a batch on all cores without holding Python's lock. While
            # it does, no setting can be changed: the caller keeps another one.
            self.fast = copy.deepcopy(self.fast)
            # Set on the tokenizer, these would cut or fill documents unseen.
            self.fast.no_truncation()
            self.fast.no_padding()
            self._set_special_tokens()

    def encode(self, texts: Sequence[str]) -> Iterator[Int64Array]:
        """Encode texts at once: int64[n] for each.

        They become arrays only when they are asked for: that holds Python's lock, as encoding does
        not.
        """
        return (np.asarray(ids, np.int64) for ids in self.ids(texts))

    def ids(self, texts: Sequence[str]) -> Iterable[list[int]]:
        """Encode texts at once: a list for each, made when it is asked for."""
        if not texts:
            return ()
        if self._is_fast:
            encoded = self.fast.encode_batch_fast(list(texts), add_special_tokens=self._add_special)
            return (e.ids for e in encoded)
        if not hasattr(self.inner, "tokens_trie"):
            # Something that is called like transformers' tokenizers, and is none of them.
            ids: list[list[int]] = self.inner(
                list(texts),
                add_special_tokens=self._add_special,
                truncation=False,
                padding=False,
            )["input_ids"]
            return ids
        splitter = self.inner if self._parse_special else _without_special_tokens(self.inner)
        return [self._ids_by(splitter, text) for text in texts]

    def _set_special_tokens(self) -> None:
        self.fast.encode_special_tokens = not self._parse_special

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set again what a Rust tokenizer loses on its way to another process."""
        self.__dict__.update(state)
        if self._is_fast:
            self._set_special_tokens()

    def _ids_by(self, splitter: Any, text: str) -> list[int]:
        """Encode with a tokenizer written in Python, which has no batch encoder of its own.

        Its batch call does not hand ``split_special_tokens`` on.
        """
        tokens = splitter.tokenize(text, split_special_tokens=False)
        ids: list[int] = self.inner.convert_tokens_to_ids(tokens)
        if self._add_special:
            ids = self.inner.build_inputs_with_special_tokens(ids)
        return ids


def _without_special_tokens(slow: Any) -> Any:
    """A copy of a Python tokenizer that finds no special tokens in a text, but all other tokens.

    ``split_special_tokens`` would make text of every added token, and some classes look for special
    tokens in ways of their own. The copy shares what is large.
    """
    twin = object.__new__(type(slow))
    twin.__dict__.update(slow.__dict__)
    plain = {i: token for i, token in slow.added_tokens_decoder.items() if not token.special}
    twin._added_tokens_decoder = plain
    twin._added_tokens_encoder = {token.content: i for i, token in plain.items()}
    twin.tokens_trie = type(slow.tokens_trie)()
    for token in plain.values():
        twin.tokens_trie.add(token.content)
    # Some tokenize by the help of their token for the unknown.
    known = slow._special_tokens_map
    twin._special_tokens_map = {**dict.fromkeys(known), "unk_token": known.get("unk_token")}
    return twin


def pad_token_id(tokenizer: Any) -> int:
    """Token id for padded inputs: the pad token's, else the EOS token's, else 0."""
    return _first_id(tokenizer, "pad_token_id", "eos_token_id") or 0


def eos_token_id(tokenizer: Any) -> int | None:
    """Token id that ends a document; None if the tokenizer does not say."""
    return special_token_id(tokenizer, "eos")


def special_token_id(tokenizer: Any, kind: str) -> int | None:
    """Id of the special token ``"eos"`` or ``"bos"``; None if the tokenizer does not say."""
    return _first_id(tokenizer, f"{kind}_token_id", f"{kind}_id")


def _first_id(tokenizer: Any, *names: str) -> int | None:
    for inner in wrapped_tokenizers(tokenizer):
        for name in names:
            value = getattr(inner, name, None)
            if value is not None:
                return int(value)
    return None


def wrapped_tokenizers(tokenizer: Any) -> Iterator[Any]:
    """A tokenizer and those that it wraps at ``.tokenizer``, outermost first; none for None."""
    while tokenizer is not None:
        yield tokenizer
        tokenizer = getattr(tokenizer, "tokenizer", None)


def _encodes_batches(candidate: Any) -> bool:
    if hasattr(candidate, "encode_batch"):
        return True
    return callable(candidate) and hasattr(candidate, "get_vocab")
