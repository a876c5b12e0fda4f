"""Are there enough data, and how often will the run see them?"""

from typing import TYPE_CHECKING, Any

from mosaic_train.checks.report import Report
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_amount(config: "MosaicJobConfig", loader: Any, report: Report) -> None:
    """Compare an epoch with a batch and with the run.

    Args:
        config: The configuration.
        loader: The first rank's training loader.
        report: Takes the run's epochs as a fact.

    Raises:
        TrainError: An epoch does not fill one global batch.
    """
    dataset = loader.dataset
    samples = dataset.mixture.epoch_samples
    batch = loader.batch_size * loader.dp_world_size
    packed = getattr(dataset, "packing", False)
    if samples < batch and not packed:
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
    step = config.training.global_batch_size
    rows = (step if step > 0 else batch) * config.training.steps
    if packed:  # a row holds many samples, or a part of one
        return
    count = config.training.steps
    subject = f"{count:,} steps train on" if count != 1 else "1 step trains on"
    report.facts.append(
        f"{subject} {rows:,} of them, {rows / samples:.3g} epochs"
        if rows <= samples
        else f"{subject} each {rows / samples:.3g} times"
    )
