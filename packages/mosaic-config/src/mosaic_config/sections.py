"""The sections, generated from the options of mosaic-dataloader and mosaic-prepare.

Do not edit: change `mosaic_dataloader.options`, `mosaic_dataloader.order.options` or
`mosaic_prepare.options`, then run `python tools/generate_sections.py`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class MosaicStream:
    """One MDS directory of a mixture, and its weight in it.

    Give at most one of `proportion`, `repeat` and `choose`. If one stream has a `proportion`, all
    must. Options left out (None) take the value of `[mosaic_dataloader.dataset]`.
    """

    remote: str | None = None
    """
    Object-store URL or directory that holds the shards. None: the data is already complete in
    `local`. One of `remote` and `local` is needed.
    """

    local: str | None = None
    """
    Directory that shards are downloaded to, or read from when there is no `remote`. None: the
    loader chooses one.
    """

    split: str | None = None
    """Subdirectory of `remote` and `local` to read, such as "train". None: the dataset's."""

    proportion: float | None = field(default=None, metadata={"least": 0})
    """
    Relative weight: this stream's share of the samples of an epoch, divided by the sum over all
    streams. Not negative. None: not weighted by proportion.
    """

    repeat: float | None = field(default=None, metadata={"least": 0})
    """
    Absolute weight: how often this stream's samples appear in an epoch. 0.5 is half of them, 2.0
    each twice. Not negative. None: not weighted by repetition.
    """

    choose: int | None = field(default=None, metadata={"least": 0})
    """
    Absolute weight: number of samples drawn from this stream in an epoch. Not negative. None: not
    weighted by a count.
    """

    max_repeats: float | None = field(default=None, metadata={"above": 0})
    """
    How often this stream's samples may be seen in the planned run, on average. None: the dataset's.
    """

    download_retry: int | None = field(default=None, metadata={"least": 0})
    """Further attempts after a failed download. None: the dataset's."""

    download_timeout: float | None = field(default=None, metadata={"above": 0, "most": 604800})
    """Seconds that one attempt to download a shard may take. None: the dataset's."""

    validate_hash: str | None = None
    """
    Hash algorithm that downloaded shards are checked with, one of those that they were written
    with. None: the dataset's.
    """

    keep_zip: bool | None = None
    """Whether compressed shards are kept after decompression. None: the dataset's."""


