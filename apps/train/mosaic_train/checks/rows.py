"""What the loader's own checks find out about rows, mixture and lanes, as warnings."""

from collections.abc import Collection
from typing import Any

from mosaic_dataloader.checks.mixture import mixture_shares
from mosaic_dataloader.checks.packing import documents_per_lane
from mosaic_dataloader.checks.rows import row_lengths
from mosaic_train.checks.report import Report


def check_rows(
    dataset: Any, report: Report, *, task: str = "training", skip: Collection[str] = ()
) -> None:
    """Warn of tokens that are never trained on, and of batches that are mostly padding.

    Args:
        dataset: An opened `StreamingTextDataset`.
        report: Where the warnings go.
        task: "training" or "validation", whose `seq_len` it is.
        skip: Streams of whose token ids it is known that they are read in a wrong way.
    """
    section = "mosaic_dataloader" if task == "training" else "mosaic_validation_dataloader"
    for line in row_lengths(
        dataset, length_name=f"{task}.seq_len", prefix=f"{section}.dataset.", skip=skip
    ):
        report.warn(line)


def check_order(loader: Any, steps: int, step_rows: int, report: Report) -> None:
    """Warn where a new run sees its streams or documents otherwise than its options say.

    A run that continues another keeps the order that it began with.

    Args:
        loader: The first rank's training loader.
        steps: Steps of the run.
        step_rows: Rows of a step.
        report: Where the warnings go.

    Raises:
        MosaicDataError: The order cannot be built.
    """
    prefix = "mosaic_dataloader.dataset."
    for line in (
        *documents_per_lane(loader, prefix=prefix),
        *mixture_shares(loader, steps=steps, step_rows=step_rows, prefix=prefix),
    ):
        report.warn(line)
