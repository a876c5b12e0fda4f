"""Can this machine train the model: what it cannot do, does slowly, or has no memory for."""

from typing import TYPE_CHECKING

from mosaic_trainspec.checks.model import ChosenModel, MetaModel
from mosaic_trainspec.checks.parallel import Layout, row_lengths
from mosaic_trainspec.checks.report import Report
from mosaic_trainspec.device import machine_bytes, no_accelerator
from mosaic_trainspec.errors import TrainSpecError

if TYPE_CHECKING:
    from torchtitan.config import JobConfig

# Its modules start a CUDA graph when they are imported, and lay their inputs out over the mesh of
# tensor parallelism, whether there is one or not.
_COMPILER_TOOLKIT = "compiler_toolkit."
# The attention of gpt_oss asks flex for the sums of weights, too, which the kernel that torch takes
# for rows of less than a block does not return.
_FLEX_BLOCK = 128


def check_device(config: "JobConfig", model: ChosenModel) -> None:
    """Refuse what this machine's kind of device cannot run."""
    if not no_accelerator():
        _check_on_gpu(config, model)
        return
    parallelism = config.parallelism
    if parallelism.context_parallel_degree > 1:
        raise TrainSpecError(
            "context parallelism has no attention kernel for CPU: set "
            "parallelism.context_parallel_degree = 1, or use a machine with GPUs"
        )
    if parallelism.expert_parallel_degree > 1:
        raise TrainSpecError(
            "expert parallelism sorts its tokens with a GPU kernel: set "
            "parallelism.expert_parallel_degree = 1, or use a machine with GPUs"
        )
    if config.model.name.startswith(_COMPILER_TOOLKIT):
        raise TrainSpecError(
            f"{model.name} captures CUDA graphs: choose the same model without "
            f"{_COMPILER_TOOLKIT!r} in its name, or use a machine with NVIDIA GPUs"
        )
    if model.attention != "sdpa":
        flavors = model.spec.model_args.items()
        others = [name for name, args in flavors if getattr(args, "attn_type", "sdpa") == "sdpa"]
        raise TrainSpecError(
            f"{model.name} uses {model.attention} attention, which has no backward pass on CPU: "
            f"choose a flavor without it ({', '.join(others) or 'this model has none'}), or use a "
            "machine with GPUs"
        )
    if config.profiling.enable_profiling or config.profiling.enable_memory_snapshot:
        raise TrainSpecError(
            "TorchTitan's profiler records GPU activity only: set profiling.enable_profiling and "
            "profiling.enable_memory_snapshot to false, or use a machine with GPUs"
        )


def _check_on_gpu(config: "JobConfig", model: ChosenModel) -> None:
    """Refuse what was seen to fail on an H200 with torch 2.11."""
    if (
        config.model.name.startswith(_COMPILER_TOOLKIT)
        and config.parallelism.tensor_parallel_degree < 2
    ):
        raise TrainSpecError(
            f"{model.name} runs with tensor parallelism only: set "
            "parallelism.tensor_parallel_degree to 2 or more, or choose the same model without "
            f"{_COMPILER_TOOLKIT!r} in its name"
        )
    for section, length in row_lengths(config).items():
        if model.is_gpt_oss and length < _FLEX_BLOCK:
            raise TrainSpecError(
                f"{section}.seq_len {length} is too short for the attention of {model.name}, which "
                f"has no GPU kernel for rows of less than {_FLEX_BLOCK} tokens: use "
                f"{_FLEX_BLOCK} or more"
            )