@dataclass
class MosaicDataset:
    """The data and its order. Names and meanings are mosaicml-streaming's where it has them.

    Give either `streams` or `remote` / `local`.
    """

    streams: dict[str, MosaicStream] = field(default_factory=dict)
    """
    The mixture: one table [mosaic_dataloader.dataset.streams.NAME] for each stream. NAME is your
    own; progress is reported and checkpointed under it.
    """

    remote: str | None = None
    """Object-store URL or directory of a single data set, in place of `streams`."""

    local: str | None = None
    """
    Directory that the single data set is downloaded to, or read from when there is no `remote`.
    None: the loader chooses one.
    """

    split: str | None = None
    """Subdirectory of `remote` and `local` to read, such as "train". None: read them directly."""

    shuffle: bool = False
    """Whether an epoch is shuffled. False: stored order, stream after stream."""

    shuffle_algo: Literal["py1e", "py1s", "py2s", "py1br", "naive", "feistel"] = "py1e"
    """
    How to shuffle; all but "feistel" are mosaicml-streaming's. "py1e" spreads each shard over a
    range of `shuffle_block_size` samples, "py1br" shuffles inside blocks, "py1s" and "py2s" shuffle
    shards and the samples in each canonical node's part, "naive" shuffles everything and so needs
    every shard at once. "feistel" is this loader's own, for hundreds of millions of samples: it
    shuffles inside windows of `shuffle_block_size` samples and computes any position at once, with
    no list of the epoch.
    """

    shuffle_seed: int = field(default=9176, metadata={"least": 0, "most": 18446744073709551615})
    """Seed of the order; not negative. It also seeds the resampling of weighted streams."""

    shuffle_block_size: int | None = field(default=None, metadata={"least": 2})
    """Samples per shuffle block. None: max(4,000,000 / num_canonical_nodes, 262,144)."""

    num_canonical_nodes: int | None = field(default=None, metadata={"least": 1})
    """
    Parts that an epoch is cut into for shuffling, each with shards of its own. None: the number of
    nodes of the first run (64 times as many for "py1s" and "py2s"); kept when resuming.
    """

    sampling_method: Literal["balanced", "fixed"] = "balanced"
    """
    How a stream that is not used whole is subsampled. "balanced": again in each epoch, evenly over
    shards. "fixed": the same samples in every epoch.
    """

    sampling_granularity: int = field(default=1, metadata={"least": 1})
    """Samples drawn from one shard at a time when a stream is subsampled."""

    batching_method: Literal["random", "stratified", "per_stream", "device_per_stream"] = "random"
    """
    How streams share a batch. "random": by the shuffled mixture. "stratified": each batch holds the
    streams' proportions. "per_stream": a batch is of one stream. "device_per_stream": each device's
    batch is of one stream. All but "random" tie the order to the global batch size.
    """

    token_encoding_type: Literal[
        "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"
    ] = "int64"
    """
    NumPy dtype of the tokens in `bytes` columns, such as "uint16" (llm-foundry's meaning).
    `ndarray` columns carry their own.
    """

    packing: bool = False
    """
    Whether documents (text, or stored tokens of one document each) are joined into full rows, with
    EOS between them. False: each document is one row, cut or padded. Needs batching_method =
    "random".
    """

    packing_lanes: int | None = field(default=None, metadata={"least": 1})
    """
    Sequences in which documents are joined side by side; the number of data-parallel ranks must
    divide it. None: the smallest multiple of 960 that is at least 4 times the data-parallel ranks
    of the first run; kept when resuming.
    """

    positions: bool = False
    """
    Whether batches also hold the position of each token in its document, int64[B, T]; 0 at the
    first token of each document and of each row. For models that mask documents by it. Documents
    end where the data's column `document_ends` says, else at EOS; with packing they are the ones
    that were packed.
    """

    mask_boundaries: bool = False
    """
    Whether the label that would predict the first token of the next document from the last one of
    this is ignored. Documents end where `positions` says.
    """

    epoch_size: int | str | None = field(default=None, metadata={"least": 1})
    """
    Samples in an epoch, as a number or like "100k" or "64M". None: the size of the data. Not
    together with `repeat` or `choose`.
    """

    predownload: int | None = field(default=None, metadata={"least": 0})
    """
    Samples ahead of training for which shards are fetched. None: 8 times the batch size, at least
    64, and at least 16 shards, or 2 where 16 are more than 256 MiB.
    """

    cache_limit: int | str | None = field(default=None, metadata={"least": 1})
    """
    Most bytes that downloaded shards may take, as a number or like "100gb"; the least recently used
    are removed. Where running loaders share a directory, the smallest of their limits holds. None:
    no limit.
    """

    cache_dir: str | None = None
    """
    Directory for locks, computed orders and downloads without a `local`, on a local disk. None: a
    folder of this user's in the temporary directory.
    """

    download_retry: int = field(default=2, metadata={"least": 0})
    """
    Further attempts after a failed download that may succeed later, after pauses that grow from 1 s
    to 30 s. What is missing or denied fails at once.
    """

    download_timeout: float = field(default=60.0, metadata={"above": 0, "most": 604800})
    """Seconds that one attempt to download a shard may take, from its first to its last byte."""

    validate_hash: str | None = None
    """
    Hash algorithm that shards are checked with, such as "xxh64"; one of those that they were
    written with. Each process also checks once what it finds in the cache. None: the fastest of
    those in the index; shards that are read in place are not hashed then.
    """

    keep_zip: bool = False
    """Whether compressed shards are kept after decompression."""

    allow_unsafe_types: bool = False
    """Whether columns in Python's pickle format, which can run code when read, are accepted."""

    on_data_change: Literal["error", "restart_epoch", "new_stage"] = "error"
    """
    What a resume does when the data, the mixture or an option that changes the order differs from
    the checkpoint's. "error": stop and name it. "restart_epoch": begin the epoch again.
    "new_stage", with stages: begin a new stage with the present ones, in which every stream
    continues where it is.
    """

    weights_in: Literal["samples", "tokens"] = "samples"
    """
    What `proportion` and the weights of stages count. "tokens": by the mean length of each stream's
    samples, by mosaic-prepare's manifest, the sizes in the index, or some samples that are read
    when the stream comes into the run; kept when resuming.
    """

    max_repeats: float | None = field(default=None, metadata={"above": 0})
    """
    How often a stream's samples may be seen in the planned run, on average; what a resumed run has
    seen before counts. A stream that would be seen more often is an error before the first step.
    None: more than 4 times is a warning. Not for validation.
    """

    skip: list[str] = field(default_factory=lambda: [])
    """
    Positions that are left out of training, such as ["1200000:1250000"]: the first one and the one
    after the last. Positions count the samples of the order from the beginning of the run, or with
    packing its rows, as --inspect-data prints them. With packing, the number of rows in a range
    must be a multiple of the packing lanes. Positions before the one at which a run resumes have no
    effect. Not for validation.
    """

    stages: list[dict[str, Any]] = field(default_factory=list)
    """
    A mixture that changes during the run, in place of epochs: one table
    [[mosaic_dataloader.dataset.stages]] for each stage, with `weights` of streams by name, and its
    length in `samples` or `tokens` (a number or "2T"), which the last one leaves out. Not for
    validation. On the command line, stages are numbered from 1:
    --mosaic_dataloader.dataset.stages.2.weights.NAME 0.3; or all of them are given as TOML, in one
    argument: '[{samples = 1000, weights = {a = 1}}, {weights = {b = 1}}]'.
    """

    max_seq_len: int | None = field(default=None, metadata={"least": 1})
    """
    Tokens in a row. Kept for configurations written for llm-foundry: if given, it must equal
    training.seq_len (validation.seq_len in [mosaic_validation_dataloader]). None: take that.
    """

    partition_algo: Literal["relaxed"] = "relaxed"
    """mosaicml-streaming's name for an order that fits any number of ranks; it always does here."""


