"""The tokenizer that tokens are made with: trained here, or an existing one."""

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mosaic_dataloader.builders.pretrained import load_pretrained
from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.blocks import Bad
from mosaic_dataloader.prepare.corpus.corpus import Corpus
from mosaic_dataloader.prepare.encode import EncoderSpec
from mosaic_dataloader.prepare.options import PrepareOptions
from mosaic_dataloader.prepare.progress import Progress
from mosaic_dataloader.reading.tokenizer_identity import TokenizerIdentity, identify_tokenizer

logger = logging.getLogger("mosaic_dataloader.prepare")

BOS = "<|begin_of_text|>"
EOS = "<|end_of_text|>"

# More text changes a vocabulary little, and makes training slow and large.
TRAINING_BYTES = 1 << 30


def train_tokenizer(corpus: Corpus, directory: Path, options: PrepareOptions) -> dict[str, Any]:
    """Train a byte-level BPE tokenizer and save it where `AutoTokenizer` can load it offline.

    Of a corpus of more than 1 GiB it learns from blocks spread evenly over it; where nobody knows
    its size, from its beginning.

    Args:
        corpus: Documents to learn from.
        directory: Existing, empty directory.
        options: Size of the vocabulary, and what to do with bad input.

    Returns:
        Facts for its manifest.

    Raises:
        MosaicDataError: The text is too small for so large a vocabulary, or cannot be read.
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
    total = min(corpus.total or TRAINING_BYTES, TRAINING_BYTES)
    with Progress("reading for the tokenizer", total) as progress:
        tokenizer.train_from_iterator(_texts(corpus, options, progress), trainer)
    size = tokenizer.get_vocab_size()
    if size != options.entries:
        raise MosaicDataError(
            f"prepare: the input yields a vocabulary of {size}, not of {options.entries}; "
            f"set vocab_size to {size} or less, or give more text"
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    ).save_pretrained(directory)
    return {"vocab_size": size}


def _texts(corpus: Corpus, options: PrepareOptions, progress: Progress) -> Iterator[str]:
    stride = max(1, -(-(corpus.total or 0) // TRAINING_BYTES))
    read = 0
    for number, block in enumerate(corpus.blocks((0,))):
        if number % stride:
            continue
        for document in block.documents():
            if isinstance(document, str):
                if document:
                    yield document
            else:
                refuse_bad(document, options)
        read += block.size
        progress.advance(block.size, block.size, 0)
        if read >= TRAINING_BYTES:
            return


def refuse_bad(bad: Bad, options: PrepareOptions) -> None:
    """Stop at what is no document, unless it is to be skipped.

    Raises:
        MosaicDataError: It is not.
    """
    if options.bad_input == "error":
        raise MosaicDataError(
            f'prepare: {bad}; mend it, or leave such input out with bad_input = "skip"'
        )


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
    """By its name: a model may lie in the same directory, and a manifest tells of no token."""
    return path.is_file() and (
        path.name.startswith(("tokenizer", "special_tokens", "added_tokens", "vocab", "merges"))
        or path.suffix in (".model", ".tiktoken")
    )


def load_tokenizer(
    name: str | Path, kwargs: Mapping[str, Any], options: PrepareOptions
) -> tuple[EncoderSpec, TokenizerIdentity]:
    """Load a tokenizer, and say how workers are to use it.

    Args:
        name: Hugging Face name or local directory.
        kwargs: Keywords for `AutoTokenizer.from_pretrained`.
        options: What is written.

    Raises:
        MosaicDataError: The tokenizer cannot be loaded or lacks a token.
    """
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
    if not options.add_bos and _begins_with_bos(tokenizer):
        logger.info(
            "tokenizer %r begins every text with %r; documents are written without it (set add_bos "
            "to have it)",
            str(name),
            tokenizer.bos_token,
        )
    identity = identify_tokenizer(tokenizer, str(name))
    assert identity is not None  # transformers' tokenizers are known
    fast = tokenizer.backend_tokenizer if tokenizer.is_fast else None
    if fast is not None:
        fast.no_truncation()
        fast.no_padding()
    return (
        EncoderSpec(
            form=options.form,
            definition=None if fast is None else fast.to_str(),
            slow=None if fast is not None else (os.fspath(name), dict(kwargs)),
            eos_id=tokenizer.eos_token_id,
            bos_id=tokenizer.bos_token_id if options.add_bos else None,
            dtype=np.dtype(np.uint16 if identity.vocab_size <= 1 << 16 else np.uint32).name,
            parse_special=options.special_tokens == "parse",
            split_validation=options.split_validation,
        ),
        identity,
    )


def _begins_with_bos(tokenizer: Any) -> bool:
    ids = tokenizer("a")["input_ids"]
    return bool(ids) and tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id
