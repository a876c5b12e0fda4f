"""Everything that can be known to be wrong before a rank starts, cheap things first."""

import logging
import time
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.datasets import check_datasets
from mosaic_train.checks.disk import check_disk, check_dump_folder
from mosaic_train.checks.resume import check_position, keep_lanes
from mosaic_train.checks.tokenizer import check_document_masks, check_vocabulary
from mosaic_train.errors import TrainError, is_user_error
from mosaic_trainspec.checks import Layout, Report, Run, check_fit, check_model, check_resume

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

logger = logging.getLogger("mosaic_train")


def prepare_and_check(
    config: "MosaicJobConfig", *, world_size: int, ranks_here: int, log: bool = True
) -> None:
    """Check the configuration, prepare the data, then check what the data decides.

    All mistakes are found together. What only costs something is a warning, and one line sums up
    the whole.

    Args:
        config: The parsed configuration. Only lanes left open are filled in (see `keep_lanes`).
        world_size: Ranks of the whole run.
        ranks_here: Ranks on this machine.
        log: Whether to log warnings and summary; of several ranks only one should.

    Raises:
        TrainSpecError: There are mistakes; it has a line for each.
    """
    start = time.monotonic()
    report = Report(is_user_error)
    check_run(config, report, world_size=world_size, ranks_here=ranks_here, owns_folder=log)
    report.stop_on_errors()
    if log:
        log_findings(report, start)


def log_findings(report: Report, start: float) -> None:
    """Log the warnings, and one line that sums up the checks, which began at `start`."""
    for line in report.warnings:
        logger.warning("%s", line)
    # Apart from the facts, so that this does not read as the duration of the steps.
    took = f"(checks took {time.monotonic() - start:.1f} s)"
    found = [
        f"{len(lines)} {word}{'s' if len(lines) > 1 else ''}"
        for word, lines in (("mistake", report.errors), ("warning", report.warnings))
        if lines
    ]
    summary = " and ".join(found) or "all is well"
    logger.info("checked %s: %s %s", ", ".join(report.facts), summary, took)


def check_run(
    config: "MosaicJobConfig",
    report: Report,
    *,
    world_size: int,
    ranks_here: int,
    owns_folder: bool = True,
    trains: bool = True,
) -> None:
    """Check everything that is known before the first step, and prepare the data.

    Args:
        config: As for `prepare_and_check`, like the ranks.
        report: Takes mistakes, warnings and facts.
        world_size: Ranks of the whole run.
        ranks_here: Ranks on this machine.
        owns_folder: Whether the dump folder must not be another run's.
        trains: Whether the run is to be trained, for which steps must be left; else its data are
            only looked at.

    Raises:
        TrainSpecError: The run is to be trained, there are mistakes, and data is to be prepared.
    """
    run = check_model(config, report, world_size=world_size)
    check_unused(config, report)
    if owns_folder:
        report.attempt(check_dump_folder, config)
    resume = _check_configuration(config, run, ranks_here, report)
    if trains and config.mosaic_prepare.input:
        # It may take hours, which a mistake that is known already must not cost.
        report.stop_on_errors()
    before = len(report.errors)
    report.attempt(prepare_data, config)
    if len(report.errors) == before:
        _check_data(config, run, report, resume=resume, trains=trains)


# By what they begin with: what is read in their place.
_UNUSED = {
    "training.dataset": "the data are those of [mosaic_dataloader.dataset]",
    "training.dataloader.": "the loader's options are those of [mosaic_dataloader]",
    "validation.dataset": "the data are those of [mosaic_validation_dataloader.dataset]",
    "validation.dataloader.": "the loader's options are those of [mosaic_validation_dataloader]",
    "memory_estimation.": "a script of TorchTitan's own estimates; here the checks do",
}


def check_unused(config: "MosaicJobConfig", report: Report) -> None:
    """Warn of options without effect that are set to other values than their defaults.

    Fault tolerance, without which a run may be worth nothing, is a mistake.
    """
    from torchtitan.config import JobConfig

    from mosaic_config.schema import tables_of

    if config.fault_tolerance.enable:
        report.refuse(
            [
                "fault_tolerance.enable = true has no effect in this trainer, which does not use "
                "TorchFT: set it to false"
            ]
        )
    for path, table in tables_of(JobConfig()):
        for key, default in vars(table).items():
            option = ".".join((*path, key))
            for begin, instead in _UNUSED.items():
                if option.startswith(begin) and (given := attrgetter(option)(config)) != default:
                    report.warn(f"{option} = {given!r} has no effect here: {instead}; remove it")


def _check_configuration(
    config: "MosaicJobConfig", run: Run, ranks_here: int, report: Report
) -> bool:
    """Check what needs no data; returns whether the checkpoint can be looked at further."""
    meta_model = check_fit(run, ranks_here, report)
    before = len(report.errors)
    if meta_model is not None:
        report.attempt(check_disk, config, meta_model, run.world_size // ranks_here, report)
    check_resume(run, meta_model, report)
    report.attempt(check_position, config)
    report.attempt(keep_lanes, config)
    return len(report.errors) == before


def _check_data(
    config: "MosaicJobConfig", run: Run, report: Report, *, resume: bool, trains: bool
) -> None:
    from mosaic_dataloader import build_mosaic_tokenizer

    model = run.model
    before = len(report.errors)
    vocab_size = None if model is None else model.vocab_size
    tokenizer: Any = report.attempt(build_mosaic_tokenizer, config)
    if len(report.errors) > before:
        # Text cannot be opened without one; that it is missing is reported already.
        from tokenizers import Tokenizer, models

        tokenizer = Tokenizer(models.BPE())
    elif model is not None:
        if tokenizer is not None:
            errors = len(report.errors)
            report.attempt(check_vocabulary, config, model, tokenizer)
            if len(report.errors) > errors:
                # The same would be reported once more for the rows that this tokenizer made.
                vocab_size = None
        report.attempt(check_document_masks, config, model, tokenizer)
    # Even without a layout the data can be opened, by a single rank.
    check_datasets(
        config,
        run.layout or Layout(dp_world_size=1),
        tokenizer,
        report,
        resume=resume,
        trains=trains,
        vocab_size=vocab_size,
    )


def prepare_data(config: "MosaicJobConfig") -> None:
    """Prepare what the configuration asks for; a no-op when it is there already.

    Several ranks may call this at once: one prepares, the others wait.

    Raises:
        TrainError: The section contradicts another.
        MosaicDataError: It cannot be prepared.
    """
    section = config.mosaic_prepare
    if not section.input or not section.output:  # the configuration has both or neither
        return
    if section.train_tokenizer and section.train_tokenizer != config.mosaic_tokenizer.name:
        raise TrainError(
            f"mosaic_prepare.train_tokenizer is {section.train_tokenizer!r}, but "
            f"mosaic_tokenizer.name is {config.mosaic_tokenizer.name!r}: training needs the "
            "tokenizer that the data is made with, so set both to the same directory"
        )

    from mosaic_prepare import PrepareOptions, prepare

    # The section's names are those of `PrepareOptions`, and so are its defaults.
    options = dict(vars(section))
    if section.form == "rows" and section.seq_len is None:
        options["seq_len"] = config.training.seq_len
    if section.form != "text" and not section.train_tokenizer:
        options["tokenizer"] = config.mosaic_tokenizer.name
        options["tokenizer_kwargs"] = config.mosaic_tokenizer.kwargs
    prepare(PrepareOptions(**options))