@dataclass
class MosaicDataloader:
    """How batches are built. Batch size and row length are TorchTitan's own `[training]` keys."""

    name: Literal["text"] = "text"
    """Kind of loader. "text" (rows of tokens for a language model) is the only one."""

    num_workers: int = field(default=0, metadata={"least": 0})
    """
    Worker processes per rank. 0: a thread of the training process builds the batches, which is the
    faster choice for tokenized data.
    """

    prefetch_factor: int | None = field(default=None, metadata={"least": 1})
    """
    Batches that each worker builds ahead, or the thread where there are no workers; at least 1.
    None: 2 for each worker; for the thread as many as fit into 16 MiB, but 2 to 16.
    """

    pin_memory: bool = False
    """Whether batches are put in page-locked memory, from which copies to a GPU are faster."""

    persistent_workers: bool = False
    """Whether workers stay between iterations. Needs num_workers > 0."""

    stall_warning: float = field(default=60.0, metadata={"above": 0, "most": 604800})
    """
    Seconds without a batch after which a line in the log says what is waited for, and again each
    minute until the batch comes; at debug level with the stacks of all threads.
    """

    drop_last: bool = True
    """
    Whether a finite training iteration leaves out a last batch that is not full. False: it is
    padded with rows whose labels are all ignored. Training itself does not end with an epoch, and
    validation always uses every sample.
    """

    skip_samples: int = field(default=0, metadata={"least": 0})
    """
    Samples of the order that a new run leaves out at its start, over all ranks together. It is for
    runs without a checkpoint: a loaded data position counts from the beginning of the order and
    wins, so that nothing is skipped twice. With packing, these are documents. Not for validation.
    """

    dataset: MosaicDataset = field(default_factory=MosaicDataset)
    """Which samples, and in which order."""


