"""What TorchTitan cannot do without an accelerator, said before it fails deep inside."""

from typing import TYPE_CHECKING

from mosaic_train.checks.model import ChosenModel
from mosaic_train.cpu import no_accelerator
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_device(config: "MosaicJobConfig", model: ChosenModel) -> None:
    """On a machine without a GPU, refuse what has no CPU implementation.

    Raises:
        TrainError: The configuration needs a GPU.
    """
    if not no_accelerator():
        return
    if config.parallelism.context_parallel_degree > 1:
        raise TrainError(
            "context parallelism has no attention for CPU: set "
            "parallelism.context_parallel_degree = 1, or use a machine with GPUs"
        )
    if _is_moe(model):
        raise TrainError(
            f"{model.name} is a mixture of experts, whose router needs a GPU (torch.histc counts "
            "no integers on CPU): choose a dense model, or use a machine with GPUs"
        )
    attention = getattr(model.args, "attn_type", "sdpa")
    if attention != "sdpa":
        dense = [name for name, args in model.flavors.items() if _runs_on_cpu(args)]
        raise TrainError(
            f"{model.name} uses {attention} attention, which has no backward pass on CPU: choose "
            f"a flavor without it ({', '.join(dense) or 'this model has none'}), "
            "or use a machine with GPUs"
        )
    if config.profiling.enable_profiling or config.profiling.enable_memory_snapshot:
        raise TrainError(
            "TorchTitan's profiler records GPU activity only: set profiling.enable_profiling and "
            "profiling.enable_memory_snapshot to false, or use a machine with GPUs"
        )


def _is_moe(model: ChosenModel) -> bool:
    # Some models have dense flavors beside those with experts, and say which is which.
    enabled = getattr(model.args, "moe_enabled", None)
    return hasattr(model.args, "moe_args") if enabled is None else bool(enabled)


def _runs_on_cpu(args: object) -> bool:
    return getattr(args, "attn_type", "sdpa") == "sdpa"
