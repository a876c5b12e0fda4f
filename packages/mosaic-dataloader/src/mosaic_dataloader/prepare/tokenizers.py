"""The tokenizer that the rows are made with: trained here, or an existing one."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.manifest import write_manifest
from mosaic_dataloader.prepare.progress import Progress
from mosaic_dataloader.prepare.rows import Tokens
from mosaic_dataloader.prepare.sources import Source, read_text

BOS = "<|begin_of_text|>"
EOS = "<|end_of_text|>"


def train_tokenizer(
    sources: Sequence[Source], directory: Path, *, vocab_size: int, options: Mapping[str, Any]
) -> None:
    """Train a byte-level BPE tokenizer and save it where `AutoTokenizer` can load it offline.

    Args:
        sources: Documents to learn from.
        directory: Existing, empty directory.
        vocab_size: Entries to reach, special tokens included.
        options: What goes into the directory's manifest.

    Raises:
        MosaicDataError: The text is too small for so large a vocabulary.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    # The tokenizer's own bar writes control characters into log files.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[BOS, EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    with Progress("reading for the tokenizer", sum(source.size for source in sources)) as progress:
        tokenizer.train_from_iterator(_texts(sources, progress), trainer)
    size = tokenizer.get_vocab_size()
    if size != vocab_size:
        raise MosaicDataError(
            f"prepare: the input yields a vocabulary of {size}, not of {vocab_size}; "
            f"set vocab_size to {size} or less, or give more text"
        )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, clean_up_tokenization_spaces=False
    ).save_pretrained(directory)
    write_manifest(directory, options, {"vocab_size": size, "documents": len(sources)})


def _texts(sources: Sequence[Source], progress: Progress) -> Iterator[str]:
    for source in sources:
        text = read_text(source)
        progress.advance(source.size)
        if text:
            yield text


def identify(name: str | Path, kwargs: Mapping[str, Any]) -> str:
    """Say which tokenizer this is without loading it.

    A local directory is known by its contents, so that it may move; anything else by its name.
    """
    file = Path(name) / "tokenizer.json"
    digest = (
        "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else str(name)
    )
    return f"{digest} {json.dumps(dict(kwargs), sort_keys=True)}" if kwargs else digest


class DocumentEncoder:
    """Turns batches of documents into token ids.

    Args:
        name: Hugging Face name or local directory.
        kwargs: Keywords for `AutoTokenizer.from_pretrained`.

    Attributes:
        eos_id: The end-of-text token.
        dtype: Smallest unsigned type, of 16 or 32 bits, that holds every id.

    Raises:
        MosaicDataError: The tokenizer cannot be loaded or has no end-of-text token.
    """

    def __init__(self, name: str | Path, kwargs: Mapping[str, Any]) -> None:
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(os.fspath(name), **kwargs)
        except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MosaicDataError(
                f"prepare: cannot load tokenizer {str(name)!r}: {reason}"
            ) from error
        if tokenizer.eos_token_id is None:
            raise MosaicDataError(
                f"prepare: tokenizer {str(name)!r} has no end-of-text token to put between "
                "documents; set one with the tokenizer keyword eos_token"
            )
        self.eos_id: int = tokenizer.eos_token_id
        self.vocab_size: int = max(tokenizer.get_vocab().values()) + 1
        self.dtype = np.dtype(np.uint16 if self.vocab_size <= 1 << 16 else np.uint32)
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer if tokenizer.is_fast else None
        if self._backend is not None:
            # Text that happens to spell a special token is text.
            self._backend.encode_special_tokens = True
            self._backend.no_truncation()
            self._backend.no_padding()

    def encode(self, texts: list[str]) -> list[Tokens]:
        """Token ids of each text, shape `[n]` each, without special tokens."""
        if self._backend is None:
            lists = self._tokenizer(
                texts, add_special_tokens=False, split_special_tokens=True, truncation=False
            )["input_ids"]
        else:
            batch = getattr(self._backend, "encode_batch_fast", self._backend.encode_batch)
            lists = [encoding.ids for encoding in batch(texts, add_special_tokens=False)]
        return [np.array(ids, dtype=self.dtype) for ids in lists]