@dataclass
class MosaicTokenizer:
    """The tokenizer for text columns; rows stored as tokens need none."""

    name: str | None = None
    """Name on the Hugging Face Hub, or a local directory. None: the data holds tokens already."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    """
    Keyword arguments for AutoTokenizer.from_pretrained. On the command line a value is read as TOML
    (2048, true, 0.5, [1, 2]), and as a string if it is not TOML.
    """


@dataclass
class MosaicPrepare:
    """Documents in, MDS shards out. A leading `~` of a path is the home directory."""

    input: str | list[str] | None = None
    """
    Where the documents are: `"python-stdlib"` (the running Python's own library sources), paths and
    globs of local files (`**` descends into subdirectories), fsspec URLs (which may be globs too),
    or, with `input_format = "dataset"`, the name or directory of a Hugging Face data set. Files may
    be compressed (`.gz`, `.bz2`, `.xz`, `.zst`). None: nothing is prepared.
    """

    output: str | None = None
    """
    Directory or object store URL for the MDS shards. A directory must not exist yet, unless
    `prepare` wrote it. None: nothing is prepared.
    """

    form: Literal["rows", "documents", "text"] = "rows"
    """
    `"rows"`: documents, each ended by the end-of-text token, joined and cut into rows of `seq_len +
    1` tokens. A row begins with the last token of the row before, so that every token is a target
    once, except the first of a work unit (8 to 256 MiB of input). `"documents"`: a row of tokens
    for each document. `"text"`: the text as it is.
    """

    seq_len: int | None = field(default=None, metadata={"least": 1, "most": 16777216})
    """Training sequence length in tokens, for form = "rows". None: training.seq_len."""

    document_ends: bool = True
    """
    Write a column `document_ends` beside the rows' `tokens`: int32 offsets, in the row, of the
    tokens that end a document; a single -1 where none does.
    """

    input_format: Literal["auto", "text", "jsonl", "parquet", "arrow", "csv", "tsv", "dataset"] = (
        "auto"
    )
    """
    `"text"`, `"jsonl"`, `"parquet"`, `"arrow"`, `"csv"`, `"tsv"` or `"dataset"`; `"auto"` goes by
    the file names.
    """

    text_columns: list[str] = field(default_factory=lambda: ["text"])
    """Columns that hold a document's text, in every format but text."""

    column_separator: str = "\n\n"
    """Put between several columns."""

    document_separator: str | None = None
    """Text between the documents of a text file. None: each file is one document."""

    dataset_config: str | None = None
    """Configuration of a Hugging Face data set."""

    dataset_split: str | None = None
    """
    Split of a Hugging Face data set. None: `train`, or all of a saved data set that is not split.
    """

    dataset_kwargs: dict[str, Any] = field(default_factory=dict)
    """More keyword arguments for `datasets.load_dataset`."""

    bad_input: Literal["error", "skip"] = "error"
    """
    What to do with input that is not a document (not UTF-8, broken JSON, a missing column, too
    long) and with damaged files: `"error"` stops there; `"skip"` leaves them out, a damaged file
    from where it cannot be read, and counts them.
    """

    max_document_bytes: int | str = field(default="64mb", metadata={"least": 1, "most": 536870912})
    """
    Size of the largest document that is accepted; bounds memory. A number of bytes, or text such as
    "64mb".
    """

    train_tokenizer: str | None = None
    """
    Directory for a byte-level BPE tokenizer that is trained on the input. None: tokenize with
    mosaic_tokenizer.name.
    """

    vocab_size: int | None = field(default=None, metadata={"least": 1})
    """Entries of a trained tokenizer, special tokens included. None: 2,048."""

    add_bos: bool = False
    """Begin each document with the tokenizer's begin-of-text token."""

    special_tokens: Literal["text", "parse"] = "text"
    """
    `"text"`: text that happens to spell a special token is text; `"parse"`: it becomes that token.
    """

    split_validation: float = field(default=0.0, metadata={"least": 0})
    """
    Share of the documents that goes into `validation/`, the rest into `train/`; chosen by a hash of
    the text, so that equal documents go to the same side.
    """

    compression: str | None = None
    """A name that mosaicml-streaming knows, such as `"zstd"` or `"zstd:7"`."""

    hashes: list[str] = field(default_factory=lambda: ["xxh64"])
    """Hash algorithms of mosaicml-streaming; the index holds these hashes of each shard."""

    shard_bytes: int | str = field(default="64mb", metadata={"least": 1, "most": 4294967295})
    """Shard size limit in bytes, before compression. A number of bytes, or text such as "64mb"."""

    engine: Literal["processes", "ray"] = "processes"
    """
    `"processes"` on this machine, or a `"ray"` cluster, whose machines must share the output
    directory (or the output is an object store). The result is the same.
    """

    processes: int | None = field(default=None, metadata={"least": 1, "most": 4096})
    """Processes that tokenize. None: one for each core."""

    address: str | None = None
    """Address of the Ray cluster. None: the one that Ray finds, else one on this machine."""

    work_dir: str | None = None
    """
    Local directory for shards that wait to be uploaded to an output URL. None: the temporary
    directory.
    """
