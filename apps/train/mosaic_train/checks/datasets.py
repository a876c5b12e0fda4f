"""Can the data be opened, and does it hold what training needs?"""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.amount import check_amount
from mosaic_train.checks.caches import check_caches
from mosaic_train.checks.continued import continue_from_checkpoint
from mosaic_train.checks.locality import check_locality
from mosaic_train.checks.parallel import Layout
from mosaic_train.checks.report import Report
from mosaic_train.checks.rows import check_rows
from mosaic_train.checks.vocabulary import check_first_rows

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
            if resume:
                report.attempt(_check_position, config, training, report)
            report.attempt(check_amount, config, training, report)
            wrong = check_first_rows(training.dataset, vocab_size, report)
            check_rows(training.dataset, report, skip=wrong)
            check_caches("mosaic_dataloader", config.mosaic_dataloader.dataset, training, report)
    if not config.validation.enable:
        return
    validate = build_mosaic_validation_dataloader
    section = "mosaic_validation_dataloader"
    with _opened(section, validate, config, layout, tokenizer, report) as validation:
        if validation is not None:
            report.attempt(validation.check)
            wrong = check_first_rows(validation.dataset, vocab_size, report)
            check_rows(validation.dataset, report, task="validation", skip=wrong)
            check_caches(section, config.mosaic_validation_dataloader.dataset, validation, report)


def _check_position(config: "MosaicJobConfig", loader: Any, report: Report) -> None:
    checkpoint, _ = continue_from_checkpoint(config, loader, report)
    # A checkpoint brings the order of its first run's layout with it.
    loader.check()
    if checkpoint is None:
        check_locality(loader, report)


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

    loader = attempt(config)
    if loader is None:
        for alone in _each_stream_alone(config, section):
            opened = attempt(alone)
            if opened is not None:
                opened.dataset.close()
    try:
        yield loader
    finally:
        # The launcher lives as long as the run, and must not hold on to a cache that ranks use.
        if loader is not None:
            loader.dataset.close()


def _each_stream_alone(config: "MosaicJobConfig", section: str) -> Iterator["MosaicJobConfig"]:
    """The configuration with one stream at a time, since a loader stops at the first bad one."""
    loader = getattr(config, section)
    streams = loader.dataset.streams
    if len(streams) < 2:
        return
    for name, stream in streams.items():
        # Without weights, which may be wrong for the others' sake.
        alone = dataclasses.replace(stream, proportion=None, repeat=None, choose=None)
        dataset = dataclasses.replace(loader.dataset, streams={name: alone}, epoch_size=None)
        replaced = {section: dataclasses.replace(loader, dataset=dataset)}
        yield dataclasses.replace(config, **replaced)
