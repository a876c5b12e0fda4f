"""Where the steps of a run are in its data, and which rows they are made of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.inspect.previews import stream_counts

if TYPE_CHECKING:
    from mosaic_dataloader.loader import MosaicParallelAwareDataloader


@dataclass(frozen=True)
class Steps:
    """The steps of a run, all of the present batch size.

    Attributes:
        loader: The loader of any rank, at the position where training starts or resumes.
        rows: Rows of a step, over all ranks and micro-batches.
        total: Steps of the whole run.
        done: Steps that were trained before.
        option: What messages call the number of a step.
    """

    loader: "MosaicParallelAwareDataloader"
    rows: int
    total: int
    done: int = 0
    option: str = "step"

    @property
    def packing(self) -> bool:
        """Whether positions count packed rows, and not samples of the order."""
        return self.loader.dataset.packing

    @property
    def micro_batches(self) -> int:
        """Micro-batches of a step on each rank."""
        return self.rows // (self.loader.batch_size * self.loader.dp_world_size)

    @property
    def begins_at(self) -> int:
        """Position before which the present order has nothing."""
        return self.loader.first_position

    def place(self, position: int) -> str:
        """A position in words."""
        return self.loader.describe(position)

    def position_of(self, step: int) -> int:
        """Position at which a step begins.

        Raises:
            MosaicDataError: The step lies before the order begins.
        """
        skip = self.loader.run.source.order.skip
        position = skip.moved(self.loader.samples_seen, (step - self.done - 1) * self.rows)
        if position < self.begins_at:
            raise MosaicDataError(
                f"{self.option} {step}: at {self.rows} rows a step, that is before "
                f"{self.place(self.begins_at)}, where the data of this run begins; choose a later "
                f"step"
            )
        return position

    def shares(self, position: int, steps: int) -> Any:
        """The streams' shares of the rows of steps, float[steps, streams]; without packing."""
        counts = stream_counts(self.loader, position, steps * self.micro_batches)
        return counts.reshape(steps, self.micro_batches, -1).sum(axis=1) / self.rows
