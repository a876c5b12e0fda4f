"""The options that decide the order, as given and as settled at a run's first start."""

from dataclasses import asdict, dataclass, field
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.arguments import integer

SHUFFLE_ALGOS = ("py1e", "py1s", "py2s", "py1br", "naive", "feistel")
BATCHING_METHODS = ("random", "stratified", "per_stream", "device_per_stream")
SAMPLING_METHODS = ("balanced", "fixed")
LARGEST_SEED = (1 << 64) - 1


@dataclass(frozen=True)
class OrderOptions:
    """Order options as the user gives them; names and meanings are mosaicml-streaming's.

    Raises:
        MosaicDataError: A value is none of those that the option takes.
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


def _one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise MosaicDataError(f"{name} = {value!r} is not one of {', '.join(valid)}")
