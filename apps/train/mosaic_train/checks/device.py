"""What TorchTitan cannot do without an accelerator, said before it fails deep inside."""

from typing import TYPE_CHECKING

from mosaic_train.checks.model import ChosenModel
from mosaic_train.errors import TrainError
from mosaic_train.torchtitan_patches.cpu import no_accelerator

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


# Its modules start a CUDA graph when they are imported.
_CUDA_ONLY = "compiler_toolkit."


def check_device(config: "MosaicJobConfig", model: ChosenModel) -> None:
    """On a machine without a GPU, refuse what has no CPU implementation.

    Raises:
        TrainError: The configuration needs a GPU.
    """
    if not no_accelerator():
        return
    parallelism = config.parallelism
    if parallelism.context_parallel_degree > 1:
        raise TrainError(
            "context parallelism has no attention for CPU: set "
            "parallelism.context_parallel_degree = 1, or use a machine with GPUs"
        )
    if parallelism.expert_parallel_degree > 1:
        raise TrainError(
            "expert parallelism sorts its tokens with a GPU kernel: set "
            "parallelism.expert_parallel_degree = 1, or use a machine with GPUs"
        )
    if config.model.name.startswith(_CUDA_ONLY):
        raise TrainError(
            f"{model.name} captures CUDA graphs: choose the same model without "
            f"{_CUDA_ONLY!r} in its name, or use a machine with NVIDIA GPUs"
        )
    attention = getattr(model.args, "attn_type", "sdpa")
    if attention != "sdpa":
        others = [name for name, args in model.flavors.items() if _runs_on_cpu(args)]
        raise TrainError(
            f"{model.name} uses {attention} attention, which has no backward pass on CPU: choose "
            f"a flavor without it ({', '.join(others) or 'this model has none'}), "
            "or use a machine with GPUs"
        )
    if config.profiling.enable_profiling or config.profiling.enable_memory_snapshot:
        raise TrainError(
            "TorchTitan's profiler records GPU activity only: set profiling.enable_profiling and "
            "profiling.enable_memory_snapshot to false, or use a machine with GPUs"
        )


def _runs_on_cpu(args: object) -> bool:
    return getattr(args, "attn_type", "sdpa") == "sdpa"
