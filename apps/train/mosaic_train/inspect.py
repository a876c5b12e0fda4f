"""`--check` and `--inspect-data`: what a run would do, without starting a rank."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.resume import (
    Resumed,
    check_position,
    resume_from_checkpoint,
    steps_of,
)
from mosaic_train.errors import TrainError, is_user_error
from mosaic_train.setup import check_run, log_findings
from mosaic_trainspec.checks import (
    Report,
    build_meta_model,
    check_batches,
    find_layout,
    find_model,
    next_save,
    own_folder,
    saves_checkpoints,
)

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig
    from mosaic_dataloader.inspect import Steps
    from mosaic_train.cli import Arguments


def show_run(
    config: "MosaicJobConfig", arguments: "Arguments", *, world_size: int, ranks_here: int
) -> None:
    """Check a run, and print its plan or some of its data.

    Data can be looked at whatever else is wrong, and after the last step too.

    Args:
        config: The configuration.
        arguments: What to show, by `--check` or `--inspect-data` and the options of that.
        world_size: Ranks that the run would have.
        ranks_here: Ranks that this machine would have.

    Raises:
        TrainError: A mistake that the app finds. The packages' own errors pass through.
    """
    start, report, rows = time.monotonic(), Report(is_user_error), arguments.inspect_data
    plans = rows is None
    check_run(
        config,
        report,
        world_size=world_size,
        ranks_here=ranks_here,
        owns_folder=plans,
        trains=plans,
    )
    if plans:
        report.stop_on_errors()
    log_findings(report, start)
    try:
        if rows is None:
            _print_plan(config, world_size)
        else:
            _look_at_data(config, arguments, rows, world_size)
    except Exception as error:
        # With mistakes the data may be out of reach, which those say already.
        if not report.errors or not is_user_error(error):
            raise
    report.stop_on_errors()


@contextmanager
def _opened(
    config: "MosaicJobConfig", world_size: int, nodes: int = 1
) -> Iterator[tuple["Steps", Resumed, Any]]:
    """The steps of the run, where it starts, and its tokenizer."""
    from mosaic_dataloader import build_mosaic_dataloader, build_mosaic_tokenizer

    layout = find_layout(config, world_size)
    check_batches(config, layout)
    check_position(config)
    tokenizer = build_mosaic_tokenizer(config)
    if world_size % nodes:
        raise TrainError(
            f"{world_size} ranks cannot be shared out to --nodes {nodes} equally: change one"
        )
    with ExitStack() as opened:
        with _without_warnings():
            loader = build_mosaic_dataloader(
                dp_world_size=layout.dp_world_size,
                dp_rank=0,
                tokenizer=tokenizer,
                job_config=config,
                nodes=nodes,
            )
            opened.callback(loader.dataset.close)
            resumed = resume_from_checkpoint(config, loader, Report())
            loader.check()
        yield steps_of(config, loader, resumed.steps_done), resumed, tokenizer


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Leave out what the checks, which opened the same data, have warned of."""
    library = logging.getLogger("mosaic_dataloader")
    level = library.level
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)


def _look_at_data(
    config: "MosaicJobConfig", arguments: "Arguments", rows: int, world_size: int
) -> None:
    """Print the streams, what the run makes of them and rows of a step; save the picture."""
    from mosaic_dataloader.inspect import print_run

    folder = Path(config.job.dump_folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainError(
            f"cannot write a picture to {folder} ({error.strerror}): choose another job.dump_folder"
        ) from error
    with _opened(config, world_size, arguments.nodes) as (steps, resumed, tokenizer):
        step = arguments.at_step or resumed.steps_done + 1
        print_run(
            steps,
            step=step,
            rows=rows,
            tokenizer=tokenizer,
            picture=folder / f"inspect-data-step-{step}.png",
            step_time=arguments.step_time,
            bandwidth=arguments.bandwidth,
            resumes_from=_resumes_from(resumed),
        )


def _resumes_from(resumed: Resumed) -> str | None:
    return None if resumed.checkpoint is None else str(resumed.checkpoint)


def _print_plan(config: "MosaicJobConfig", world_size: int) -> None:
    from mosaic_dataloader.inspect import mixture_tree, run_lines, stream_table

    with _opened(config, world_size) as (steps, resumed, _):
        print(stream_table(steps.loader.dataset), "", sep="\n")
        print(*mixture_tree(steps.loader, steps), "", sep="\n")
        print(*run_lines(steps, _resumes_from(resumed)), sep="\n")
    print(*_plan_lines(config, world_size, resumed.steps_done), sep="\n", flush=True)


def _plan_lines(config: "MosaicJobConfig", world_size: int, done: int) -> Iterator[str]:
    """What the run does besides reading data."""
    model = find_model(config)
    meta_model = build_meta_model(config, model)
    size = f", {meta_model.parameters:,} parameters" if meta_model else ""
    yield f"model: {model.name}{size}"
    parallelism, checkpoint = config.parallelism, config.checkpoint
    replicas = parallelism.data_parallel_replicate_degree
    degrees = {
        "replicas": replicas,
        "FSDP": find_layout(config, world_size).dp_world_size // replicas,
        "TP": parallelism.tensor_parallel_degree,
        "PP": parallelism.pipeline_parallel_degree,
        "CP": parallelism.context_parallel_degree,
    }
    factors = " * ".join(f"{kind} {degree}" for kind, degree in degrees.items() if degree > 1)
    experts = parallelism.expert_parallel_degree
    yield (
        f"ranks: {world_size}"
        + (f" = {factors}" if factors else "")
        + (f"; experts on {experts} ranks" if experts > 1 else "")
    )
    if saves_checkpoints(config):
        last = "; the last one holds the weights alone" if checkpoint.last_save_model_only else ""
        yield (
            f"saves: {own_folder(config)}, first after step "
            f"{next_save(config, done):,}, then {_every(checkpoint.interval)} and at the end{last}"
        )
    else:
        yield "saves: no checkpoint"
    if config.validation.enable:
        amount = config.validation.steps
        how_much = "all of its data" if amount < 0 else f"{amount:,} batches on each rank"
        yield f"validates: {_every(config.validation.freq)}, on {how_much}"
    metrics = config.metrics
    places = [_every(metrics.log_freq)]
    if metrics.enable_tensorboard:
        places.append(f"TensorBoard in {Path(config.job.dump_folder, metrics.save_tb_folder)}")
    if metrics.enable_wandb:
        places.append("Weights & Biases")
    yield f"logs:  {', '.join(places)}"


def _every(steps: int) -> str:
    return "every step" if steps == 1 else f"every {steps:,} steps"
