"""What to prepare."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.arguments import checked, option, parse_bytes

# Special tokens of a tokenizer trained here come on top of the 256 bytes.
SMALLEST_VOCABULARY = 256 + 2


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Documents in, MDS shards out. A leading `~` of a path is the home directory."""

    input: str | Sequence[str] = option(
        MISSING,
        'Where the documents are: `"python-stdlib"` (the running Python\'s own library sources), '
        "paths and globs of local files (`**` descends into subdirectories), fsspec URLs (which "
        'may be globs too), or, with `input_format = "dataset"`, the name or directory of a '
        "Hugging Face data set. Files may be compressed (`.gz`, `.bz2`, `.xz`, `.zst`).",
        path=True,
    )
    output: str | Path = option(
        MISSING,
        "Directory or object store URL for the MDS shards. A directory must not exist yet, unless "
        "`prepare` wrote it.",
        path=True,
    )
    form: str = option(
        "rows",
        '`"rows"`: documents, each ended by the end-of-text token, joined and cut into rows of '
        "`seq_len + 1` tokens. A row begins with the last token of the row before, so that every "
        "token is a target once, except the first of a work unit (8 to 256 MiB of input). "
        '`"documents"`: a row of tokens for each document. `"text"`: the text as it is.',
        choices=("rows", "documents", "text"),
    )
    seq_len: int | None = option(
        None,
        'Training sequence length in tokens; required for `"rows"`, otherwise not accepted.',
        least=1,
        most=1 << 24,
    )
    document_ends: bool = option(
        True,
        "Write a column `document_ends` beside the rows' `tokens`: int32 offsets, in the row, of "
        "the tokens that end a document; a single -1 where none does.",
    )
    input_format: str = option(
        "auto",
        '`"text"`, `"jsonl"`, `"parquet"`, `"arrow"`, `"csv"`, `"tsv"` or `"dataset"`; `"auto"` '
        "goes by the file names.",
        choices=("auto", "text", "jsonl", "parquet", "arrow", "csv", "tsv", "dataset"),
    )
    text_columns: Sequence[str] = option(
        ("text",), "Columns that hold a document's text, in every format but text."
    )
    column_separator: str = option("\n\n", "Put between several columns.")
    document_separator: str | None = option(
        None, "Text between the documents of a text file. None: each file is one document."
    )
    dataset_config: str | None = option(None, "Configuration of a Hugging Face data set.")
    dataset_split: str | None = option(
        None,
        "Split of a Hugging Face data set. None: `train`, or all of a saved data set that is not "
        "split.",
    )
    dataset_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"text": "More keyword arguments for `datasets.load_dataset`."},
    )
    bad_input: str = option(
        "error",
        "What to do with input that is not a document (not UTF-8, broken JSON, a missing column, "
        'too long) and with damaged files: `"error"` stops there; `"skip"` leaves them out, a '
        "damaged file from where it cannot be read, and counts them.",
        choices=("error", "skip"),
    )
    max_document_bytes: int = option(
        64 << 20,
        "Size of the largest document that is accepted; bounds memory.",
        least=1,
        # A token per byte, four bytes per token, offsets of 32 bits.
        most=1 << 29,
    )
    tokenizer: str | Path | None = option(
        None, "Hugging Face name or local directory of an existing tokenizer.", path=True
    )
    tokenizer_kwargs: Mapping[str, Any] = field(
        default_factory=dict,
        metadata={"text": "Keyword arguments for `AutoTokenizer.from_pretrained`."},
    )
    train_tokenizer: str | Path | None = option(
        None,
        "Directory for a byte-level BPE tokenizer that is trained on the input. None: `tokenizer` "
        "is used.",
        path=True,
    )
    vocab_size: int | None = option(
        None, "Entries of a trained tokenizer, special tokens included. None: 2,048.", least=1
    )
    add_bos: bool = option(False, "Begin each document with the tokenizer's begin-of-text token.")
    special_tokens: str = option(
        "text",
        '`"text"`: text that happens to spell a special token is text; `"parse"`: it becomes that '
        "token.",
        choices=("text", "parse"),
    )
    split_validation: float = option(
        0.0,
        "Share of the documents that goes into `validation/`, the rest into `train/`; chosen by a "
        "hash of the text, so that equal documents go to the same side.",
        least=0,
    )
    compression: str | None = option(
        None, 'A name that mosaicml-streaming knows, such as `"zstd"` or `"zstd:7"`.'
    )
    hashes: Sequence[str] = option(
        ("xxh64",),
        "Hash algorithms of mosaicml-streaming; the index holds these hashes of each shard.",
    )
    shard_bytes: int = option(
        64 << 20,
        "Shard size limit in bytes, before compression.",
        least=1,
        # mosaicml-streaming's offsets have 32 bits.
        most=(1 << 32) - 1,
    )
    engine: str = option(
        "processes",
        '`"processes"` on this machine, or a `"ray"` cluster, whose machines must share the output '
        "directory (or the output is an object store). The result is the same.",
        choices=("processes", "ray"),
    )
    processes: int | None = option(
        None, "Processes that tokenize. None: one for each core.", least=1, most=4096
    )
    address: str | None = option(
        None,
        "Address of the Ray cluster. None: the one that Ray finds, else one on this machine.",
    )
    work_dir: str | Path | None = option(
        None,
        "Local directory for shards that wait to be uploaded to an output URL. None: the "
        "temporary directory.",
        path=True,
    )

    @property
    def inputs(self) -> tuple[str, ...]:
        """`input` as a list."""
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)

    @property
    def entries(self) -> int:
        """Entries of a trained tokenizer."""
        return 2048 if self.vocab_size is None else self.vocab_size

    @property
    def remote(self) -> bool:
        """Whether the output is an object store."""
        return "://" in os.fspath(self.output)

    @property
    def splits(self) -> tuple[str, ...]:
        """Sub-directories of the output; a single empty name where it is not split."""
        return ("train", "validation") if self.split_validation else ("",)

    def __post_init__(self) -> None:
        """Refuse what cannot work.

        Raises:
            MosaicDataError: An option is missing, contradictory or out of range.
        """
        for name in ("output", "tokenizer", "train_tokenizer", "work_dir"):
            given = getattr(self, name)
            if given is not None:
                place = os.fspath(given).removeprefix("file://")
                # Its type stays: a `Path` loses a "./" that a name on the hub does not have.
                object.__setattr__(self, name, type(given)(os.path.expanduser(place)))
        # The command line and a TOML file give sizes as text, such as "64mb".
        for name in ("max_document_bytes", "shard_bytes"):
            size = getattr(self, name)
            if isinstance(size, str):
                object.__setattr__(self, name, parse_bytes(f"prepare: {name}", size))
        for one in fields(self):
            value = checked(one, f"prepare: {one.name}", getattr(self, one.name))
            object.__setattr__(self, one.name, value)
        for mistake in (*self._mistakes(), *self._tokenizer_mistakes()):
            raise MosaicDataError(f"prepare: {mistake}")

    def _mistakes(self) -> Iterator[str]:
        if not self.inputs or not all(self.inputs):
            yield "input is empty; give a glob of files or a URL"
        named = self.dataset_config or self.dataset_split or self.dataset_kwargs
        if named and self.input_format != "dataset":
            yield ('dataset_config, dataset_split and dataset_kwargs need input_format = "dataset"')
        if self.input_format == "dataset" and len(self.inputs) > 1:
            yield "give one data set at a time as input"
        if not self.text_columns or isinstance(self.text_columns, str):
            yield "text_columns must be a list of column names"
        if self.column_separator != "\n\n" and len(self.text_columns) == 1:
            yield "column_separator is put between several text_columns, but only one is given"
        if self.document_separator == "":
            yield "document_separator is empty; leave it out or give one"
        if self.processes is not None and self.engine == "ray":
            yield 'leave out processes with engine = "ray", which starts a process for each core'
        if self.address is not None and self.engine != "ray":
            yield f'address = {self.address!r} needs engine = "ray"'
        if self.work_dir is not None and not self.remote:
            yield "work_dir is for outputs that are URLs; leave it out"
        if self.form != "rows" and not self.document_ends:
            yield 'document_ends is a column of form = "rows"; leave it out'
        if self.split_validation >= 1:
            yield (
                f"split_validation = {self.split_validation} must be a share between 0 and 1, such "
                f"as 0.01"
            )
        least = 64 * ((self.seq_len or 15) + 1)
        if self.shard_bytes < least:
            yield f"shard_bytes = {self.shard_bytes} must be at least {least}, room for 64 rows"

    def _tokenizer_mistakes(self) -> Iterator[str]:
        given = [name for name in ("tokenizer", "train_tokenizer") if getattr(self, name)]
        if self.form == "text":
            given += [name for name in ("seq_len", "vocab_size") if getattr(self, name) is not None]
            if given or self.tokenizer_kwargs or self.add_bos or self.special_tokens != "text":
                yield (
                    'form = "text" writes the text as it is; leave out tokenizer, '
                    "tokenizer_kwargs, train_tokenizer, vocab_size, seq_len, add_bos and "
                    "special_tokens"
                )
            return
        if len(given) != 1:
            yield (
                "there must be exactly one tokenizer: set either tokenizer (an existing one) or "
                "train_tokenizer (a directory for a new one)"
            )
        if self.train_tokenizer is None:
            if self.vocab_size is not None:
                yield (
                    "vocab_size is for a tokenizer that is trained here; leave it out, or give "
                    "train_tokenizer"
                )
        else:
            place = str(self.train_tokenizer)
            if "://" in place:
                yield f"train_tokenizer must be a local directory, got {place!r}"
            if Path(place) == Path(self.output):
                yield f"output and train_tokenizer are both {place!r}; give each its own directory"
            if self.entries < SMALLEST_VOCABULARY:
                yield (
                    f"vocab_size must be at least {SMALLEST_VOCABULARY} (256 bytes and the special "
                    f"tokens), got {self.vocab_size}"
                )
            if self.tokenizer_kwargs:
                yield (
                    "tokenizer_kwargs are for an existing tokenizer; leave them out with "
                    "train_tokenizer"
                )
        if self.form == "documents" and self.seq_len is not None:
            yield 'seq_len is not accepted with form = "documents", which are not cut'
        if self.form == "rows" and self.seq_len is None:
            yield 'form = "rows" needs seq_len, the length that training uses'


# Each text stands once, at its field; `help()`, the API reference and `mosaic-prepare --help` read
# them here.
PrepareOptions.__doc__ = "\n".join(
    [
        PrepareOptions.__doc__ or "",
        "\nAttributes:",
        *(f"    {field.name}: {field.metadata['text']}" for field in fields(PrepareOptions)),
    ]
)
