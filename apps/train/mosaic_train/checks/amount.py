"""Is there something left to train, are there enough data, and how often will the run see them?"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.report import Report
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_steps_left(config: "MosaicJobConfig", checkpoint: Path | None, steps_done: int) -> None:
    """See that the run has a step to train.

    Args:
        config: The configuration.
        checkpoint: The checkpoint that it continues; None for a new run.
        steps_done: Steps that lie behind.

    Raises:
        TrainError: It has none, and is not one that only loads (`checkpoint.load_only`).
    """
    steps = config.training.steps
    if checkpoint is None or steps_done < steps or config.checkpoint.load_only:
        return
    raise TrainError(
        f"nothing is left to train: checkpoint {checkpoint} is at step {steps_done:,}, and "
        f"training.steps is {steps:,}; raise training.steps to continue, or choose another "
        "checkpoint.folder to begin again"
    )


def step_rows(config: "MosaicJobConfig", loader: Any) -> int:
    """Rows of a step, over all ranks and micro-batches."""
    whole: int = config.training.global_batch_size
    return whole if whole > 0 else int(loader.batch_size * loader.dp_world_size)


def check_amount(
    config: "MosaicJobConfig", loader: Any, report: Report, *, steps_done: int = 0
) -> None:
    """Compare an epoch with a batch and with what is left of the run.

    Args:
        config: The configuration.
        loader: The first rank's training loader.
        report: Takes the run's epochs as a fact.
        steps_done: Steps that lie behind.

    Raises:
        TrainError: An epoch does not fill one global batch.
    """
    dataset = loader.dataset
    samples = dataset.mixture.epoch_samples
    batch = loader.batch_size * loader.dp_world_size
    if samples < batch and not dataset.packing:
        raise TrainError(
            f"an epoch has {samples:,} samples, fewer than one global batch of {batch:,} "
            f"(training.local_batch_size {loader.batch_size} * {loader.dp_world_size} data-parallel"
            " rank(s)), so that a batch would hold samples twice: add data, or lower "
            "training.local_batch_size"
        )
    streams = len(dataset.streams)
    report.facts.append(
        f"{samples:,} samples per epoch from {streams} stream{'s' if streams > 1 else ''}"
    )
    steps = config.training.steps
    left = max(0, steps - steps_done)
    rows = left * step_rows(config, loader)
    if steps_done:
        subject = f"{left:,} of {steps:,} steps are left and train on"
    else:
        subject = f"{left:,} steps train on" if left != 1 else "1 step trains on"
    if dataset.packing:  # a row holds many samples, or a part of one
        report.facts.append(f"{subject} {rows:,} rows")
    elif rows <= samples:
        report.facts.append(f"{subject} {rows:,} of them, {rows / samples:.3g} epochs")
    else:
        report.facts.append(f"{subject} each {rows / samples:.3g} times")
