"""`[mosaic_prepare]`: data that the launcher builds once, before training."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class MosaicPrepare:
    """Documents in, MDS shards out, as `mosaic-prepare` does it. Nothing without an `input`."""

    input: str | list[str] | None = None
    """
    The documents: "python-stdlib" (the standard library's own source files), a glob of files, an
    fsspec URL, a list of these, or, with input_format = "dataset", the name or directory of a
    Hugging Face data set. Files may be compressed (.gz, .bz2, .xz, .zst). None: prepare nothing.
    """

    output: str | None = None
    """Directory or object-store URL that the MDS shards are written to."""

    form: Literal["rows", "documents", "text"] = "rows"
    """
    "rows": documents joined by the end-of-text token, in rows of `seq_len` + 1 tokens. "documents":
    a row of tokens for each document. "text": the text, tokenized during training.
    """

    seq_len: int | None = None
    """Targets per row, for form = "rows". None: training.seq_len."""

    input_format: Literal["auto", "text", "jsonl", "parquet", "dataset"] = "auto"
    """Format of the input. "auto": by the files' names."""

    text_columns: list[str] = field(default_factory=lambda: ["text"])
    """Columns that hold a document's text in JSON Lines, Parquet and data sets."""

    column_separator: str = "\n\n"
    """Put between several columns."""

    document_separator: str | None = None
    """What lies between the documents of a text file. None: each file is one document."""

    dataset_config: str | None = None
    """Configuration of a Hugging Face data set."""

    dataset_split: str = "train"
    """Split of a Hugging Face data set."""

    dataset_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further keywords for `datasets.load_dataset_builder`, such as revision."""

    bad_input: Literal["error", "skip"] = "error"
    """
    What to do with what is no document (not UTF-8, broken JSON, too long): stop, or leave it out
    and count it.
    """

    max_document_bytes: int | str = "64mb"
    """Largest document, or line of JSON Lines, that is taken, as a number or like "64mb"."""

    train_tokenizer: str | None = None
    """
    Directory in which a newly trained byte-level BPE tokenizer is written. None: tokenize with
    mosaic_tokenizer.name.
    """

    vocab_size: int | None = None
    """Entries of the newly trained tokenizer. None: 2,048."""

    add_bos: bool = False
    """Begin each document with the tokenizer's begin-of-text token."""

    special_tokens: Literal["text", "parse"] = "text"
    """Whether text that spells a special token is text, or becomes that token ("parse")."""

    split_validation: float = 0.0
    """
    Share of the documents that goes into the subdirectory "validation", the others into "train"
    (the streams' `split`). 0: no split.
    """

    compression: str | None = None
    """Compression of the shards, as mosaicml-streaming names it: "zstd", "zstd:7", "gz", …"""

    hashes: list[str] = field(default_factory=lambda: ["xxh64"])
    """Hashes of each shard that the index holds, for `validate_hash`."""

    shard_bytes: int | str = "64mb"
    """Largest shard before compression, as a number or like "64mb"."""

    processes: int | None = None
    """Processes that tokenize. None: one for each core. The result does not depend on it."""

    work_dir: str | None = None
    """Where the shards of an `output` URL lie on their way. None: in the temporary directory."""
