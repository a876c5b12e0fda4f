"""What torchtitan 0.2.2 needs corrected, one correction per module.

Each module says what upstream does, when the correction can go, and which lines it answers:
`ANSWERS` has them as `grep -n` prints them (file, number, text), to compare them with the installed
package before anything is corrected. What a machine without an accelerator needs is in `cpu`.
Corrections are made in this order:

1. `patch_torchtitan`, before a Trainer is made: functions and methods of TorchTitan.
2. `patch_spec`: a registered TrainSpec; what its `parallelize_fn` does to a model.
"""

import functools
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import Any

from mosaic_trainspec.device import no_accelerator
from mosaic_trainspec.errors import TrainSpecError
from mosaic_trainspec.torchtitan_patches import (
    backend_names,
    cpu,
    fsdp_sums,
    gradient_scale,
    irope_masks,
    loss_rank,
    no_targets,
    tied_weights,
    uninitialized,
)

__all__ = ["ANSWERS", "check_torchtitan", "patch_model", "patch_spec", "patch_torchtitan"]

_VERSION = "0.2.2"
_PATCHES = (
    backend_names,
    cpu,
    fsdp_sums,
    gradient_scale,
    irope_masks,
    loss_rank,
    no_targets,
    tied_weights,
    uninitialized,
)
ANSWERS = tuple(answer for patch in _PATCHES for answer in patch.ANSWERS)
# An attribute of the functions that this package has put in the place of others.
_CORRECTED = "_corrected_by_mosaic_trainspec"


def check_torchtitan() -> None:
    """Check that the installed TorchTitan is the one that the corrections are for.

    A patch of code that has changed would be wrong in silence: a gradient that upstream has
    corrected by then would be corrected twice.

    Raises:
        TrainSpecError: It is another version, or its code differs.
    """
    installed = importlib.metadata.version("torchtitan")
    # A local build ("0.2.2+cu130") has the same code.
    if installed.partition("+")[0] != _VERSION:
        raise TrainSpecError(
            f"torchtitan {installed} is installed, but mosaic-trainspec corrects the code of "
            f"{_VERSION}: install torchtitan {_VERSION}"
        )
    spec = importlib.util.find_spec("torchtitan")
    assert spec is not None and spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    for answer in ANSWERS:
        place, _, text = answer.partition(": ")
        path, _, number = place.partition(":")
        try:
            lines = (root / path).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        found = lines[int(number) - 1].strip() if len(lines) >= int(number) else ""
        if found != text:
            raise TrainSpecError(
                f"the installed torchtitan is not {_VERSION} as released, whose code "
                f"mosaic-trainspec corrects: line {number} of torchtitan/{path} is {found!r} and "
                f"not {text!r}: reinstall torchtitan {_VERSION}"
            )


def patch_torchtitan() -> None:
    """Correct TorchTitan in this process, before a Trainer is made; a second call does nothing.

    Raises:
        TrainSpecError: As for `check_torchtitan`.
    """
    check_torchtitan()
    from torchtitan.train import Trainer

    if hasattr(Trainer.forward_backward_step, _CORRECTED):
        return
    _patch_steps()
    no_targets.leave_out_of_maxima()
    loss_rank.log_where_the_loss_is()
    if no_accelerator():
        cpu.enable_cpu()


def _patch_steps() -> None:
    """Make the Trainer scale gradients, and take batches without targets."""
    from torchtitan.train import Trainer

    original: Any = Trainer.forward_backward_step

    @functools.wraps(original)
    def forward_backward_step(self: Any, *, global_valid_tokens: Any, **batch: Any) -> Any:
        tokens = no_targets.at_least_one(global_valid_tokens)
        gradient_scale.set_scale(self, tokens)
        return original(self, global_valid_tokens=tokens, **batch)

    setattr(forward_backward_step, _CORRECTED, True)
    Trainer.forward_backward_step = forward_backward_step  # type: ignore[method-assign]


def patch_spec(spec: Any) -> None:
    """Correct what a spec builds. Changes the spec in place; a second call does nothing.

    Args:
        spec: A registered one: TorchTitan makes a new one each time one of its own is looked up.

    Raises:
        TrainSpecError: As for `check_torchtitan`.
    """
    check_torchtitan()
    if hasattr(spec.parallelize_fn, _CORRECTED):
        return
    gradient_scale.scale_loss(spec)
    spec.parallelize_fn = _correcting(spec.parallelize_fn)
    if no_accelerator():
        cpu.run_experts_one_by_one(spec.model_args)


def _correcting(original: Any) -> Any:
    """Parallelize as the spec's own function does; for a pipeline, each of its stages."""

    @functools.wraps(original)
    def parallelize(model: Any, *args: Any, **kwargs: Any) -> Any:
        patch_model(model)
        with tied_weights.tied_weights_in_one_group(model):
            model = original(model, *args, **kwargs)
        backend_names.name_children(model)
        fsdp_sums.sum_gradients(model)
        return model

    setattr(parallelize, _CORRECTED, True)
    return parallelize


def patch_model(model: Any) -> None:
    """Correct a model, or a stage of a pipeline, before its weights are there."""
    irope_masks.take_own_masks(model)
    uninitialized.initialize_all(model)
