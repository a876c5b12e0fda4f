"""`--inspect-data`: the loader's look at a run, with the configuration's data and checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from mosaic_train.checks.checkpoint import check_checkpoint
from mosaic_train.checks.compatibility import check_vocabulary
from mosaic_train.checks.model import find_model
from mosaic_train.checks.parallel import check_batches, find_layout
from mosaic_train.checks.report import Report
from mosaic_train.checks.resume import resume_from_checkpoint, steps_of
from mosaic_train.errors import TrainError
from mosaic_train.setup import prepare_data

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def inspect_data(
    config: "MosaicJobConfig", *, world_size: int, rows: int, step: int | None
) -> None:
    """Print the streams, what the run makes of them and rows of a step; save the picture.

    Args:
        config: The configuration.
        world_size: Ranks that the run would have.
        rows: Rows to print.
        step: Whose rows; None for the first one that would be trained.

    Raises:
        TrainError: A mistake that the app finds. The packages' own errors pass through.
    """
    from mosaic_dataloader import build_mosaic_dataloader, build_mosaic_tokenizer
    from mosaic_dataloader.inspect import print_run

    folder = Path(config.job.dump_folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(
            f"cannot write a picture to {folder} ({error.strerror}): choose another job.dump_folder"
        ) from error
    model = find_model(config)
    layout = find_layout(config, world_size)
    check_batches(config, layout)
    check_checkpoint(config)
    prepare_data(config)
    tokenizer = build_mosaic_tokenizer(config)
    if tokenizer is not None:
        check_vocabulary(config, model, tokenizer)
    loader = build_mosaic_dataloader(
        dp_world_size=layout.dp_world_size, dp_rank=0, tokenizer=tokenizer, job_config=config
    )
    try:
        # The run itself repeats the warnings.
        resumed = resume_from_checkpoint(config, loader, Report())
        loader.check()
        step = resumed.steps_done + 1 if step is None else step
        print_run(
            steps_of(config, loader, resumed.steps_done),
            step=step,
            rows=rows,
            tokenizer=tokenizer,
            picture=folder / f"inspect-data-step-{step}.png",
            resumes_from=None if resumed.checkpoint is None else str(resumed.checkpoint),
        )
    finally:
        loader.dataset.close()
