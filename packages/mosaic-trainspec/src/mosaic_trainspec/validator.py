"""Validation whose loss is the exact mean over the set's targets, whatever the layout."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.pipelining.schedules import _PipelineSchedule
from torch.distributed.tensor import DTensor
from torchtitan.components.dataloader import BaseDataLoader
from torchtitan.components.loss import IGNORE_INDEX, LossFunction
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.components.validate import BaseValidator, ValidationContext
from torchtitan.config import JobConfig
from torchtitan.distributed import ParallelDims
from torchtitan.protocols import BaseModelArgs
from torchtitan.tools import utils
from torchtitan.tools.logging import logger

from mosaic_trainspec.errors import TrainSpecError
from mosaic_trainspec.lockstep import in_lockstep
from mosaic_trainspec.model_inputs import ModelInputs, prepare_model_inputs
from mosaic_trainspec.preserve_training_state import (
    evaluation_mode,
    forked_rng,
    kept_buffers,
    stopped_training_clock,
)

#: A finite loader, or one for each stream whose loss is to be logged, by the stream's name.
ValidationDataLoader: TypeAlias = BaseDataLoader | Mapping[str, BaseDataLoader]
ValidationDataLoaderBuilder: TypeAlias = Callable[..., ValidationDataLoader]


@dataclass(kw_only=True, eq=False)
class MosaicValidator(BaseValidator):
    """Validates on finite loaders and logs the mean loss per target, of each and of all.

    The loss is ``sum of the losses of all targets / number of targets`` over every batch,
    micro-batch and rank, summed in float64. It does not depend on the number of ranks, the batch
    size or how targets are spread over rows; a rank whose rows are all padding adds nothing.

    It holds what TorchTitan's Trainer passes; ``build_mosaic_validator`` checks it.

    Attributes:
        job_config: Its ``validation.freq`` and ``validation.steps`` are used.
        validation_dataloader: Yields ``({"input": int64 [B, T]}, labels int64 [B, T])``, with
            -100 where there is no target; every ``iter()`` starts at the set's beginning and
            gives equally many batches on every rank. Or several such loaders by the names of
            their streams, the same on every rank: they are read one after another.
        model_args: Of the trained flavor.
        tokenizer: For attention masks of documents.
        parallel_dims: The layout.
        loss_fn: Returns the sum of the losses of the targets that are not -100.
        validation_context: Entered around each forward pass (loss parallelism).
        maybe_enable_amp: Entered around each forward pass without pipeline parallelism.
        metrics_processor: Its ``log_validation`` gets the result.
        pp_schedule: The training schedule, used forward only; ``None`` without pipeline
            parallelism, as the next two.
        pp_has_first_stage: Whether this rank holds the first stage.
        pp_has_last_stage: Whether this rank holds the last stage, which has the loss.
    """

    job_config: JobConfig
    validation_dataloader: ValidationDataLoader
    model_args: BaseModelArgs
    tokenizer: BaseTokenizer
    parallel_dims: ParallelDims
    loss_fn: LossFunction
    validation_context: ValidationContext
    maybe_enable_amp: AbstractContextManager[None]
    metrics_processor: MetricsProcessor
    pp_schedule: _PipelineSchedule | None = None
    pp_has_first_stage: bool | None = None
    pp_has_last_stage: bool | None = None

    def validate(self, model_parts: list[nn.Module], step: int) -> None:
        """Run over the set (or its first ``validation.steps`` batches) and log the mean loss.

        Every rank must call it. All ranks end up with the same loss, so that the one that logs
        has it, also under pipeline parallelism. With several loaders the mean loss of each is
        logged as well, as ``validation_metrics/loss/<stream>`` and in the console, and
        ``validation.steps`` is divided equally among them.

        Args:
            model_parts: This rank's model, or its pipeline stages. Their train or eval modes are
                restored, also after an error.
            step: The training step to log under.

        Raises:
            TrainSpecError: No target in the set or in one of its streams, unequal numbers of
                batches on the ranks, or rows that do not fit the pipeline schedule.
        """
        device = self._compute_device(model_parts)
        with (
            torch.no_grad(),
            evaluation_mode(model_parts),
            kept_buffers(model_parts),
            forked_rng(device),
            stopped_training_clock(self.metrics_processor),
        ):
            totals, batches = self._totals(model_parts, device)
            loss_sum, targets = (sum(column) for column in zip(*totals.values(), strict=True))
            loss = loss_sum / targets
            metrics = {
                "validation_metrics/perplexity": _perplexity(loss),
                "validation_metrics/n_targets": int(targets),
                "validation_metrics/n_batches": batches,
            }
            if len(totals) > 1:
                means = {name: total / count for name, (total, count) in totals.items()}
                metrics |= {f"validation_metrics/loss/{name}": mean for name, mean in means.items()}
                each = "  ".join(f"{name}: {mean:.4f}" for name, mean in means.items())
                logger.info("validation loss by stream:  %s", each)
            self.metrics_processor.log_validation(loss=loss, step=step, extra_metrics=metrics)

    def _compute_device(self, model_parts: list[nn.Module]) -> torch.device:
        # Offloaded parameters lie on the CPU, while the model computes on the accelerator.
        if self.job_config.training.enable_cpu_offload:
            return torch.device(utils.device_type)
        return next(model_parts[0].parameters()).device

    def _totals(
        self, model_parts: list[nn.Module], device: torch.device
    ) -> tuple[dict[str, list[float]], int]:
        """Return each stream's loss sum and targets, both global, and all batches, per rank.

        A single loader is a stream without a name.
        """
        given = self.validation_dataloader
        loaders = given if isinstance(given, Mapping) else {"": given}
        steps = self.job_config.validation.steps
        # Loss sum and targets in one tensor, so that one all-reduce per mesh does; float64 counts
        # targets exactly up to 2**53. It stays on the device: no synchronization per batch.
        totals = torch.zeros(len(loaders), 2, dtype=torch.float64, device=device)
        batches = [0] * len(loaders)
        for stream, loader in enumerate(loaders.values()):
            share = steps // len(loaders) + (stream < steps % len(loaders))
            limit = None if steps == -1 else share
            for input_dict, labels in in_lockstep(loader, limit=limit, device=device):
                self.metrics_processor.ntokens_since_last_log += labels.numel()
                batches[stream] += 1
                inputs = prepare_model_inputs(
                    input_dict,
                    labels,
                    model_parts=model_parts,
                    model_args=self.model_args,
                    tokenizer=self.tokenizer,
                    parallel_dims=self.parallel_dims,
                    job_config=self.job_config,
                    device=device,
                )
                loss_sum = (
                    self._pipeline_loss_sum(inputs, labels.shape)
                    if self.parallel_dims.pp_enabled
                    else self._loss_sum(model_parts, inputs)
                )
                if loss_sum is not None:
                    totals[stream, 0] += loss_sum.to(device=device, dtype=torch.float64)
                    totals[stream, 1] += (inputs.labels != IGNORE_INDEX).sum()
        # "loss" spans the ranks with different rows or parts of rows (data and context parallel);
        # tensor parallel ranks hold the same loss. Only a last stage has added anything, and the
        # sum over "pp" gives it to every stage.
        for name in ("loss", "pp"):
            mesh = self.parallel_dims.get_optional_mesh(name)
            if mesh is not None:
                dist.all_reduce(totals, group=mesh.get_group())
        found = dict(zip(loaders, totals.tolist(), strict=True))
        for (name, (_, targets)), count in zip(found.items(), batches, strict=True):
            if targets == 0:
                what = f'validation stream "{name}"' if len(found) > 1 else "the validation set"
                raise TrainSpecError(
                    f"{what} has no target to predict in {count} batches: check the validation "
                    "streams and that their rows hold at least two tokens"
                )
        if sum(batches) < steps:
            logger.warning(
                "validation.steps is %d, but the validation set has only %d batches: all were used"
                if len(found) == 1
                else "validation.steps is %d, but only %d batches were used: some streams have "
                "fewer than their share",
                steps,
                sum(batches),
            )
        return found, sum(batches)

    def _loss_sum(self, model_parts: list[nn.Module], inputs: ModelInputs) -> torch.Tensor:
        (model,) = model_parts
        with self.validation_context(), self.maybe_enable_amp:
            logits = model(inputs.tokens, **inputs.first_stage, **inputs.every_stage)
            return _whole(self.loss_fn(logits, inputs.labels))

    def _pipeline_loss_sum(
        self, inputs: ModelInputs, batch_shape: torch.Size
    ) -> torch.Tensor | None:
        """Return the batch's loss on the last stage, ``None`` on the others."""
        training = self.job_config.training
        if batch_shape != (training.local_batch_size, training.seq_len):
            raise TrainSpecError(
                f"validation batches have shape {list(batch_shape)}, but the pipeline schedule "
                f"takes {[training.local_batch_size, training.seq_len]} (training.local_batch_size,"
                " training.seq_len): let the validation loader give batches of that shape"
            )
        assert self.pp_schedule is not None
        losses: list[torch.Tensor] | None = [] if self.pp_has_last_stage else None
        tokens = (inputs.tokens,) if self.pp_has_first_stage else ()
        first_stage = inputs.first_stage if self.pp_has_first_stage else {}
        with self.validation_context():
            self.pp_schedule.eval(
                *tokens,
                **first_stage,
                **inputs.every_stage,
                target=inputs.labels if self.pp_has_last_stage else None,
                losses=losses,
                # Otherwise the last stage joins the logits of all micro-batches.
                return_outputs=False,
            )
            return None if losses is None else _whole(torch.stack(losses).sum())


def _whole(loss: torch.Tensor) -> torch.Tensor:
    """Tensor and loss parallelism may leave the loss as a DTensor; take its full value."""
    return loss.full_tensor() if isinstance(loss, DTensor) else loss


def _perplexity(loss: float) -> float:
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
