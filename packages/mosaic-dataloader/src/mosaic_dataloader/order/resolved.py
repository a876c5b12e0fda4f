"""The order of a run: everything besides the data that decides it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.arguments import integer

LARGEST_SEED = (1 << 64) - 1
# What states call these fields. Saved names never change.
_SAVED_NAMES = {"order_batch": "unit", "device_batch": "device_unit", "nodes": "unit_nodes"}


@dataclass(frozen=True)
class ResolvedOrder:
    """Everything besides the data that decides the order; kept in the state as it stands.

    A new field needs a default: the value by which the order is what it was without the field.

    Attributes:
        order_batch: Rows of the global batch by which the order is built; 0 unless it is.
        device_batch: Rows of it on one device; 0 unless ``device_per_stream``.
        nodes: Machines over which it is laid out; 0 unless ``device_per_stream``.

    Raises:
        MosaicDataError: A number is impossible; options are checked before, but not what was saved.
    """

    shuffle: bool
    shuffle_algo: str
    shuffle_seed: int = field(metadata={"most": LARGEST_SEED})
    shuffle_block_size: int
    num_canonical_nodes: int
    sampling_method: str
    sampling_granularity: int
    batching_method: str
    order_batch: int = 0
    device_batch: int = 0
    nodes: int = 0

    def __post_init__(self) -> None:
        integer("num_canonical_nodes", self.num_canonical_nodes, 1)
        integer("shuffle_block_size", self.shuffle_block_size, 2)
        if self.batching_method != "random":
            integer("the global batch size", self.order_batch, 1)
        if self.batching_method == "device_per_stream":
            integer("the local batch size", self.device_batch, 1)
            integer("the number of nodes", self.nodes, 1)
            if self.order_batch % self.device_batch:
                raise MosaicDataError(
                    f"the local batch size {self.device_batch} does not divide the global one, "
                    f"{self.order_batch}"
                )

    @property
    def seed_changes_with_epoch(self) -> bool:
        """Whether picks differ from epoch to epoch, as in mosaicml-streaming."""
        return self.shuffle and self.sampling_method == "balanced"

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, by the names under which they are saved."""
        return {_SAVED_NAMES.get(name, name): value for name, value in vars(self).items()}


def field_names(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved values by the names of the fields of `ResolvedOrder`."""
    names = {saved_name: name for name, saved_name in _SAVED_NAMES.items()}
    return {names.get(name, name): value for name, value in saved.items()}
