"""Where in its data a run will go on, and where a step of it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.continued import continue_from_checkpoint
from mosaic_train.checks.report import Report
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


@dataclass(frozen=True)
class Start:
    """Where a run goes on.

    Attributes:
        loader: The first rank's loader, at the position where training goes on.
        steps_done: Steps that lie behind.
        checkpoint: The checkpoint that it goes on from; None for a new run.
        step_samples: Rows of a whole step: of all ranks, and of all micro-batches.
    """

    loader: Any
    steps_done: int
    checkpoint: Path | None
    step_samples: int

    @property
    def packing(self) -> bool:
        """Whether positions count packed rows, and not samples of the order."""
        return bool(self.loader.dataset.packing)

    @property
    def begins_at(self) -> int:
        """Position before which there is nothing of this order."""
        return int(self.loader.first_position)

    def place(self, position: int) -> str:
        """A position in words."""
        return str(self.loader.describe(position))

    def position_of(self, step: int) -> int:
        """Position at which a step begins, with the present batch size throughout.

        Raises:
            TrainError: The step lies before the order begins.
        """
        position = int(self.loader.samples_seen) + (step - self.steps_done - 1) * self.step_samples
        if position < self.begins_at:
            raise TrainError(
                f"--at-step {step}: at {self.step_samples} rows a step, that is before "
                f"{self.place(self.begins_at)}, where the data of this run begins; choose a later "
                f"step"
            )
        return position


def find_start(config: "MosaicJobConfig", dp_world_size: int, tokenizer: Any) -> Start:
    """Open the data, and take the position from the checkpoint that training would go on from.

    Raises:
        MosaicDataError: The data cannot be opened, or does not fit the checkpoint.
        TrainError: The checkpoint cannot be read.
    """
    from mosaic_dataloader import build_mosaic_dataloader

    loader = build_mosaic_dataloader(
        dp_world_size=dp_world_size, dp_rank=0, tokenizer=tokenizer, job_config=config
    )
    # What it warns of, the run itself warns of.
    checkpoint, steps_done = continue_from_checkpoint(config, loader, Report())
    loader.check()
    whole = config.training.global_batch_size
    if whole < 0:
        whole = config.training.local_batch_size * dp_world_size
    return Start(loader, steps_done, checkpoint, whole)
