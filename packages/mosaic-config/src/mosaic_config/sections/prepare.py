"""`[mosaic_prepare]`: data that the launcher builds once, before training."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class MosaicPrepare:
    """Documents in, MDS shards out, as `mosaic-prepare` does it. Nothing without an `input`."""

    input: str | list[str] | None = None
    """
    The documents: "python-stdlib" (the standard library's own source files), a path or glob of
    files, an fsspec URL, a list of these, or, with input_format = "dataset", the name or directory
    of a Hugging Face data set. Files may be compressed (.gz, .bz2, .xz, .zst). None: prepare
    nothing.
    """

    output: str | None = None
    """Directory or object-store URL that the MDS shards are written to."""

    form: Literal["rows", "documents", "text"] = "rows"
    """
    "rows": documents, each ended by the end-of-text token, joined and cut into rows of `seq_len` +
    1 tokens. "documents": a row of tokens for each document. "text": the text, tokenized during
    training.
    """

    seq_len: int | None = field(default=None, metadata={"least": 1})
    """Targets per row, for form = "rows". None: training.seq_len."""

    document_ends: bool = True
    """
    Write a column `document_ends` beside the rows' `tokens`: int32 offsets, in the row, of the
    tokens that end a document; a single -1 where none does.
    """

    input_format: Literal["auto", "text", "jsonl", "parquet", "arrow", "csv", "tsv", "dataset"] = (
        "auto"
    )
    """Format of the input. "auto": by the files' names."""

    text_columns: list[str] = field(default_factory=lambda: ["text"])
    """Columns that hold a document's text, in every format but text."""

    column_separator: str = "\n\n"
    """Put between several columns."""

    document_separator: str | None = None
    """What lies between the documents of a text file. None: each file is one document."""

    dataset_config: str | None = None
    """Configuration of a Hugging Face data set."""

    dataset_split: str | None = None
    """
    Split of a Hugging Face data set. None: "train", or all of a saved data set that is not split.
    """

    dataset_kwargs: dict[str, Any] = field(default_factory=dict)
    """Further keywords for `datasets.load_dataset_builder`, such as revision."""

    bad_input: Literal["error", "skip"] = "error"
    """
    What to do with input that is not a document (not UTF-8, broken JSON, too long) and with damaged
    files: stop, or leave them out (a damaged file from where it cannot be read) and count them.
    """

    max_document_bytes: int | str = field(default="64mb", metadata={"least": 1})
    """Size of the largest document that is accepted, as a number or like "64mb"."""

    train_tokenizer: str | None = None
    """
    Directory in which a newly trained byte-level BPE tokenizer is written. None: tokenize with
    mosaic_tokenizer.name.
    """

    vocab_size: int | None = field(default=None, metadata={"least": 1})
    """Entries of the newly trained tokenizer. None: 2,048."""

    add_bos: bool = False
    """Begin each document with the tokenizer's begin-of-text token."""

    special_tokens: Literal["text", "parse"] = "text"
    """Whether text that spells a special token is text, or becomes that token ("parse")."""

    split_validation: float = field(default=0.0, metadata={"least": 0})
    """
    Share of the documents that goes into the subdirectory "validation", the others into "train"
    (the streams' `split`). 0: no split.
    """

    compression: str | None = None
    """Compression of the shards, as mosaicml-streaming names it: "zstd", "zstd:7", "gz", …"""

    hashes: list[str] = field(default_factory=lambda: ["xxh64"])
    """Hashes of each shard that the index holds, for `validate_hash`."""

    shard_bytes: int | str = field(default="64mb", metadata={"least": 1})
    """Largest shard before compression, as a number or like "64mb"."""

    engine: Literal["processes", "ray"] = "processes"
    """
    Processes of this machine, or a Ray cluster, whose machines share the output directory (or the
    output is an object store). The result does not depend on it.
    """

    processes: int | None = field(default=None, metadata={"least": 1})
    """Processes that tokenize. None: one for each core."""

    address: str | None = None
    """Address of the Ray cluster. None: the one that Ray finds, else a local one."""

    work_dir: str | None = None
    """Where the shards of an `output` URL are on their way. None: the temporary directory."""
