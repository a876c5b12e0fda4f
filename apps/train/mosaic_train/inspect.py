"""`--inspect-data`: the loader's look at a run, with the configuration's data and checkpoint."""

import os
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
    config: "MosaicJobConfig",
    *,
    world_size: int,
    rows: int,
    step: int | None,
    nodes: int = 1,
    step_time: float | None = None,
    bandwidth: str | None = None,
) -> None:
    """Print the streams, what the run makes of them and will fetch, and rows of a step.

    A picture is saved as well.

    Args:
        config: The configuration.
        world_size: Ranks that the run would have.
        rows: Rows to print.
        step: Whose rows; None for the first one that would be trained.
        nodes: Machines of the run.
        step_time: Seconds of a step, for what is fetched in an hour; None if not known.
        bandwidth: Bytes that a machine gets in a second, such as "500mb"; None if not known.

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
    if world_size % nodes:
        raise TrainError(
            f"{world_size} ranks cannot be shared out to --nodes {nodes} equally: change one"
        )
    # By this torchrun's ranks know it.
    os.environ["GROUP_WORLD_SIZE"] = str(nodes)
    try:
        loader = build_mosaic_dataloader(
            dp_world_size=layout.dp_world_size, dp_rank=0, tokenizer=tokenizer, job_config=config
        )
    finally:
        del os.environ["GROUP_WORLD_SIZE"]
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
            step_time=step_time,
            bandwidth=bandwidth,
            resumes_from=None if resumed.checkpoint is None else str(resumed.checkpoint),
        )
    finally:
        loader.dataset.close()
