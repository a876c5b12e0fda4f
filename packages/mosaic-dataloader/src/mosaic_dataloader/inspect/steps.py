"""Where the steps of a run are in its data, and which rows they are made of."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.inspect.previews import stream_counts
from mosaic_dataloader.loader import MosaicParallelAwareDataloader
from mosaic_dataloader.reading.document_length import tokens_before
from mosaic_dataloader.state.stages import stage_tokens


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

    loader: MosaicParallelAwareDataloader
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

    def position_of(self, step: int) -> int:
        """Position at which a step begins.

        Raises:
            MosaicDataError: The step lies before the order begins.
        """
        skip = self.loader.run.source.order.skip
        position = skip.moved(self.loader.samples_seen, (step - self.done - 1) * self.rows)
        begin = self.loader.first_position
        if position < begin:
            raise MosaicDataError(
                f"{self.option} {step}: at {self.rows} rows a step, that is before "
                f"{self.loader.describe(begin)}, where the data of this run begins; choose a later "
                f"step"
            )
        return position

    @property
    def end(self) -> int:
        """Position of the order after the run's last sample.

        With packing it is the position after the last document, about: which documents rows hold is
        known when they are read.
        """
        row = self.position_of(max(self.total, self.done) + 1)
        if not self.packing:
            return row
        positions, tokens = self._tokens
        ahead = (row - self.loader.samples_seen) * self.loader.dataset.seq_len
        seen = self._tokens_at_present + ahead
        return round(float(np.interp(seen, tokens, positions)))

    @property
    def epochs(self) -> float:
        """Epochs that all steps together make, those before the checkpoint too."""
        order = self.loader.run.source.order
        if self.packing and order.start.samples:
            # Documents are counted from where the present order begins.
            return order.start.epoch + self.end / self.loader.epoch_samples
        # Packed rows that are left out have their documents read nevertheless.
        left_out = 0 if self.packing else order.skip.before(self.end)
        return (self.end - order.skipped - left_out) / self.loader.epoch_samples

    def step_at(self, position: int) -> int:
        """The step, from 1, that trains on a position of the order; with packing about."""
        skip, seen = self.loader.run.source.order.skip, self.loader.samples_seen
        rows = float(position - skip.before(position) - (seen - skip.before(seen)))
        if self.packing:
            before = float(np.interp(position, *self._tokens))
            rows = (before - self._tokens_at_present) / self.loader.dataset.seq_len
        step = self.done + 1 + math.floor(rows / self.rows)
        return min(max(1, step), max(self.total, self.done))

    @cached_property
    def _tokens(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions of documents, and the tokens before each: see `tokens_before`."""
        stages = self.loader.run.source.order.stages
        if stages is not None:
            return stage_tokens(stages)
        chosen = [size.choose for size in self.loader.mixture.streams]
        return tokens_before([(0, chosen)], self.loader.dataset.millitokens)

    @cached_property
    def _tokens_at_present(self) -> float:
        """Tokens before the position that the loader is at, about."""
        run = self.loader.run
        return float(np.interp(run.source.position(run.progress), *self._tokens))

    def shares(self, position: int, steps: int) -> Any:
        """The streams' shares of the rows of steps, float[steps, streams]; without packing."""
        counts = stream_counts(self.loader, position, steps * self.micro_batches)
        return counts.reshape(steps, self.micro_batches, -1).sum(axis=1) / self.rows
