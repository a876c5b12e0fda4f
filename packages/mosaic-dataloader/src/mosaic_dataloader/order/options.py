"""The options that decide the order, as given and as settled at a run's first start."""

from dataclasses import asdict, dataclass, field
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.arguments import check_options, integer, option

SHUFFLE_ALGOS = ("py1e", "py1s", "py2s", "py1br", "naive", "feistel")
BATCHING_METHODS = ("random", "stratified", "per_stream", "device_per_stream")
SAMPLING_METHODS = ("balanced", "fixed")
LARGEST_SEED = (1 << 64) - 1


@dataclass(frozen=True, kw_only=True)
class OrderOptions:
    """Order options as the user gives them; names and meanings are mosaicml-streaming's.

    Raises:
        MosaicDataError: A value is none of those that the option takes.
    """

    shuffle: bool = option(
        False,
        "Whether an epoch is shuffled. False: stored order, stream after stream.",
    )
    shuffle_algo: str = option(
        "py1e",
        'How to shuffle; all but "feistel" are mosaicml-streaming\'s. "py1e" spreads each '
        'shard over a range of `shuffle_block_size` samples, "py1br" shuffles inside blocks, '
        '"py1s" and "py2s" shuffle shards and the samples in each canonical node\'s part, '
        '"naive" shuffles everything and so needs every shard at once. "feistel" is this '
        "loader's own, for hundreds of millions of samples: it shuffles inside windows of "
        "`shuffle_block_size` samples and computes any position at once, with no list of the "
        "epoch.",
        choices=SHUFFLE_ALGOS,
    )
    shuffle_seed: int = option(
        9176,
        "Seed of the order; not negative. It also seeds the resampling of weighted streams.",
        least=0,
        most=LARGEST_SEED,
    )
    shuffle_block_size: int | None = option(
        None,
        "Samples per shuffle block. None: max(4,000,000 / num_canonical_nodes, 262,144).",
        # py1e and py1br draw their block from [0.75, 1.25) times this, which is empty for 1.
        least=2,
    )
    num_canonical_nodes: int | None = option(
        None,
        "Parts that an epoch is cut into for shuffling, each with shards of its own. None: "
        'the number of nodes of the first run (64 times as many for "py1s" and "py2s"); kept '
        "when resuming.",
        least=1,
    )
    sampling_method: str = option(
        "balanced",
        'How a stream that is not used whole is subsampled. "balanced": anew in each epoch, '
        'evenly over shards. "fixed": the same samples in every epoch.',
        choices=SAMPLING_METHODS,
    )
    sampling_granularity: int = option(
        1,
        "Samples drawn from one shard at a time when a stream is subsampled.",
        least=1,
    )
    batching_method: str = option(
        "random",
        'How streams share a batch. "random": by the shuffled mixture. "stratified": each '
        'batch holds the streams\' proportions. "per_stream": a batch is of one stream. '
        '"device_per_stream": each device\'s batch is of one stream. All but "random" tie the '
        "order to the global batch size.",
        choices=BATCHING_METHODS,
    )

    def __post_init__(self) -> None:
        check_options(self)

    def settle(self, *, num_nodes: int, global_batch: int, local_batch: int) -> "SettledOrder":
        """Fill in what is left open, from the layout of the first start.

        mosaicml-streaming's defaults: as many canonical nodes as nodes (64 times as many for
        ``py1s`` and ``py2s``), and a block of ``max(4,000,000 // canonical nodes, 2**18)`` samples.

        Args:
            num_nodes: Machines of the run.
            global_batch: Rows of one micro-batch over all data-parallel ranks.
            local_batch: Rows of one micro-batch on one rank.
        """
        canonical = self.num_canonical_nodes
        if canonical is None:
            canonical = num_nodes * (64 if self.shuffle_algo in ("py1s", "py2s") else 1)
        block = self.shuffle_block_size
        if block is None:
            block = max(4_000_000 // canonical, 1 << 18)
        # Only the methods whose order is built in units of a batch depend on it.
        unit = global_batch if self.batching_method != "random" else 0
        by_device = self.batching_method == "device_per_stream"
        return SettledOrder(
            shuffle=self.shuffle,
            shuffle_algo=self.shuffle_algo,
            shuffle_seed=self.shuffle_seed,
            shuffle_block_size=block,
            num_canonical_nodes=canonical,
            sampling_method=self.sampling_method,
            sampling_granularity=self.sampling_granularity,
            batching_method=self.batching_method,
            unit=unit,
            device_unit=local_batch if by_device else 0,
            unit_nodes=num_nodes if by_device else 0,
        )


@dataclass(frozen=True)
class SettledOrder:
    """Everything besides the data that decides the order; kept in the state as it stands.

    A new field needs a default: the value by which the order is what it was without the field.

    Attributes:
        unit: Rows of a batch in which the order is built; 0 where it does not depend on one.
        device_unit: Rows of one device's part of a unit; 0 unless ``device_per_stream``.
        unit_nodes: Machines over which a unit is laid out; 0 unless ``device_per_stream``.

    Raises:
        MosaicDataError: A number cannot be; options are checked before, but not what was saved.
    """

    shuffle: bool
    shuffle_algo: str
    shuffle_seed: int = field(metadata={"most": LARGEST_SEED})
    shuffle_block_size: int
    num_canonical_nodes: int
    sampling_method: str
    sampling_granularity: int
    batching_method: str
    unit: int = 0
    device_unit: int = 0
    unit_nodes: int = 0

    def __post_init__(self) -> None:
        integer("num_canonical_nodes", self.num_canonical_nodes, 1)
        integer("shuffle_block_size", self.shuffle_block_size, 2)
        if self.batching_method != "random":
            integer("the global batch size", self.unit, 1)
        if self.batching_method == "device_per_stream":
            integer("the local batch size", self.device_unit, 1)
            integer("the number of nodes", self.unit_nodes, 1)
            if self.unit % self.device_unit:
                raise MosaicDataError(
                    f"the local batch size {self.device_unit} does not divide the global one, "
                    f"{self.unit}"
                )

    @property
    def feistel(self) -> bool:
        """Whether the order is this project's own, evaluated index by index."""
        return self.shuffle and self.shuffle_algo == "feistel"

    @property
    def seed_changes_with_epoch(self) -> bool:
        """Whether picks differ from epoch to epoch, as in mosaicml-streaming."""
        return self.shuffle and self.sampling_method == "balanced"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return asdict(self)
