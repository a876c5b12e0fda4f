"""`[mosaic_prepare]`: data that the launcher builds once, before training."""

from dataclasses import dataclass


@dataclass
class MosaicPrepare:
    """Text in, MDS shards out. Nothing is prepared unless `input` is given."""

    input: str | None = None
    """
    Text to tokenize: "python-stdlib" (the standard library's own source files) or a glob of text
    files. None: prepare nothing.
    """

    output: str | None = None
    """Directory that the MDS shards are written to."""

    train_tokenizer: str | None = None
    """
    Directory in which a newly trained byte-level BPE tokenizer is written. None: tokenize with
    mosaic_tokenizer.name.
    """

    vocab_size: int = 2048
    """Entries of the newly trained tokenizer."""

    seq_len: int | None = None
    """Tokens per row. None: training.seq_len."""
