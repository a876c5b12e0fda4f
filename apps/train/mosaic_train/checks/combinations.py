"""Does TorchTitan have the kinds of parallelism, and these together, for this model?"""

from typing import TYPE_CHECKING

from mosaic_train.checks.model import ChosenModel
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# They replicate by a means of their own, which goes with all others.
_OWN_REPLICAS = "torchtitan.experiments.simple_fsdp."


def check_combinations(config: "MosaicJobConfig", model: ChosenModel) -> None:
    """See that the kinds of parallelism go with the model and with one another.

    Args:
        config: The configuration; its degrees are at least 1.
        model: The model that it names.

    Raises:
        TrainError: They do not.
    """
    parallelism = config.parallelism
    if parallelism.pipeline_parallel_degree > 1:
        _check_pipeline(model)
    replicas = parallelism.data_parallel_replicate_degree
    degrees = {
        name: getattr(parallelism, name)
        for name in ("tensor_parallel_degree", "pipeline_parallel_degree")
    }
    others = [f"{name} {degree}" for name, degree in degrees.items() if degree > 1]
    # -1: what is left of the ranks, which alone decides whether there is sharding.
    sharded = parallelism.data_parallel_shard_degree != 1 or parallelism.context_parallel_degree > 1
    place: str = getattr(model.spec.parallelize_fn, "__module__", "")
    titans = place.startswith("torchtitan.") and not place.startswith(_OWN_REPLICAS)
    if replicas > 1 and others and not sharded and titans:
        raise TrainError(
            f"parallelism.data_parallel_replicate_degree {replicas} without sharding goes with no "
            f"other kind of parallelism ({', '.join(others)}): set "
            "parallelism.data_parallel_shard_degree to 2 or more, or "
            "parallelism.data_parallel_replicate_degree to 1"
        )


def _check_pipeline(model: ChosenModel) -> None:
    if model.spec.pipelining_fn is None:
        raise TrainError(
            f"TorchTitan cannot cut {model.name} into the stages of a pipeline: set "
            "parallelism.pipeline_parallel_degree to 1"
        )
    keys = ("enable_weight_tying", "tie_word_embeddings")
    if any(getattr(model.args, key, False) for key in keys):
        raise TrainError(
            f"{model.name} has one weight for its embedding and its output, which are at opposite "
            "ends of a pipeline: set parallelism.pipeline_parallel_degree to 1"
        )