def check_precision(config: "JobConfig", model: ChosenModel, world_size: int) -> None:
    """Check that `training.mixed_precision_param` is one that the model can compute in.

    The parallel degrees are known to make `world_size`, the ranks of the whole run.
    """
    half = config.training.mixed_precision_param != "float32"
    if model.attention == "varlen" and not half:
        raise TrainSpecError(
            f"{model.name} uses varlen attention, which has no kernel for float32: "
            'set training.mixed_precision_param = "bfloat16"'
        )
    # Its layers are made in bfloat16, its embedding and output in float32.
    if not model.is_gpt_oss:
        return
    parallelism = config.parallelism
    fixed = parallelism.tensor_parallel_degree * parallelism.pipeline_parallel_degree
    # FSDP, also that of context parallelism, converts all to one format. Without it autocast does,
    # which TorchTitan leaves out under tensor and pipeline parallelism.
    if world_size > fixed * parallelism.data_parallel_replicate_degree:
        return
    if fixed > 1:
        raise TrainSpecError(
            f"{model.name} has layers in bfloat16 and others in float32, which only FSDP "
            "converts to one format under tensor or pipeline parallelism: start more ranks, for a "
            "parallelism.data_parallel_shard_degree of 2 or more"
        )
    if not half:
        raise TrainSpecError(
            f"{model.name} has layers in bfloat16, which need autocast where there is no FSDP: "
            'set training.mixed_precision_param = "bfloat16", or start more ranks'
        )


def check_speed(config: "JobConfig", report: Report) -> None:
    """Warn of bfloat16 on a CPU, most of which convert every number of it back and forth."""
    if not no_accelerator():
        return
    training = config.training
    keys = ("dtype", "mixed_precision_param")
    slow = [f"training.{key}" for key in keys if getattr(training, key) == "bfloat16"]
    if not slow or _has_bfloat16_units():
        return
    report.warn(
        f"{' and '.join(slow)} {'is' if len(slow) == 1 else 'are'} bfloat16, for which this CPU "
        "has no units: a step can take several times as long as in float32; set "
        f'{" and ".join(slow)} = "float32"'
    )


def _has_bfloat16_units() -> bool:
    import torch

    # Torch's own names for the two; there are no public ones.
    asked = (
        getattr(torch.cpu, name, None)
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return any(ask() for ask in asked if ask is not None)


_GB = 1e9
# Weight, gradient and Adam's two averages, which TorchTitan's optimizers all have.
_COPIES = 4


def check_memory(
    config: "JobConfig",
    model: ChosenModel,
    meta_model: MetaModel,
    layout: Layout,
    ranks_here: int,
    report: Report,
) -> None:
    """Warn where what a rank keeps of the model alone exceeds its memory.

    The ranks on this machine (`ranks_here`) share it where there is no accelerator.
    """
    if config.comm.mode != "default" or (
        # What is offloaded lies in the machine's memory, and moves.
        config.training.enable_cpu_offload and not no_accelerator()
    ):
        return
    memory = _bytes_per_rank(ranks_here)
    each = bytes_per_parameter(config)
    wanted = meta_model.parameters * each / layout.model_parts
    if memory is None or wanted <= memory:
        return
    report.warn(
        f"{model.name} has {meta_model.parameters / 1e9:,.2f} billion parameters: weights, "
        f"gradients and optimizer state take an estimated {wanted / _GB:,.1f} GB per rank ({each} "
        f"bytes per parameter, shared by {layout.model_parts} rank(s)), before activations, but a "
        f"rank has {memory / _GB:,.1f} GB: training will run out of memory; start more ranks, with "
        "parallelism.data_parallel_shard_degree = -1, or choose a smaller flavor"
    )


def bytes_per_parameter(config: "JobConfig") -> int:
    """What a parameter takes in training: all its copies are of `training.dtype`."""
    from torchtitan.config import TORCH_DTYPE_MAP

    return _COPIES * int(TORCH_DTYPE_MAP[config.training.dtype].itemsize)


def _bytes_per_rank(ranks_here: int) -> int | None:
    """Memory of the smallest device, or a rank's share of the machine's; None if unknown."""
    if no_accelerator():
        return machine_bytes() // ranks_here
    import torch

    device = torch.accelerator.current_accelerator()
    module = None if device is None else torch.get_device_module(device)
    if module is None or not hasattr(module, "get_device_properties"):
        return None
    properties = [module.get_device_properties(index) for index in range(module.device_count())]
    return min((int(each.total_memory) for each in properties), default=None)
