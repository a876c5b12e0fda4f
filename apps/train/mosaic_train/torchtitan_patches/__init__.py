"""What torchtitan 0.2.2 needs corrected, one correction per module.

Each module says what upstream does, names the lines (`ANSWERS`, compared with the installed package
before anything is corrected) and when the correction can go. What a machine without an accelerator
needs stands in `cpu`. Corrections are made in this order:

1. `patch_torchtitan`, before a Trainer is made: functions and methods of TorchTitan.
2. `patch_spec`: our own TrainSpec; what its `parallelize_fn` does to a model.
"""

import functools
from typing import Any

from mosaic_train.torchtitan_patches import (
    backend_names,
    cpu,
    fsdp_sums,
    gradient_scale,
    irope_masks,
    no_targets,
    tied_weights,
    uninitialized,
    upstream,
)

__all__ = ["ANSWERS", "check_torchtitan", "patch_model", "patch_spec", "patch_torchtitan"]

ANSWERS = tuple(
    answer
    for patch in (
        backend_names,
        irope_masks,
        uninitialized,
        gradient_scale,
        no_targets,
        fsdp_sums,
        tied_weights,
        *cpu.PATCHES,
    )
    for answer in patch.ANSWERS
)


def check_torchtitan() -> None:
    """Check that the installed TorchTitan is the one that the corrections are for.

    Raises:
        TrainError: It is not.
    """
    upstream.check_upstream(ANSWERS)


def patch_torchtitan() -> None:
    """Correct TorchTitan in this process. Call it before a Trainer is made.

    Raises:
        TrainError: The installed TorchTitan is not the one that the corrections are for.
    """
    check_torchtitan()
    _patch_steps()
    no_targets.leave_out_of_maxima()
    if cpu.no_accelerator():
        cpu.enable_cpu()


def _patch_steps() -> None:
    """Make the Trainer scale gradients, and take batches without targets."""
    from torchtitan.train import Trainer

    original: Any = Trainer.forward_backward_step
    if hasattr(original, "mosaic"):
        return

    @functools.wraps(original)
    def forward_backward_step(self: Any, *, global_valid_tokens: Any, **batch: Any) -> Any:
        tokens = no_targets.at_least_one(global_valid_tokens)
        gradient_scale.set_scale(self, tokens)
        return original(self, global_valid_tokens=tokens, **batch)

    forward_backward_step.mosaic = True  # type: ignore[attr-defined]
    Trainer.forward_backward_step = forward_backward_step  # type: ignore[method-assign]


def patch_spec(spec: Any) -> None:
    """Correct what a spec builds. Changes the spec in place; may be called again.

    Args:
        spec: Our own TrainSpec.
    """
    gradient_scale.scale_loss(spec)
    if not isinstance(spec.parallelize_fn, _Parallelize):
        spec.parallelize_fn = _Parallelize(spec.parallelize_fn)
    if cpu.no_accelerator():
        cpu.run_experts_one_by_one(spec.model_args)


def patch_model(model: Any) -> None:
    """Correct a model before its weights are there.

    Args:
        model: A whole model, or a stage of a pipeline.
    """
    irope_masks.take_own_masks(model)
    uninitialized.initialize_all(model)


class _Parallelize:
    """Parallelizes as the spec's own function does; for a pipeline, each of its stages."""

    def __init__(self, parallelize: Any) -> None:
        self._parallelize = parallelize
        functools.update_wrapper(self, parallelize)

    def __call__(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        patch_model(model)
        with tied_weights.tied_weights_in_one_group(model):
            model = self._parallelize(model, *args, **kwargs)
        backend_names.name_children(model)
        fsdp_sums.sum_gradients(model)
        if cpu.no_accelerator():
            cpu.reduce_by_plain_sums(model)
        return model
