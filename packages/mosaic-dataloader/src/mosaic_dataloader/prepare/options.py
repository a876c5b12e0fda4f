"""What to prepare, and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError

# Special tokens of a tokenizer trained here come on top of the 256 bytes.
SMALLEST_VOCABULARY = 256 + 2


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """What to prepare.

    Attributes:
        input: `"python-stdlib"` (the running Python's own library sources) or a glob of UTF-8 text
            files (`**` goes into subdirectories). Each file is one document.
        output: Directory for the MDS shards. It must not exist yet, unless `prepare` wrote it.
        seq_len: Training sequence length in tokens; rows have up to `seq_len + 1` tokens.
        train_tokenizer: Directory for a byte-level BPE tokenizer that is trained on the input.
            None: `tokenizer` is used.
        vocab_size: Entries of a trained tokenizer, special tokens included.
        tokenizer: Hugging Face name or local directory of an existing tokenizer.
        tokenizer_kwargs: Keywords for `AutoTokenizer.from_pretrained`.
        shard_bytes: Shard size limit in bytes, before compression.
    """

    input: str
    output: str | Path
    seq_len: int
    train_tokenizer: str | Path | None = None
    vocab_size: int = 2048
    tokenizer: str | Path | None = None
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)
    shard_bytes: int = 4 << 20

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            MosaicDataError: An option is missing, contradictory or out of range.
        """
        if (self.tokenizer is None) == (self.train_tokenizer is None):
            raise MosaicDataError(
                "prepare needs exactly one tokenizer: set either tokenizer (an existing one) or "
                "train_tokenizer (a directory for a new one)"
            )
        for name in ("output", "train_tokenizer"):
            if "://" in str(getattr(self, name)):
                raise MosaicDataError(
                    f"prepare: {name} must be a local directory, got {getattr(self, name)!r}; "
                    "copy it to its bucket afterwards"
                )
        if self.train_tokenizer is not None and Path(self.train_tokenizer) == Path(self.output):
            raise MosaicDataError(
                f"prepare: output and train_tokenizer are both {str(self.output)!r}; "
                "give each its own directory"
            )
        if self.seq_len < 1:
            raise MosaicDataError(f"prepare: seq_len must be at least 1, got {self.seq_len}")
        if self.train_tokenizer is not None and self.vocab_size < SMALLEST_VOCABULARY:
            raise MosaicDataError(
                f"prepare: vocab_size must be at least {SMALLEST_VOCABULARY} (256 bytes and the "
                f"special tokens), got {self.vocab_size}"
            )
        smallest = 64 * (self.seq_len + 1)
        if self.shard_bytes < smallest:
            raise MosaicDataError(
                f"prepare: shard_bytes={self.shard_bytes} is too small for rows of "
                f"{self.seq_len + 1} tokens; use at least {smallest}"
            )


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What a data set holds.

    Attributes:
        output: The MDS directory.
        tokenizer: Directory or name of the tokenizer that the rows were made with.
        created: False when everything was there already.
        documents: Documents in the rows.
        skipped: Files left out because they are not UTF-8 text.
        empty: Files left out because they hold no text.
        tokens: Tokens of all documents, joined by the end-of-text token.
        samples: Rows.
        shards: Shard files.
    """

    output: Path
    tokenizer: str
    created: bool
    documents: int
    skipped: int
    empty: int
    tokens: int
    samples: int
    shards: int
