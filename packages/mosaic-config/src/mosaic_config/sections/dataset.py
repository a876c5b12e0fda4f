"""`[mosaic_dataloader.dataset]`: which samples, and in which order."""

from dataclasses import dataclass, field
from typing import Literal

from mosaic_config.sections.stream import MosaicStream


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

    max_seq_len: int | None = None
    """
    Tokens in a row. Kept for configurations written for llm-foundry: if given, it must equal
    training.seq_len (validation.seq_len in [mosaic_validation_dataloader]). None: take that.
    """

    token_encoding_type: str = "int64"
    """
    NumPy dtype of the tokens in `bytes` columns, such as "uint16" (llm-foundry's meaning).
    `ndarray` columns carry their own.
    """

    shuffle: bool = False
    """Whether an epoch is shuffled. False: stored order, stream after stream."""

    shuffle_algo: Literal["py1e", "py1s", "py2s", "py1br", "naive", "feistel"] = "py1e"
    """
    How to shuffle; all but "feistel" are mosaicml-streaming's. "py1e" spreads each shard over a
    range of `shuffle_block_size` samples, "py1br" shuffles inside blocks, "py1s" and "py2s" shuffle
    shards and the samples in each canonical node's part, "naive" shuffles everything and so needs
    every shard at once.
    "feistel" is this loader's own, for hundreds of millions of samples: it shuffles inside windows
    of `shuffle_block_size` samples and computes any position at once, with no list of the epoch.
    """

    shuffle_seed: int = 9176
    """Seed of the order; not negative. It also seeds the resampling of weighted streams."""

    shuffle_block_size: int | None = None
    """Samples per shuffle block. None: max(4,000,000 / num_canonical_nodes, 262,144)."""

    num_canonical_nodes: int | None = None
    """
    Parts that an epoch is cut into for shuffling, each with shards of its own. None: the number
    of nodes of the first run (64 times as many for "py1s" and "py2s"); kept when resuming.
    """

    sampling_method: Literal["balanced", "fixed"] = "balanced"
    """
    How a stream that is not used whole is subsampled. "balanced": anew in each epoch, evenly over
    shards. "fixed": the same samples in every epoch.
    """

    sampling_granularity: int = 1
    """Samples drawn from one shard at a time when a stream is subsampled."""

    batching_method: Literal["random", "stratified", "per_stream", "device_per_stream"] = "random"
    """
    How streams share a batch. "random": by the shuffled mixture. "stratified": each batch holds
    the streams' proportions. "per_stream": a batch is of one stream. "device_per_stream": each
    device's batch is of one stream. All but "random" tie the order to the global batch size.
    """

    packing: bool = False
    """
    Whether documents (text, or stored tokens of one document each) are joined into full rows, with
    EOS between them. False: each document is one row, cut or padded. Needs batching_method =
    "random".
    """

    packing_lanes: int | None = None
    """
    Sequences in which documents are joined side by side; the number of data-parallel ranks must
    divide it. None: the smallest multiple of 960 that is at least 4 times the data-parallel ranks
    of the first run; kept when resuming.
    """

    positions: bool = False
    """
    Whether batches also hold the position of each token in its document, int64[B, T]; 0 at the
    first token of each document and of each row. For models that mask documents by it. Documents
    end where the data's column `document_ends` says, else at EOS.
    """

    mask_boundaries: bool = False
    """
    Whether the label that would predict the first token of the next document from the last one of
    this is ignored. Documents end where `positions` says.
    """

    epoch_size: int | str | None = None
    """
    Samples in an epoch, as a number or like "100k" or "64M". None: the size of the data. Not
    together with `repeat` or `choose`.
    """

    predownload: int | None = None
    """
    Samples ahead of training for which shards are fetched. None: 8 times the batch size, at least
    64, and at least 16 shards, or 2 where 16 are more than 256 MiB.
    """

    cache_limit: int | str | None = None
    """
    Most bytes that downloaded shards may take, as a number or like "100gb"; the least recently
    used are removed. None: no limit.
    """

    cache_dir: str | None = None
    """
    Directory for locks, computed orders and downloads without a `local`, on a local disk. None:
    the loader chooses one.
    """

    partition_algo: Literal["relaxed"] = "relaxed"
    """mosaicml-streaming's name for an order that fits any number of ranks; it always does here."""

    download_retry: int = 2
    """
    Further attempts after a failed download that may succeed later, after pauses that grow from
    1 s to 30 s. What is missing or denied fails at once.
    """

    download_timeout: float = 60.0
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

    on_data_change: Literal["error", "restart_epoch"] = "error"
    """
    What a resume does when the data, the mixture or an option that changes the order differs from
    the checkpoint's. "error": stop and name it. "restart_epoch": begin the epoch again.
    """
