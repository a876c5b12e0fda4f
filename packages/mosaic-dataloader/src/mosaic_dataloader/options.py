"""Every option of streams, data sets, loaders and tokenizers: default, type, bounds and text.

This is the only definition. The loader checks values against it, and the TOML sections of
mosaic-config are generated from it by ``tools/generate_sections.py``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeVar

from mosaic_dataloader.order.options import OrderOptions
from mosaic_dataloader.util.arguments import check_options, option

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

TOKEN_ENCODING_TYPES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
# A week in seconds.
LONGEST_TIMEOUT = 7 * 24 * 3600


@dataclass(frozen=True, kw_only=True)
class StreamOptions:
    """One MDS directory of a mixture, and its weight in it.

    Give at most one of `proportion`, `repeat` and `choose`. If one stream has a `proportion`, all
    must. Options left out (None) take the value of `[mosaic_dataloader.dataset]`.
    """

    remote: str | None = option(
        None,
        "Object-store URL or directory that holds the shards. None: the data is already "
        "complete in `local`. One of `remote` and `local` is needed.",
        path=True,
    )
    local: str | None = option(
        None,
        "Directory that shards are downloaded to, or read from when there is no `remote`. "
        "None: the loader chooses one.",
        path=True,
    )
    split: str | None = option(
        None,
        'Subdirectory of `remote` and `local` to read, such as "train". None: the dataset\'s.',
    )
    proportion: float | None = option(
        None,
        "Relative weight: this stream's share of the samples of an epoch, divided by the sum "
        "over all streams. Not negative. None: not weighted by proportion.",
        least=0,
    )
    repeat: float | None = option(
        None,
        "Absolute weight: how often this stream's samples appear in an epoch. 0.5 is half of "
        "them, 2.0 each twice. Not negative. None: not weighted by repetition.",
        least=0,
    )
    choose: int | None = option(
        None,
        "Absolute weight: number of samples drawn from this stream in an epoch. Not negative."
        " None: not weighted by a count.",
        least=0,
    )
    max_repeats: float | None = option(
        None,
        "How often this stream's samples may be seen in the planned run, on average. None: the "
        "dataset's.",
        above=0,
    )
    download_retry: int | None = option(
        None,
        "Further attempts after a failed download. None: the dataset's.",
        least=0,
    )
    download_timeout: float | None = option(
        None,
        "Seconds that one attempt to download a shard may take. None: the dataset's.",
        above=0,
        most=LONGEST_TIMEOUT,
    )
    validate_hash: str | None = option(
        None,
        "Hash algorithm that downloaded shards are checked with, one of those that they were "
        "written with. None: the dataset's.",
    )
    keep_zip: bool | None = option(
        None,
        "Whether compressed shards are kept after decompression. None: the dataset's.",
    )


@dataclass(frozen=True, kw_only=True)
class DatasetOptions(OrderOptions):
    """The options of `StreamingTextDataset`, those of the order among them.

    Raises:
        MosaicDataError: A value is not one that its option takes.
    """

    remote: str | None = option(
        None,
        "Object-store URL or directory of a single data set, in place of `streams`.",
        path=True,
    )
    local: str | None = option(
        None,
        "Directory that the single data set is downloaded to, or read from when there is no "
        "`remote`. None: the loader chooses one.",
        path=True,
    )
    split: str | None = option(
        None,
        'Subdirectory of `remote` and `local` to read, such as "train". None: read them directly.',
    )
    token_encoding_type: str = option(
        "int64",
        'NumPy dtype of the tokens in `bytes` columns, such as "uint16" (llm-foundry\'s '
        "meaning). `ndarray` columns carry their own.",
        choices=TOKEN_ENCODING_TYPES,
    )
    packing: bool = option(
        False,
        "Whether documents (text, or stored tokens of one document each) are joined into full"
        " rows, with EOS between them. False: each document is one row, cut or padded. Needs "
        'batching_method = "random".',
    )
    packing_lanes: int | None = option(
        None,
        "Sequences in which documents are joined side by side; the number of data-parallel "
        "ranks must divide it. None: the smallest multiple of 960 that is at least 4 times "
        "the data-parallel ranks of the first run; kept when resuming.",
        least=1,
    )
    positions: bool = option(
        False,
        "Whether batches also hold the position of each token in its document, int64[B, T]; 0 at "
        "the first token of each document and of each row. For models that mask documents by it. "
        "Documents end where the data's column `document_ends` says, else at EOS; with packing "
        "they are the ones that were packed.",
    )
    mask_boundaries: bool = option(
        False,
        "Whether the label that would predict the first token of the next document from the last "
        "one of this is ignored. Documents end where `positions` says.",
    )
    epoch_size: int | str | None = option(
        None,
        'Samples in an epoch, as a number or like "100k" or "64M". None: the size of the '
        "data. Not together with `repeat` or `choose`.",
        least=1,
    )
    predownload: int | None = option(
        None,
        "Samples ahead of training for which shards are fetched. None: 8 times the batch "
        "size, at least 64, and at least 16 shards, or 2 where 16 are more than 256 MiB.",
        least=0,
    )
    cache_limit: int | str | None = option(
        None,
        'Most bytes that downloaded shards may take, as a number or like "100gb"; the least '
        "recently used are removed. Where running loaders share a directory, the smallest of their "
        "limits holds. None: no limit.",
        least=1,
    )
    cache_dir: str | None = option(
        None,
        "Directory for locks, computed orders and downloads without a `local`, on a local "
        "disk. None: a folder of this user's in the temporary directory.",
        path=True,
    )
    download_retry: int = option(
        2,
        "Further attempts after a failed download that may succeed later, after pauses that "
        "grow from 1 s to 30 s. What is missing or denied fails at once.",
        least=0,
    )
    download_timeout: float = option(
        60.0,
        "Seconds that one attempt to download a shard may take, from its first to its last byte.",
        above=0,
        most=LONGEST_TIMEOUT,
    )
    validate_hash: str | None = option(
        None,
        'Hash algorithm that shards are checked with, such as "xxh64"; one of those that they'
        " were written with. Each process also checks once what it finds in the cache. None: "
        "the fastest of those in the index; shards that are read in place are not hashed "
        "then.",
    )
    keep_zip: bool = option(
        False,
        "Whether compressed shards are kept after decompression.",
    )
    allow_unsafe_types: bool = option(
        False,
        "Whether columns in Python's pickle format, which can run code when read, are accepted.",
    )
    on_data_change: str = option(
        "error",
        "What a resume does when the data, the mixture or an option that changes the order "
        'differs from the checkpoint\'s. "error": stop and name it. "restart_epoch": begin the'
        ' epoch again. "new_stage", with stages: begin a new stage with the present ones, in '
        "which every stream continues where it is.",
        choices=("error", "restart_epoch", "new_stage"),
    )
    weights_in: str = option(
        "samples",
        'What `proportion` and the weights of stages count. "tokens": by the mean length of each '
        "stream's samples, by mosaic-prepare's manifest, the sizes in the index, or some samples "
        "that are read when the stream comes into the run; kept when resuming.",
        choices=("samples", "tokens"),
    )
    max_repeats: float | None = option(
        None,
        "How often a stream's samples may be seen in the planned run, on average; what a resumed "
        "run has seen before counts. A stream that would be seen more often is an error before "
        "the first step. None: more than 4 times is a warning. Not for validation.",
        above=0,
    )
    skip: Sequence[str] = option(
        (),
        'Positions that are left out of training, such as ["1200000:1250000"]: the first one and '
        "the one after the last. Positions count the samples of the order from the beginning of "
        "the run, or with packing its rows, as --inspect-data prints them. With packing, "
        "the number of rows in a range must be a multiple of the packing lanes. Positions before "
        "the one at which a run resumes have no effect. Not for validation.",
    )


@dataclass(frozen=True, kw_only=True)
class DatasetSection(DatasetOptions):
    """The data and its order. Names and meanings are mosaicml-streaming's where it has them.

    Give either `streams` or `remote` / `local`.
    """

    streams: dict[str, StreamOptions] = field(
        default_factory=dict,
        metadata={
            "text": "The mixture: one table [mosaic_dataloader.dataset.streams.NAME] for each "
            "stream. NAME is your own; progress is reported and checkpointed under it."
        },
    )
    stages: list[dict[str, Any]] = field(
        default_factory=list,
        metadata={
            "text": "A mixture that changes during the run, in place of epochs: one table "
            "[[mosaic_dataloader.dataset.stages]] for each stage, with `weights` of streams by "
            'name, and its length in `samples` or `tokens` (a number or "2T"), which the last '
            "one leaves out. Not for validation. On the command line, stages are numbered from 1: "
            "--mosaic_dataloader.dataset.stages.2.weights.NAME 0.3; or all of them are given as "
            "TOML, in one argument: '[{samples = 1000, weights = {a = 1}}, {weights = {b = 1}}]'."
        },
    )
    max_seq_len: int | None = option(
        None,
        "Tokens in a row. Kept for configurations written for llm-foundry: if given, it must "
        "equal training.seq_len (validation.seq_len in [mosaic_validation_dataloader]). None:"
        " take that.",
        least=1,
    )
    partition_algo: str = option(
        "relaxed",
        "mosaicml-streaming's name for an order that fits any number of ranks; it always does"
        " here.",
        choices=("relaxed",),
    )


@dataclass(frozen=True, kw_only=True)
class LoaderOptions:
    """The options of `MosaicParallelAwareDataloader` that a configuration sets.

    Raises:
        MosaicDataError: A value is not one that its option takes.
    """

    num_workers: int = option(
        0,
        "Worker processes per rank. 0: a thread of the training process builds the batches, "
        "which is the faster choice for tokenized data.",
        least=0,
    )
    prefetch_factor: int | None = option(
        None,
        "Batches that each worker builds ahead, or the thread where there are no workers; at "
        "least 1. None: 2 for each worker; for the thread as many as fit into 16 MiB, but 2 "
        "to 16.",
        least=1,
    )
    pin_memory: bool = option(
        False,
        "Whether batches are put in page-locked memory, from which copies to a GPU are faster.",
    )
    persistent_workers: bool = option(
        False,
        "Whether workers stay between iterations. Needs num_workers > 0.",
    )
    stall_warning: float = option(
        60.0,
        "Seconds without a batch after which a line in the log says what is waited for, and again "
        "each minute until the batch comes; at debug level with the stacks of all threads.",
        above=0,
        most=LONGEST_TIMEOUT,
    )
    drop_last: bool = option(
        True,
        "Whether a finite training iteration leaves out a last batch that is not full. "
        "False: it is padded with rows whose labels are all ignored. "
        "Training itself does not end with an epoch, and validation always uses every sample.",
    )
    skip_samples: int = option(
        0,
        "Samples of the order that a new run leaves out at its start, over all ranks "
        "together. It is for runs without a checkpoint: a loaded data position counts from "
        "the beginning of the order and wins, so that nothing is skipped twice. With packing,"
        " these are documents. Not for validation.",
        least=0,
    )

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, kw_only=True)
class LoaderSection(LoaderOptions):
    """How batches are built. Batch size and row length are TorchTitan's own `[training]` keys."""

    name: str = option(
        "text",
        'Kind of loader. "text" (rows of tokens for a language model) is the only one.',
        choices=("text",),
    )
    dataset: DatasetSection = field(
        default_factory=DatasetSection,
        metadata={"text": "Which samples, and in which order."},
    )


