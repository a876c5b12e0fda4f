"""Do ranks, parallel degrees, batch sizes and sequence length go together?"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mosaic_train.checks.model import ChosenModel
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# They replicate by a means of their own, which goes with all others.
_OWN_REPLICAS = "torchtitan.experiments.simple_fsdp."


@dataclass(frozen=True)
class Layout:
    """How the ranks share the work.

    Attributes:
        dp_world_size: Model replicas that read different rows.
        model_parts: Ranks among which the weights of the model are shared out.
    """

    dp_world_size: int
    model_parts: int = 1


def find_layout(config: "MosaicJobConfig", world_size: int) -> Layout:
    """See that the parallel degrees make up the ranks.

    Args:
        config: The configuration.
        world_size: Ranks of the whole run.

    Raises:
        TrainError: They do not.
    """
    if config.comm.mode != "default":  # a dry run, of as many ranks as TorchTitan is told elsewhere
        return Layout(dp_world_size=1)
    dp_world_size = _data_parallel_size(config, world_size)
    replicas = config.parallelism.data_parallel_replicate_degree
    return Layout(dp_world_size, model_parts=world_size // replicas)


def _data_parallel_size(config: "MosaicJobConfig", world_size: int) -> int:
    parallelism = config.parallelism
    fixed = {
        "data_parallel_replicate_degree": parallelism.data_parallel_replicate_degree,
        "tensor_parallel_degree": parallelism.tensor_parallel_degree,
        "pipeline_parallel_degree": parallelism.pipeline_parallel_degree,
        "context_parallel_degree": parallelism.context_parallel_degree,
    }
    for name, degree in fixed.items():
        if degree < 1:
            raise TrainError(f"parallelism.{name} must be at least 1, got {degree}")
    product = 1
    for degree in fixed.values():
        product *= degree
    shard = parallelism.data_parallel_shard_degree
    if shard == -1:
        shard = world_size // product
    elif shard < 1:
        raise TrainError(f"parallelism.data_parallel_shard_degree must be -1 or more, got {shard}")
    if product * shard != world_size:
        degrees = " * ".join(
            f"{name.removesuffix('_degree')} {degree}"
            for name, degree in {**fixed, "data_parallel_shard_degree": shard}.items()
            if degree != 1
        )
        wanted = "a multiple of " if parallelism.data_parallel_shard_degree == -1 else ""
        raise TrainError(
            f"the parallel degrees ({degrees or 'all 1'}) do not make {world_size} rank(s): "
            f"start {wanted}{product * max(shard, 1)} (--nproc-per-node), or change [parallelism]"
        )
    return parallelism.data_parallel_replicate_degree * shard


def check_batches(config: "MosaicJobConfig", layout: Layout) -> None:
    """See that the batch sizes fit one another and the ranks.

    Raises:
        TrainError: They do not.
    """
    dp_world_size = layout.dp_world_size
    training, parallelism = config.training, config.parallelism
    local, whole = training.local_batch_size, training.global_batch_size
    if local < 1:
        raise TrainError(f"training.local_batch_size must be at least 1, got {local}")
    if whole >= 0 and (whole == 0 or whole % (local * dp_world_size)):
        raise TrainError(
            f"training.global_batch_size {whole} is not a multiple of training.local_batch_size "
            f"{local} * {dp_world_size} data-parallel rank(s): use -1 or a multiple of "
            f"{local * dp_world_size}"
        )
    micro = parallelism.pipeline_parallel_microbatch_size
    if parallelism.pipeline_parallel_degree > 1 and micro > 0 and local % micro:
        raise TrainError(
            f"training.local_batch_size {local} is not a multiple of "
            f"parallelism.pipeline_parallel_microbatch_size {micro}: change one of them"
        )


def check_sequence(config: "MosaicJobConfig") -> None:
    """See that rows can be cut as the parallel degrees ask.

    Raises:
        TrainError: They cannot.
    """
    parallelism = config.parallelism
    # TorchTitan asks for this factor of two also without context parallelism.
    divisor = parallelism.tensor_parallel_degree * parallelism.context_parallel_degree * 2
    lengths = {"training": config.training.seq_len}
    if config.validation.enable:
        lengths["validation"] = config.validation.seq_len
    for section, length in lengths.items():
        if length < 1 or length % divisor:
            raise TrainError(
                f"{section}.seq_len {length} is not a multiple of {divisor} (2 * tensor parallel "
                f"* context parallel degree): use {max(length // divisor, 1) * divisor}"
            )


def check_heads(config: "MosaicJobConfig", model: ChosenModel) -> None:
    """See that the attention heads can be shared out.

    Raises:
        TrainError: They cannot.
    """
    degree = config.parallelism.tensor_parallel_degree
    heads = getattr(model.args, "n_heads", None)
    for count in (heads, getattr(model.args, "n_kv_heads", None) or heads):
        if count is not None and count % degree:
            raise TrainError(
                f"parallelism.tensor_parallel_degree {degree} does not divide the {count} "
                f"attention heads of {model.name}: use a degree that does"
            )


def check_replicas(config: "MosaicJobConfig", model: ChosenModel) -> None:
    """See that whole models are replicated, and not parts of them.

    Args:
        config: The configuration; its degrees are at least 1.
        model: The model that it names.

    Raises:
        TrainError: DDP is asked for together with another kind of parallelism.
    """
    parallelism = config.parallelism
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
