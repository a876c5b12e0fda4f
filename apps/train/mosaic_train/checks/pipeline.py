"""Can the model be cut into the stages that the pipeline schedule wants?"""

import math
from typing import TYPE_CHECKING

from mosaic_train.checks.model import ChosenModel
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

_TORCHTITANS = "torchtitan.distributed.pipeline_parallel"


def check_pipeline(config: "MosaicJobConfig", model: ChosenModel) -> None:
    """Count stages and micro-batches as TorchTitan's `pipeline_llm` does.

    Args:
        config: The configuration; a wrong value of a single option is left to `check_options`.
        model: The model that it names.

    Raises:
        TrainError: The model has no pipeline, or stages, ranks, layers and micro-batches do not go
            together.
    """
    options = config.parallelism
    ranks = options.pipeline_parallel_degree
    if ranks < 2:
        return
    if model.spec.pipelining_fn is None:
        raise TrainError(
            f"parallelism.pipeline_parallel_degree is {ranks}, but {model.name} cannot be cut into "
            "stages: set it to 1"
        )
    keys = ("enable_weight_tying", "tie_word_embeddings")
    if any(getattr(model.args, key, False) for key in keys):
        raise TrainError(
            f"{model.name} has one weight for its embedding and its output, which are at opposite "
            "ends of a pipeline: set parallelism.pipeline_parallel_degree to 1"
        )
    layers = getattr(model.args, "n_layers", None)
    if model.spec.pipelining_fn.__module__ != _TORCHTITANS or layers is None:
        return
    from torch.distributed.pipelining.schedules import PipelineScheduleSingle, get_schedule_class

    name = options.pipeline_parallel_schedule
    try:
        single = issubclass(get_schedule_class(name), PipelineScheduleSingle)
    except ValueError:
        return
    per_stage = options.pipeline_parallel_layers_per_stage
    first = options.pipeline_parallel_first_stage_less_layers
    last = options.pipeline_parallel_last_stage_less_layers
    if options.module_fqns_per_model_part is not None:
        stages = len(options.module_fqns_per_model_part)
        cause = "parallelism.module_fqns_per_model_part"
    elif per_stage is not None:
        if per_stage < 1:
            return
        stages = math.ceil((layers + first + last) / per_stage)
        cause = f"parallelism.pipeline_parallel_layers_per_stage {per_stage}"
    else:
        stages = ranks * (1 if single else 2)
        cause = f'parallelism.pipeline_parallel_schedule "{name}"'
    each = stages / ranks
    v_shaped = name.lower() in ("zbvzerobubble", "dualpipev")
    if (single and each != 1) or (v_shaped and each != 2) or each < 2 - single or each % 1:
        wanted = "1" if single else "2" if v_shaped else "2 or more"
        raise TrainError(
            f"{cause} makes {stages} stages of the {layers} layers of {model.name}, but schedule "
            f'"{name}" wants {wanted} on each of parallelism.pipeline_parallel_degree = {ranks} '
            f"ranks: change one of them"
        )
    if options.module_fqns_per_model_part is None:
        _check_layers(model.name, stages, layers, first, last)
    if not options.pipeline_parallel_schedule_csv:
        _check_microbatches(config, name, stages)


def _check_layers(model: str, stages: int, layers: int, first: int, last: int) -> None:
    from torchtitan.distributed.pipeline_parallel import generate_llm_fqn_per_model_part

    try:
        generate_llm_fqn_per_model_part(stages, layers, first, last)
    except ValueError as error:
        raise TrainError(
            f"the {layers} layers of {model} cannot be cut into {stages} pipeline stages with "
            f"parallelism.pipeline_parallel_first_stage_less_layers = {first} and "
            f"pipeline_parallel_last_stage_less_layers = {last}: lower these, or "
            "parallelism.pipeline_parallel_degree"
        ) from error


def _check_microbatches(config: "MosaicJobConfig", name: str, stages: int) -> None:
    """The conditions that torch's schedules raise on."""
    local = config.training.local_batch_size
    micro = config.parallelism.pipeline_parallel_microbatch_size
    if micro < 1 or local < 1 or local % micro:  # told elsewhere
        return
    count, ranks = local // micro, config.parallelism.pipeline_parallel_degree
    if name.lower() in ("1f1b", "dualpipev") and count < stages:
        raise TrainError(
            f'schedule "{name}" needs a micro-batch for each of the {stages} pipeline stages, but '
            f"training.local_batch_size {local} makes {count} of "
            f"parallelism.pipeline_parallel_microbatch_size {micro}: use a "
            f"training.local_batch_size of {stages * micro} or more"
        )
    rounds = max(1, count // ranks)
    if name.lower().startswith("interleaved") and count % rounds:
        raise TrainError(
            f'schedule "{name}" takes micro-batches in {rounds} rounds, which do not divide the '
            f"{count} of training.local_batch_size {local}: use a training.local_batch_size that "
            f"is a multiple of {ranks * micro}"
        )
