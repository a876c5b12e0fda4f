"""Builds the validator with the arguments of TorchTitan's Trainer, and refuses what cannot run."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

from torch.distributed.pipelining.schedules import (
    ScheduleDualPipeV,
    ScheduleZBVZeroBubble,
    _PipelineSchedule,
)
from torchtitan.components.loss import LossFunction
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.components.validate import ValidationContext
from torchtitan.config import JobConfig
from torchtitan.distributed import ParallelDims
from torchtitan.protocols import BaseModelArgs

from mosaic_trainspec.checks.parallel import no_validation
from mosaic_trainspec.errors import TrainSpecError
from mosaic_trainspec.validator import MosaicValidator, ValidationDataLoaderBuilder


def build_mosaic_validator(
    job_config: JobConfig,
    dp_world_size: int,
    dp_rank: int,
    tokenizer: BaseTokenizer,
    parallel_dims: ParallelDims,
    loss_fn: LossFunction,
    validation_context: ValidationContext,
    maybe_enable_amp: AbstractContextManager[None],
    metrics_processor: MetricsProcessor,
    pp_schedule: _PipelineSchedule | None = None,
    pp_has_first_stage: bool | None = None,
    pp_has_last_stage: bool | None = None,
    *,
    model_args: Mapping[str, BaseModelArgs],
    build_validation_dataloader_fn: ValidationDataLoaderBuilder | None,
) -> MosaicValidator:
    """Build the validator; TorchTitan calls this only if ``validation.enable`` is set.

    Args:
        job_config: Its ``validation``, ``training`` and ``model.flavor`` are used.
        dp_world_size: Not used, and neither is the next one: the batch mesh has both. Under fault
            tolerance TorchTitan counts all replica groups here, but each group validates on the
            whole set: groups come and go, and nothing sums over them.
        dp_rank: See above.
        tokenizer: Passed to the loader's builder.
        parallel_dims: The layout.
        loss_fn: Sum over the targets.
        validation_context: Entered around each forward pass.
        maybe_enable_amp: Entered around each forward pass without pipeline parallelism.
        metrics_processor: Logs the result.
        pp_schedule: With pipeline parallelism, the training schedule.
        pp_has_first_stage: With pipeline parallelism, whether this rank holds the first stage.
        pp_has_last_stage: With pipeline parallelism, whether this rank holds the last stage.
        model_args: The spec's flavors. ``get_mosaic_train_spec`` binds it, as the next one.
        build_validation_dataloader_fn: Called with ``dp_world_size``, ``dp_rank``, ``tokenizer``
            and ``job_config``; returns a finite loader, or several by the names of their streams.

    Raises:
        TrainSpecError: No builder for a validation loader, a builder that returns none, fewer
            ``validation.steps`` than streams, ``validation.freq`` below 1, a pipeline schedule that
            cannot run forward only, or a validation batch that it cannot take.
    """
    if build_validation_dataloader_fn is None:
        raise TrainSpecError(
            "validation.enable is set, but there is no loader for it: pass "
            "build_validation_dataloader_fn, or set validation.enable to false"
        )
    if job_config.validation.freq < 1:
        raise TrainSpecError(
            f"validation.freq is {job_config.validation.freq}: set it to 1 or more training steps"
        )
    if pp_schedule is not None:
        _check_schedule(pp_schedule, job_config)
    mesh = parallel_dims.get_optional_mesh("batch")
    dp_world_size, dp_rank = (1, 0) if mesh is None else (mesh.size(), mesh.get_local_rank())
    loader = build_validation_dataloader_fn(
        dp_world_size=dp_world_size,
        dp_rank=dp_rank,
        tokenizer=tokenizer,
        job_config=job_config,
    )
    if isinstance(loader, Mapping):
        _check_streams(list(loader), job_config.validation.steps)
    return MosaicValidator(
        job_config=job_config,
        validation_dataloader=loader,
        model_args=model_args[job_config.model.flavor],
        tokenizer=tokenizer,
        parallel_dims=parallel_dims,
        loss_fn=loss_fn,
        validation_context=validation_context,
        maybe_enable_amp=maybe_enable_amp,
        metrics_processor=metrics_processor,
        pp_schedule=pp_schedule,
        pp_has_first_stage=pp_has_first_stage,
        pp_has_last_stage=pp_has_last_stage,
    )


def _check_streams(names: list[str], steps: int) -> None:
    if not names:
        raise TrainSpecError(
            "build_validation_dataloader_fn returned an empty mapping: let it return a loader for "
            "each stream by its name, or set validation.enable to false"
        )
    if steps != -1 and steps < len(names):
        raise TrainSpecError(
            f"validation.steps is {steps}, too few for a batch of each of the {len(names)} "
            f"validation streams: set it to {len(names)} or more, or to -1 for all batches"
        )


def _check_schedule(pp_schedule: _PipelineSchedule, job_config: JobConfig) -> None:
    # torch's V-shaped schedules hand a gradient over between two stages of a rank without looking
    # whether there is a backward pass, so their eval() ends in an assertion (torch 2.15).
    if isinstance(pp_schedule, ScheduleZBVZeroBubble | ScheduleDualPipeV):
        raise TrainSpecError(no_validation(job_config.parallelism.pipeline_parallel_schedule))
    # A schedule always cuts a batch into as many micro-batches as in training. Older torch also
    # keeps receive buffers of the training micro-batch's size, newer torch (2.15) allocates them
    # again; the same batch size is right for both.
    validation, training = job_config.validation, job_config.training
    if validation.local_batch_size != training.local_batch_size:
        raise TrainSpecError(
            f"validation.local_batch_size is {validation.local_batch_size}, but with pipeline "
            "parallelism validation uses the training schedule: set it to "
            f"training.local_batch_size = {training.local_batch_size}"
        )
