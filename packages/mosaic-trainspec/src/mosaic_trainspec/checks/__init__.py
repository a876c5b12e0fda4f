"""What torchtitan 0.2.2 refuses in a rank, much later, or does slowly: found before ranks start.

`check_job` looks at everything that the configuration alone decides. Its parts are here for
trainers that have checks of their own in between, one subject per module: a check raises one
mistake, with one line, or returns; what only costs something it notes in the report.

The modules import torchtitan inside functions only: a mistake that needs none of it must not wait.
"""

from typing import TYPE_CHECKING

from mosaic_trainspec.checks.checkpoint import (
    check_checkpoint,
    check_steps_left,
    check_weights,
    checkpoint_to_resume,
    compare_weights,
    complete_steps,
    is_distributed,
    load_entries,
    missing_parts,
    next_save,
    own_folder,
    read_values,
    saved_entries,
    saves_checkpoints,
)
from mosaic_trainspec.checks.machine import (
    bytes_per_parameter,
    check_device,
    check_memory,
    check_precision,
    check_speed,
)
from mosaic_trainspec.checks.model import ChosenModel, MetaModel, build_meta_model, find_model
from mosaic_trainspec.checks.parallel import (
    Layout,
    check_batches,
    check_heads,
    check_max_seq_len,
    check_pipeline,
    check_replicas,
    check_sequence,
    find_layout,
)
from mosaic_trainspec.checks.report import Report
from mosaic_trainspec.checks.torchtitan_options import Run, check_options, check_schedule
from mosaic_trainspec.torchtitan_patches import check_torchtitan

if TYPE_CHECKING:
    from torchtitan.config import JobConfig

__all__ = [
    "ChosenModel",
    "Layout",
    "MetaModel",
    "Report",
    "Run",
    "build_meta_model",
    "bytes_per_parameter",
    "check_batches",
    "check_checkpoint",
    "check_fit",
    "check_job",
    "check_model",
    "check_resume",
    "check_steps_left",
    "checkpoint_to_resume",
    "compare_weights",
    "complete_steps",
    "find_layout",
    "find_model",
    "is_distributed",
    "load_entries",
    "missing_parts",
    "next_save",
    "own_folder",
    "read_values",
    "saved_entries",
    "saves_checkpoints",
]


def check_job(job_config: "JobConfig", *, world_size: int, ranks_here: int) -> Report:
    """Check a configuration before ranks start, on one of the machines that are to train.

    Args:
        job_config: TorchTitan's. `model.name` may be a Mosaic variant's or its base's.
        world_size: Ranks of the whole run.
        ranks_here: Ranks on this machine.

    Returns:
        All mistakes and costs, a line each; `Report.stop_on_errors` raises the mistakes.
    """
    report = Report()
    report.attempt(check_torchtitan)
    if report.errors:  # the other checks read the code and the options of that version
        return report
    run = check_model(job_config, report, world_size=world_size)
    meta_model = check_fit(run, ranks_here, report)
    check_resume(run, meta_model, report)
    report.attempt(_check_step, job_config)
    return report


def _check_step(config: "JobConfig") -> None:
    folder, key = checkpoint_to_resume(config), "train_state.step"
    if folder is None or "train_state" in config.checkpoint.exclude_from_loading:
        return
    if key in saved_entries(folder):
        check_steps_left(config, folder, int(read_values(folder, [key])[key]))


def check_model(config: "JobConfig", report: Report, *, world_size: int) -> Run:
    """Find the model and how the ranks share it, and check each option and the device.

    Args:
        config: The configuration.
        report: Takes mistakes and warnings, and the model's name as a fact.
        world_size: Ranks of the whole run.
    """
    model = report.attempt(find_model, config)
    layout = report.attempt(find_layout, config, world_size)
    if model is not None:
        report.facts.append(model.name)
        before = len(report.errors)
        report.attempt(check_device, config, model)
        # For a model that cannot be trained on this device, the number format does not matter.
        if layout is not None and len(report.errors) == before:
            report.attempt(check_precision, config, model, world_size)
    run = Run(config, model, layout, world_size)
    check_options(run, report)
    report.attempt(check_schedule, run, report)
    return run


def check_fit(run: Run, ranks_here: int, report: Report) -> MetaModel | None:
    """Check that rows, batches, pipeline and memory fit the model and the ranks.

    Args:
        run: What `check_model` found.
        ranks_here: Ranks on this machine.
        report: Takes mistakes and warnings.

    Returns:
        The model's weights; None where they are not known.
    """
    config, model, layout = run.config, run.model, run.layout
    report.attempt(check_speed, config, report)
    if model is not None:
        report.attempt(check_max_seq_len, config, model, report)
    if layout is not None:  # else the degrees are to be changed first
        report.attempt(check_batches, config, layout)
        report.attempt(check_sequence, config)
        if model is not None:
            report.attempt(check_heads, config, model)
            report.attempt(check_replicas, config, model)
            report.attempt(check_pipeline, config, model)
    meta_model = None if model is None else report.attempt(build_meta_model, config, model)
    if model is not None and meta_model is not None and layout is not None:
        report.attempt(check_memory, config, model, meta_model, layout, ranks_here, report)
    return meta_model


def check_resume(run: Run, meta_model: MetaModel | None, report: Report) -> None:
    """Check that the run can resume from the checkpoint that it finds, and later from its last one.

    Args:
        run: What `check_model` found.
        meta_model: What `check_fit` found.
        report: Takes mistakes and warnings.
    """
    config, checkpoint = run.config, run.config.checkpoint
    if run.model is not None and meta_model is not None:
        report.attempt(check_weights, config, run.model, meta_model)
    report.attempt(check_checkpoint, config)
    if saves_checkpoints(config) and checkpoint.last_save_in_hf:
        report.warn(
            "checkpoint.last_save_in_hf = true: the last checkpoint will hold weights alone, so "
            "that the run cannot be resumed from it; set it to false to be able to resume"
        )
