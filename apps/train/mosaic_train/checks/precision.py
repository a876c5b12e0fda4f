"""Does the number format go with the model's layers?"""

from typing import TYPE_CHECKING

from mosaic_train.checks.model import ChosenModel
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# It makes its layers in bfloat16, and its embedding and output in float32.
_MIXED = "torchtitan.models.gpt_oss."


def check_precision(config: "MosaicJobConfig", model: ChosenModel, world_size: int) -> None:
    """See that `training.mixed_precision_param` is one that the model can compute in.

    Args:
        config: The configuration; its parallel degrees make `world_size`.
        model: The model that it names.
        world_size: Ranks of the whole run.

    Raises:
        TrainError: It is not.
    """
    half = config.training.mixed_precision_param != "float32"
    if getattr(model.args, "attn_type", "sdpa") == "varlen" and not half:
        raise TrainError(
            f"{model.name} uses varlen attention, which has no kernel for float32: "
            'set training.mixed_precision_param = "bfloat16"'
        )
    if not model.spec.model_cls.__module__.startswith(_MIXED):
        return
    parallelism = config.parallelism
    fixed = parallelism.tensor_parallel_degree * parallelism.pipeline_parallel_degree
    # FSDP, also that of context parallelism, brings all to one format. Without it autocast does,
    # which TorchTitan leaves out beside tensor and pipeline parallelism.
    if world_size > fixed * parallelism.data_parallel_replicate_degree:
        return
    if fixed > 1:
        raise TrainError(
            f"{model.name} has layers in bfloat16 and others in float32, which only FSDP brings "
            "together beside tensor or pipeline parallelism: start more ranks, for a "
            "parallelism.data_parallel_shard_degree of 2 or more"
        )
    if not half:
        raise TrainError(
            f"{model.name} has layers in bfloat16, which need autocast where there is no FSDP: "
            'set training.mixed_precision_param = "bfloat16", or start more ranks'
        )
