"""The options that decide the order, as the user gives them."""

from dataclasses import dataclass, fields

from mosaic_dataloader.order.resolved import LARGEST_SEED, ResolvedOrder
from mosaic_dataloader.order.shuffles import SHUFFLES
from mosaic_dataloader.util.arguments import check_options, option

SHUFFLE_ALGOS = tuple(SHUFFLES)
BATCHING_METHODS = ("random", "stratified", "per_stream", "device_per_stream")
SAMPLING_METHODS = ("balanced", "fixed")


@dataclass(frozen=True, kw_only=True)
class OrderOptions:
    """Order options as the user gives them; names and meanings are mosaicml-streaming's.

    Raises:
        MosaicDataError: A value is not one that the option takes.
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
        'How a stream that is not used whole is subsampled. "balanced": again in each epoch, '
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

    def resolve(self, *, num_nodes: int, global_batch: int, local_batch: int) -> ResolvedOrder:
        """Fill in what is left open, from the layout of the first start.

        mosaicml-streaming's defaults: as many canonical nodes as nodes (64 times as many for
        ``py1s`` and ``py2s``), and a block of ``max(4,000,000 // canonical nodes, 2**18)`` samples.
        The batches are rows of one micro-batch, over all data-parallel ranks and on one.
        """
        canonical = self.num_canonical_nodes
        if canonical is None:
            canonical = num_nodes * SHUFFLES[self.shuffle_algo].nodes_per_machine
        block = self.shuffle_block_size
        if block is None:
            block = max(4_000_000 // canonical, 1 << 18)
        # Only the methods that build the order batch by batch depend on it.
        order_batch = global_batch if self.batching_method != "random" else 0
        by_device = self.batching_method == "device_per_stream"
        given = {field.name: getattr(self, field.name) for field in fields(OrderOptions)}
        return ResolvedOrder(
            **{**given, "shuffle_block_size": block, "num_canonical_nodes": canonical},
            order_batch=order_batch,
            device_batch=local_batch if by_device else 0,
            nodes=num_nodes if by_device else 0,
        )
