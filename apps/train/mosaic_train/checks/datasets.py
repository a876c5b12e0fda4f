"""Can the data be opened, and does it hold what training needs?"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mosaic_dataloader import checks
from mosaic_train.checks.resume import Resumed, resume_from_checkpoint, steps_of
from mosaic_train.errors import TrainError
from mosaic_trainspec.checks import Layout, Report, check_steps_left

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

_TRAINING, _VALIDATION = "mosaic_dataloader", "mosaic_validation_dataloader"


def check_datasets(
    config: "MosaicJobConfig",
    layout: Layout,
    tokenizer: Any,
    report: Report,
    *,
    resume: bool = True,
    trains: bool = True,
    vocab_size: int | None = None,
) -> None:
    """Build the loaders as the first rank will, and look at their data.

    Building opens the indexes, fetching those that are remote, and checks the columns.

    Args:
        config: The configuration.
        layout: How the ranks share the work.
        tokenizer: Encodes text.
        report: Takes mistakes and costs, and what the run trains on as facts.
        resume: Whether to look at the position in the checkpoint, too.
        trains: Whether steps must be left to train.
        vocab_size: Token ids that the model embeds; None where that is not known.
    """
    from mosaic_dataloader import build_mosaic_dataloader, build_mosaic_validation_dataloader

    build = build_mosaic_dataloader
    with _opened(_TRAINING, build, config, layout, tokenizer, report) as training:
        if training is not None:
            _check_start(config, training, report, resume=resume, trains=trains)
            _check_data(training, _names(_TRAINING, "training"), vocab_size, report)
    if not config.validation.enable:
        return
    validate = build_mosaic_validation_dataloader
    with _opened(_VALIDATION, validate, config, layout, tokenizer, report) as validation:
        if validation is not None:
            report.attempt(validation.check)
            report.attempt(_check_validation_steps, config, validation)
            _check_data(validation, _names(_VALIDATION, "validation"), vocab_size, report)


def _names(section: str, task: str) -> checks.OptionNames:
    """What the options of a loader's section are called in the configuration."""
    return checks.OptionNames(f"{section}.dataset.", f"{task}.seq_len", f"{task}.local_batch_size")


def _check_start(
    config: "MosaicJobConfig", loader: Any, report: Report, *, resume: bool, trains: bool
) -> None:
    """Look at where the run starts, and what it trains on from there."""
    from mosaic_dataloader.inspect import run_facts

    names = _names(_TRAINING, "training")
    start = report.attempt(_start, config, loader, report) if resume else None
    report.refuse(checks.short_epoch(loader, names=names))
    steps = steps_of(config, loader, start.steps_done if start else 0)
    report.facts += run_facts(steps)
    if start is None:
        return
    if trains:
        report.attempt(check_steps_left, config, start.checkpoint, start.steps_done)
    run: dict[str, Any] = {
        "steps": steps.total - steps.done,
        "step_rows": steps.rows,
        "names": names,
    }
    report.refuse(report.attempt(checks.too_many_repeats, loader, **run) or ())
    report.warn(*(report.attempt(checks.many_repeats, loader, **run) or ()))
    if start.data:  # a run keeps the order and the lanes that it began with
        return
    report.warn(*checks.machines_per_shard(loader, names=names))
    report.warn(*checks.documents_per_lane(loader, names=names))
    report.warn(*(report.attempt(checks.mixture_shares, loader, **run) or ()))


def _start(config: "MosaicJobConfig", loader: Any, report: Report) -> Resumed:
    resumed = resume_from_checkpoint(config, loader, report)
    # A checkpoint keeps the order of its first run's layout.
    loader.check()
    return resumed


def _check_validation_steps(config: "MosaicJobConfig", loader: Any) -> None:
    steps, streams = config.validation.steps, len(loader.by_stream())
    if steps != -1 and steps < streams:
        raise TrainError(
            f"validation.steps {steps} is too few for a batch of each of the {streams} streams in "
            f"[{_VALIDATION}]: set it to {streams} or more, or to -1 for all batches"
        )


def _check_data(
    loader: Any, names: checks.OptionNames, vocab_size: int | None, report: Report
) -> None:
    """Look at caches and rows; at the caches before the first shards are fetched."""
    report.refuse(checks.unwritable_caches(loader.dataset, names=names))
    report.warn(*checks.slow_caches(loader.dataset))
    report.warn(*checks.full_caches(loader, names=names))
    report.refuse(checks.first_samples(loader.dataset, vocab_size=vocab_size))
    report.warn(*checks.row_lengths(loader.dataset, names=names))


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
        # The streams for validation may share it with those for training.
        known, found = report.errors[:before], report.errors[before:]
        report.errors[before:] = [line for line in _joined(found) if line not in known]
    try:
        yield loader
    finally:
        # The launcher lives as long as the run, and must not hold on to a cache that ranks use.
        if loader is not None:
            loader.dataset.close()


def _joined(mistakes: list[str]) -> list[str]:
    """One line for a mistake that several streams share, such as an option of all of them."""
    first: dict[str, str] = {}
    others: dict[str, list[str]] = {}
    for line in mistakes:
        named = re.match(r'stream ("[^"]*")', line)
        same = line.replace(named[1], "") if named else line
        if named and same in first:
            others.setdefault(same, []).append(named[1])
        else:
            first[same] = line
    return [
        line + (f" (the same holds for stream {', '.join(others[same])})" if same in others else "")
        for same, line in first.items()
    ]


def _each_stream_alone(config: "MosaicJobConfig", section: str) -> Iterator["MosaicJobConfig"]:
    """The configuration with one stream at a time, since a loader stops at the first bad one."""
    loader = getattr(config, section)
    streams = loader.dataset.streams
    if len(streams) < 2:
        return
    for name, stream in streams.items():
        # Without what may be wrong because of the others, and is reported for all of them: weights,
        # stages, and a limit of the cache that they share.
        alone = dataclasses.replace(stream, proportion=None, repeat=None, choose=None)
        dataset = dataclasses.replace(
            loader.dataset,
            streams={name: alone},
            stages=[],
            weights_in="samples",
            on_data_change="error",
            epoch_size=None,
            cache_limit=None,
        )
        replaced = {section: dataclasses.replace(loader, dataset=dataset)}
        yield dataclasses.replace(config, **replaced)
