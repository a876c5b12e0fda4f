"""The tokenizer that tokens are made with, trained here or an existing one; texts to token ids."""

import hashlib
import json
import logging
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.reading.batch_tokenizer import BatchTokenizer
from mosaic_dataloader.reading.pretrained import load_pretrained
from mosaic_dataloader.reading.tokenizer_identity import TokenizerIdentity, identify_tokenizer
from mosaic_prepare.options import PrepareOptions
from mosaic_prepare.progress import Progress
from mosaic_prepare.units import WorkUnit, documents

logger = logging.getLogger("mosaic_prepare")

BOS = "<|begin_of_text|>"
EOS = "<|end_of_text|>"

# More text changes a vocabulary little, and makes training slow and large.
TRAINING_BYTES = 1 << 30

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
        # numpy takes an array as it is, and would look at each integer of a list.
        tokens = array(dtype.char, begin)
        tokens.fromlist(ids)
        tokens.append(spec.eos_id)
        yield np.frombuffer(tokens, dtype) if ids else np.empty(0, dtype)


@lru_cache(maxsize=1)
def _batch_encoder(spec: TokenizerSpec) -> Callable[[list[str]], Iterable[list[int]]]:
    """A function from texts to lists of token ids: the loader's own, without special tokens."""
    if spec.definition is None:
        assert spec.slow is not None
        tokenizer = load_pretrained(spec.slow[0], json.loads(spec.slow[1]))
    else:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(spec.definition)
    return BatchTokenizer(
        tokenizer, add_special_tokens=False, parse_special_tokens=spec.parse_special
    ).ids


def train_tokenizer(
    units: Sequence[WorkUnit], directory: Path, options: PrepareOptions
) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer and save it where `AutoTokenizer` can load it offline.

    Of more than 1 GiB of input it learns from units spread evenly over it.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # The tokenizer's own bar writes control characters into log files.
    trainer = trainers.BpeTrainer(
        vocab_size=options.entries,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    total = sum(unit.size for unit in units)
    with Progress("reading for the tokenizer", min(total, TRAINING_BYTES)) as progress:
        chosen = units[:: max(1, -(-total // TRAINING_BYTES))]
        tokenizer.train_from_iterator(_texts(chosen, options, progress), trainer)
    size = tokenizer.get_vocab_size()
    if size != options.entries:
        raise MosaicDataError(
            f"prepare: the input yields a vocabulary of {size} entries, not {options.entries}; set "
            f"vocab_size to {size} or less, or give more text"
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    ).save_pretrained(directory)
    return {"vocab_size": size}


def _texts(units: Sequence[WorkUnit], options: PrepareOptions, progress: Progress) -> Iterator[str]:
    taken = 0
    for unit in units:
        for document in documents(unit, options):
            if isinstance(document, str) and document:
                yield document
                # Compressed input holds more text than its size says.
                taken += len(document)
                if taken >= TRAINING_BYTES:
                    return
        progress.advance(unit.size, unit.size, 0)


def file_identity(name: str | Path, kwargs: Mapping[str, Any]) -> str:
    """Say which tokenizer this is without loading it.

    A local directory is known by its contents, so that it may move; anything else by its name.
    """
    files = sorted(path for path in Path(name).glob("*") if _is_tokenizer_file(path))
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    known = f"sha256:{digest.hexdigest()}" if files else str(name)
    return f"{known} {json.dumps(dict(kwargs), sort_keys=True)}" if kwargs else known


def _is_tokenizer_file(path: Path) -> bool:
    """By its name: a model may be in the same directory, and a manifest holds no token."""
    return path.is_file() and (
        path.name.startswith(("tokenizer", "special_tokens", "added_tokens", "vocab", "merges"))
        or path.suffix in (".model", ".tiktoken")
    )


def load_tokenizer(
    name: str | Path, kwargs: Mapping[str, Any], options: PrepareOptions
) -> tuple[TokenizerSpec, TokenizerIdentity]:
    """Load a tokenizer, and say how workers are to use it."""
    try:
        tokenizer = load_pretrained(name, kwargs)
    except MosaicDataError as error:
        raise MosaicDataError(f"prepare: cannot load tokenizer {str(name)!r}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise MosaicDataError(
            f"prepare: tokenizer {str(name)!r} has no end-of-text token to end documents with; "
            f'name one of its tokens: tokenizer_kwargs = {{"eos_token": "…"}}'
        )
    if options.add_bos and tokenizer.bos_token_id is None:
        raise MosaicDataError(
            f"prepare: tokenizer {str(name)!r} has no begin-of-text token; leave add_bos out, or "
            f'name one of its tokens: tokenizer_kwargs = {{"bos_token": "…"}}'
        )
    ids = tokenizer("a")["input_ids"]
    if not options.add_bos and ids and ids[0] == tokenizer.bos_token_id:
        logger.info(
            "tokenizer %r begins every text with %r; documents are written without it (set add_bos "
            "to keep it)",
            str(name),
            tokenizer.bos_token,
        )
    identity = identify_tokenizer(tokenizer, str(name))
    assert identity is not None  # transformers' tokenizers are known
    fast = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    if fast is not None:
        fast.no_truncation()
        fast.no_padding()
    place = os.path.abspath(name) if os.path.isdir(name) else os.fspath(name)
    spec = TokenizerSpec(
        definition=None if fast is None else fast.to_str(),
        slow=None if fast is not None else (place, json.dumps(dict(kwargs))),
        eos_id=tokenizer.eos_token_id,
        bos_id=tokenizer.bos_token_id if options.add_bos else None,
        dtype=np.dtype(np.uint16 if identity.vocab_size <= 1 << 16 else np.uint32).name,
        parse_special=options.special_tokens == "parse",
    )
    return spec, identity
