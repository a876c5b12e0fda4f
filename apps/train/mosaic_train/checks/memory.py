"""Will the model fit into the memory of its ranks?"""

from typing import TYPE_CHECKING

from mosaic_train.checks.model import ChosenModel
from mosaic_train.checks.parallel import Layout
from mosaic_train.checks.report import Report
from mosaic_train.checks.sketch import Sketch
from mosaic_train.torchtitan_patches.cpu import no_accelerator

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

_GB = 1e9
# Weight, gradient and Adam's two averages, which TorchTitan's optimizers all have.
_COPIES = 4


def check_memory(
    config: "MosaicJobConfig",
    model: ChosenModel,
    sketch: Sketch,
    layout: Layout,
    ranks_here: int,
    report: Report,
) -> None:
    """Warn where what a rank keeps of the model alone exceeds its memory.

    Args:
        config: The configuration.
        model: The model that it names.
        sketch: Its size.
        layout: How the ranks share it.
        ranks_here: Ranks on this machine.
        report: Where the warning goes.
    """
    if config.comm.mode != "default" or (
        # What is offloaded lies in the machine's memory, and moves.
        config.training.enable_cpu_offload and not no_accelerator()
    ):
        return
    memory = _bytes_per_rank(ranks_here)
    each = bytes_per_parameter(config)
    wanted = sketch.parameters * each / layout.model_parts
    if memory is None or wanted <= memory:
        return
    report.warn(
        f"{model.name} has {sketch.parameters / 1e9:,.2f} billion parameters; by estimate, at "
        f"{each} bytes each for weight, gradient and the optimizer's averages, shared by "
        f"{layout.model_parts} rank(s), a rank keeps {wanted / _GB:,.1f} GB and has "
        f"{memory / _GB:,.1f} GB of memory, without any activation: training will run out of "
        "memory; start more ranks, with parallelism.data_parallel_shard_degree = -1, or choose a "
        "smaller flavor"
    )


def bytes_per_parameter(config: "MosaicJobConfig") -> int:
    """What a parameter takes in training: all its copies are of `training.dtype`."""
    from torchtitan.config import TORCH_DTYPE_MAP

    return _COPIES * int(TORCH_DTYPE_MAP[config.training.dtype].itemsize)


def _bytes_per_rank(ranks_here: int) -> int | None:
    """Memory of the smallest device, or a rank's share of the machine's; None: not told."""
    if no_accelerator():
        from mosaic_train.torchtitan_patches.cpu.memory import machine_bytes

        return machine_bytes() // ranks_here
    import torch

    device = torch.accelerator.current_accelerator()
    module = None if device is None else torch.get_device_module(device)
    if module is None or not hasattr(module, "get_device_properties"):
        return None
    properties = [module.get_device_properties(index) for index in range(module.device_count())]
    return min((int(each.total_memory) for each in properties), default=None)
