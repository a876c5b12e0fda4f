"""The gradient of the mean loss per target, under pipeline parallelism and DDP as under FSDP.

The Trainer sums the losses of all targets and divides by their number over all ranks and
micro-batches. Two layouts miss that:

- Under pipeline parallelism the backward passes run inside `pp_schedule.step`, before the division:
  gradients are those of the summed loss.
- Under DDP `replicate` averages the gradients over the ranks, which the division has done already.
  To have it sum instead would not do: with gradient accumulation it reduces, once for each
  micro-batch, what was accumulated so far, and only an average leaves that as it is.

Either is corrected where the gradient begins, at the loss, whose value is left as it is. This can
go once upstream divides before the backward passes of a pipeline (issue 2972, PR 2323) and knows of
the average (issue 2318).
"""

from collections.abc import Callable
from typing import Any

from mosaic_trainspec.errors import TrainSpecError

ANSWERS = (
    "train.py:523: (torch.sum(torch.stack(losses)) / global_valid_tokens).to(self.device)",
    "train.py:538: loss = loss_sum / global_valid_tokens",
    "distributed/pipeline_parallel.py:209: scale_grads=False,",
    "models/llama3/infra/parallelize.py:372: "
    "replicate(model, device_mesh=dp_mesh, bucket_cap_mb=100)",
)


class ScaledLoss:
    """A loss function with its own value, whose gradient is multiplied by `scale`."""

    def __init__(self, loss_fn: Callable[..., Any]) -> None:
        self._loss_fn = loss_fn
        self.scale = 1.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The loss of the function itself."""
        loss, scale = self._loss_fn(*args, **kwargs), self.scale
        if scale != 1.0 and loss.requires_grad:
            loss.register_hook(lambda gradient: gradient * scale)
        return loss


def scale_loss(spec: Any) -> None:
    """Have a spec's loss functions take a scale. Changes the spec in place."""
    build = spec.build_loss_fn

    def build_loss(*args: Any, **kwargs: Any) -> ScaledLoss:
        return ScaledLoss(build(*args, **kwargs))

    spec.build_loss_fn = build_loss


def set_scale(trainer: Any, global_valid_tokens: Any) -> None:
    """Set the scale of a Trainer's loss for the next micro-batch.

    `global_valid_tokens` counts the targets over all ranks and micro-batches of the step.

    Raises:
        TrainSpecError: The gradients need a scale, and the loss of the Trainer's spec takes none.
    """
    scale = 1.0
    if trainer.parallel_dims.pp_enabled:
        scale /= float(global_valid_tokens)
    if any(map(_averages_gradients, trainer.model_parts)):
        scale *= trainer.parallel_dims.dp_replicate
    if isinstance(trainer.loss_fn, ScaledLoss):
        trainer.loss_fn.scale = scale
    elif scale != 1.0:
        raise TrainSpecError(
            "the TrainSpec of this Trainer was not patched, and without that its gradients are not "
            "those of the mean loss: call patch_spec on the spec that is registered as "
            "job_config.model.name, after the last register_mosaic_train_spec"
        )


def _averages_gradients(model: Any) -> bool:
    """Whether a model was given to DDP, as a function or as a wrapper."""
    from torch.distributed._composable.replicate import DDP
    from torch.nn.parallel import DistributedDataParallel

    return isinstance(model, (DDP, DistributedDataParallel))