@dataclass(frozen=True, kw_only=True)
class TokenizerOptions:
    """The tokenizer for text columns; rows stored as tokens need none."""

    name: str | None = option(
        None,
        "Name on the Hugging Face Hub, or a local directory. None: the data holds tokens already.",
    )
    kwargs: dict[str, Any] = field(
        default_factory=dict,
        metadata={
            "text": "Keyword arguments for AutoTokenizer.from_pretrained. On the command line a "
            "value is read as TOML (2048, true, 0.5, [1, 2]), and as a string if it is not TOML."
        },
    )


def from_arguments(options: type[T], arguments: Mapping[str, Any]) -> T:
    """The options among the arguments of a function, which passes its ``locals()``.

    Raises:
        MosaicDataError: A value is not one that its option takes.
    """
    return options(**{own.name: arguments[own.name] for own in fields(options)})


def with_option_texts(docstring: str | None, options: type) -> str | None:
    """A class's docstring, with the text of each option in the place of ``{options}``.

    Each text stands once, at its field: `help()` and the API reference show it from there.
    """
    entries = [f"{own.name}: {own.metadata['text']}" for own in fields(options)]
    return docstring and re.sub(
        r"( *)\{options\}",
        lambda place: "\n".join(place[1] + entry for entry in entries),
        docstring,
    )
