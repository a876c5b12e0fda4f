"""Everything that can be known to be wrong before a rank starts, cheap things first."""

import logging
import time
from typing import TYPE_CHECKING

from mosaic_train.checks.checkpoint import check_checkpoint, keep_lanes
from mosaic_train.checks.datasets import check_datasets
from mosaic_train.checks.device import check_device
from mosaic_train.checks.masks import check_document_masks
from mosaic_train.checks.memory import check_memory
from mosaic_train.checks.model import ChosenModel, find_model
from mosaic_train.checks.parallel import (
    Layout,
    check_batches,
    check_heads,
    check_replicas,
    check_sequence,
    find_layout,
)
from mosaic_train.checks.pipeline import check_pipeline
from mosaic_train.checks.positions import check_positions
from mosaic_train.checks.precision import check_precision
from mosaic_train.checks.report import Report
from mosaic_train.checks.sketch import sketch_model
from mosaic_train.checks.speed import check_speed
from mosaic_train.checks.torchtitan_options import Run, check_options, check_schedule
from mosaic_train.checks.unused import check_unused
from mosaic_train.checks.vocabulary import check_vocabulary, load_tokenizer
from mosaic_train.checks.weights import check_weights
from mosaic_train.data import prepare_data
from mosaic_train.dump_folder import check_disk, check_dump_folder
from mosaic_train.spec import vocabulary_of

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

logger = logging.getLogger("mosaic_train")


def prepare_and_check(
    config: "MosaicJobConfig", *, world_size: int, ranks_here: int, tell: bool = True
) -> None:
    """Check the configuration, prepare the data, then check what the data decides.

    All mistakes are found together. What only costs something is told as a warning, and the whole
    summed up in one line.

    Args:
        config: The parsed configuration. Only lanes left open are filled in (see `keep_lanes`).
        world_size: Ranks of the whole run.
        ranks_here: Ranks on this machine.
        tell: Whether warnings and summary are told here; of several ranks only one should.

    Raises:
        TrainError: Mistakes that the app finds. The packages' own errors pass through; several
            come as one `SeveralErrors`.
    """
    start = time.monotonic()
    report = Report()
    model = report.attempt(find_model, config)
    layout = report.attempt(find_layout, config, world_size)
    if model is not None:
        report.facts.append(model.name)
        _check_device(config, model, layout, world_size, report)
    run = Run(config, model, layout, world_size)
    check_options(run, report)
    report.attempt(check_schedule, run, report)
    check_unused(config, report)
    if tell:
        report.attempt(check_dump_folder, config)
    machines = world_size // ranks_here
    resume = _check_configuration(config, model, layout, ranks_here, machines, report)
    if config.mosaic_prepare.input:
        # It may take hours, which a mistake that is known already must not cost.
        report.stop_on_errors()
    before = len(report.errors)
    report.attempt(prepare_data, config)
    if len(report.errors) == before:
        _check_data(config, model, layout, report, resume=resume)
    report.stop_on_errors()
    if tell:
        for line in report.warnings:
            logger.warning("%s", line)
        # Apart from the facts, lest the steps seem to take so long.
        took = f"(checks took {time.monotonic() - start:.1f} s)"
        count = len(report.warnings)
        found = f"{count} warning{'s' if count > 1 else ''}" if count else "all is well"
        logger.info("checked %s: %s %s", ", ".join(report.facts), found, took)


def _check_device(
    config: "MosaicJobConfig",
    model: ChosenModel,
    layout: Layout | None,
    world_size: int,
    report: Report,
) -> None:
    before = len(report.errors)
    report.attempt(check_device, config, model)
    # Of a model that cannot be trained on this device at all, the number format is no matter.
    if len(report.errors) == before and layout is not None:
        report.attempt(check_precision, config, model, world_size)


def _check_configuration(
    config: "MosaicJobConfig",
    model: ChosenModel | None,
    layout: Layout | None,
    ranks_here: int,
    machines: int,
    report: Report,
) -> bool:
    """Check what needs no data.

    Returns:
        Whether the checkpoint, if there is one, can be read on.
    """
    report.attempt(check_speed, config, report)
    if model is not None:
        report.attempt(check_positions, config, model, report)
    if layout is not None:  # else the degrees are to be changed first
        report.attempt(check_batches, config, layout)
        report.attempt(check_sequence, config)
        if model is not None:
            report.attempt(check_heads, config, model)
            report.attempt(check_replicas, config, model)
            report.attempt(check_pipeline, config, model)
    sketch = None if model is None else report.attempt(sketch_model, config, model)
    if model is not None and sketch is not None and layout is not None:
        report.attempt(check_memory, config, model, sketch, layout, ranks_here, report)
    before = len(report.errors)
    if model is not None and sketch is not None:
        report.attempt(check_disk, config, sketch, machines, report)
        report.attempt(check_weights, config, model, sketch)
    report.attempt(check_checkpoint, config)
    checkpoint = config.checkpoint
    if checkpoint.enable and checkpoint.last_save_in_hf and not checkpoint.load_only:
        report.warn(
            "checkpoint.last_save_in_hf = true: the last checkpoint will hold weights alone, so "
            "that the run cannot be resumed from it; set it to false to be able to go on training"
        )
    report.attempt(keep_lanes, config)
    return len(report.errors) == before


def _check_data(
    config: "MosaicJobConfig",
    model: ChosenModel | None,
    layout: Layout | None,
    report: Report,
    *,
    resume: bool,
) -> None:
    before = len(report.errors)
    vocab_size = None if model is None else vocabulary_of(model.args)
    tokenizer = report.attempt(load_tokenizer, config)
    if len(report.errors) > before:
        # Text cannot be opened without one; its absence is told already.
        from tokenizers import Tokenizer, models

        tokenizer = Tokenizer(models.BPE())
    elif model is not None:
        if tokenizer is not None:
            errors = len(report.errors)
            report.attempt(check_vocabulary, config, model, tokenizer)
            if len(report.errors) > errors:
                # Of rows that this tokenizer made, the same would be said once more.
                vocab_size = None
        report.attempt(check_document_masks, config, model, tokenizer)
    # Without a layout the data can be opened all the same, by a single rank.
    check_datasets(
        config,
        layout or Layout(dp_world_size=1),
        tokenizer,
        report,
        resume=resume,
        vocab_size=vocab_size,
    )
