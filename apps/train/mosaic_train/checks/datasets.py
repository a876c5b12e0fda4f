"""Can the data be opened, and does it hold what training needs?"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.amount import check_amount, check_steps_left, step_rows
from mosaic_train.checks.caches import check_caches
from mosaic_train.checks.continued import continue_from_checkpoint
from mosaic_train.checks.locality import check_locality
from mosaic_train.checks.parallel import Layout
from mosaic_train.checks.report import Report
from mosaic_train.checks.rows import check_order, check_rows
from mosaic_train.checks.vocabulary import check_first_rows
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_datasets(
    config: "MosaicJobConfig",
    layout: Layout,
    tokenizer: Any,
    report: Report,
    *,
    resume: bool = True,
    vocab_size: int | None = None,
) -> None:
    """Build the loaders as the first rank will, and look at their data.

    Building opens the indexes, fetching those that are remote, and checks the columns.

    Args:
        config: The configuration.
        layout: How the ranks share the work.
        tokenizer: Encodes text.
        report: Where mistakes and costs are noted.
        resume: Whether to look at the position in the checkpoint, too.
        vocab_size: Token ids that the model embeds; None where that is not known.
    """
    from mosaic_dataloader import build_mosaic_dataloader, build_mosaic_validation_dataloader

    build = build_mosaic_dataloader
    with _opened("mosaic_dataloader", build, config, layout, tokenizer, report) as training:
        if training is not None:
            start = report.attempt(_check_position, config, training, report) if resume else None
            _, steps_done = start or (None, 0)
            report.attempt(check_amount, config, training, report, steps_done=steps_done)
            if start is not None:
                report.attempt(check_steps_left, config, *start)
                if start[0] is None:
                    rows = step_rows(config, training)
                    report.attempt(check_order, training, config.training.steps, rows, report)
            # Before the first shards are fetched.
            check_caches("mosaic_dataloader", config.mosaic_dataloader.dataset, training, report)
            wrong = check_first_rows(training.dataset, vocab_size, report)
            check_rows(training.dataset, report, skip=wrong)
    if not config.validation.enable:
        return
    validate = build_mosaic_validation_dataloader
    section = "mosaic_validation_dataloader"
    with _opened(section, validate, config, layout, tokenizer, report) as validation:
        if validation is not None:
            report.attempt(validation.check)
            check_caches(section, config.mosaic_validation_dataloader.dataset, validation, report)
            wrong = check_first_rows(validation.dataset, vocab_size, report)
            check_rows(validation.dataset, report, task="validation", skip=wrong)


def _check_position(
    config: "MosaicJobConfig", loader: Any, report: Report
) -> tuple[Path | None, int]:
    """Where the run goes on: the checkpoint and the steps that lie behind."""
    checkpoint, steps_done = continue_from_checkpoint(config, loader, report)
    # A checkpoint brings the order of its first run's layout with it.
    loader.check()
    if checkpoint is None:
        check_locality(loader, report)
    return checkpoint, steps_done


@contextmanager
def _opened(
    section: str,
    build: Callable[..., Any],
    config: "MosaicJobConfig",
    layout: Layout,
    tokenizer: Any,
    report: Report,
) -> Iterator[Any]:
    """A loader; None where it cannot be built, with every stream's own mistake noted."""

    def attempt(to_build: "MosaicJobConfig") -> Any:
        return report.attempt(
            build,
            dp_world_size=layout.dp_world_size,
            dp_rank=0,
            tokenizer=tokenizer,
            job_config=to_build,
        )

    before = len(report.errors)
    loader = attempt(config)
    if loader is None:
        for alone in _each_stream_alone(config, section):
            opened = attempt(alone)
            if opened is not None:
                opened.dataset.close()
        report.errors[before:] = _joined(report.errors[before:])
    try:
        yield loader
    finally:
        # The launcher lives as long as the run, and must not hold on to a cache that ranks use.
        if loader is not None:
            loader.dataset.close()


def _joined(errors: list[BaseException]) -> list[BaseException]:
    """One line for a mistake that several streams share, such as an option of all of them."""
    first: dict[str, BaseException] = {}
    others: dict[str, list[str]] = {}
    for error in errors:
        line = str(error)
        named = re.match(r'stream ("[^"]*")', line)
        same = line.replace(named[1], "") if named else line
        if named and same in first:
            others.setdefault(same, []).append(named[1])
        else:
            first[same] = error
    return [
        TrainError(f"{error} (the same holds for stream {', '.join(others[same])})")
        if same in others
        else error
        for same, error in first.items()
    ]


def _each_stream_alone(config: "MosaicJobConfig", section: str) -> Iterator["MosaicJobConfig"]:
    """The configuration with one stream at a time, since a loader stops at the first bad one."""
    loader = getattr(config, section)
    streams = loader.dataset.streams
    if len(streams) < 2:
        return
    for name, stream in streams.items():
        # Without what may be wrong for the others' sake, and is told of them together: weights, and
        # a limit of the cache that they share.
        alone = dataclasses.replace(stream, proportion=None, repeat=None, choose=None)
        dataset = dataclasses.replace(
            loader.dataset, streams={name: alone}, epoch_size=None, cache_limit=None
        )
        replaced = {section: dataclasses.replace(loader, dataset=dataset)}
        yield dataclasses.replace(config, **replaced)
