"""How far a run has come, at one of its batches."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from mosaic_dataloader.order.mixture import Int64Array

if TYPE_CHECKING:
    from mosaic_dataloader.packing.state import LanePosition


class Mark(NamedTuple):
    """What is true once a certain batch, and all before it, were handed out.

    Marks are made where batches are, in the background, and never changed afterwards: handing out
    a batch is nothing but taking over its mark.

    Attributes:
        samples_seen: Position of the run; with packing, rows.
        seen: int64[streams], samples of each stream that all ranks were handed.
        targets: int64[streams], target tokens that this rank was handed since its books were
            opened.
        lanes: With packing, where each of the rank's lanes that gave a row goes on.
    """

    samples_seen: int
    seen: Int64Array
    targets: Int64Array
    lanes: Mapping[int, "LanePosition"]
