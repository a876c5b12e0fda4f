"""The options that decide the order, as the user gives them."""

from dataclasses import dataclass

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.resolved import LARGEST_SEED, ResolvedOrder
from mosaic_dataloader.order.shuffles import SHUFFLES
from mosaic_dataloader.util.arguments import integer

SHUFFLE_ALGOS = tuple(SHUFFLES)
BATCHING_METHODS = ("random", "stratified", "per_stream", "device_per_stream")
SAMPLING_METHODS = ("balanced", "fixed")


@dataclass(frozen=True)
class OrderOptions:
    """Order options as the user gives them; names and meanings are mosaicml-streaming's.

    Raises:
        MosaicDataError: A value is not one that the option takes.
    """

    shuffle: bool = False
    shuffle_algo: str = "py1e"
    shuffle_seed: int = 9176
    shuffle_block_size: int | None = None
    num_canonical_nodes: int | None = None
    sampling_method: str = "balanced"
    sampling_granularity: int = 1
    batching_method: str = "random"

    def __post_init__(self) -> None:
        _one_of("shuffle_algo", self.shuffle_algo, SHUFFLE_ALGOS)
        _one_of("batching_method", self.batching_method, BATCHING_METHODS)
        _one_of("sampling_method", self.sampling_method, SAMPLING_METHODS)
        for name, least in (
            ("shuffle_seed", 0),
            ("sampling_granularity", 1),
            # py1e and py1br draw their block from [0.75, 1.25) times this, which is empty for 1.
            ("shuffle_block_size", 2),
            ("num_canonical_nodes", 1),
        ):
            if (value := getattr(self, name)) is not None:
                # As a plain int: numpy's are no JSON.
                object.__setattr__(self, name, integer(name, value, least))
        if self.shuffle_seed > LARGEST_SEED:
            raise MosaicDataError(f"shuffle_seed = {self.shuffle_seed} must be below 2**64")

    def resolve(self, *, num_nodes: int, global_batch: int, local_batch: int) -> ResolvedOrder:
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
            canonical = num_nodes * SHUFFLES[self.shuffle_algo].nodes_per_machine
        block = self.shuffle_block_size
        if block is None:
            block = max(4_000_000 // canonical, 1 << 18)
        # Only the methods that build the order batch by batch depend on it.
        order_batch = global_batch if self.batching_method != "random" else 0
        by_device = self.batching_method == "device_per_stream"
        return ResolvedOrder(
            shuffle=self.shuffle,
            shuffle_algo=self.shuffle_algo,
            shuffle_seed=self.shuffle_seed,
            shuffle_block_size=block,
            num_canonical_nodes=canonical,
            sampling_method=self.sampling_method,
            sampling_granularity=self.sampling_granularity,
            batching_method=self.batching_method,
            order_batch=order_batch,
            device_batch=local_batch if by_device else 0,
            nodes=num_nodes if by_device else 0,
        )


def _one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise MosaicDataError(f"{name} = {value!r} is not one of {', '.join(valid)}")
