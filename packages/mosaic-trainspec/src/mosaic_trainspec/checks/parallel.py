"""Do ranks, parallel degrees, batch sizes, sequence length and pipeline go together?"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mosaic_trainspec.checks.model import ChosenModel
from mosaic_trainspec.checks.report import Report
from mosaic_trainspec.errors import TrainSpecError
from mosaic_trainspec.torchtitan_patches.loss_rank import is_v_shaped

if TYPE_CHECKING:
    from torchtitan.config import JobConfig

# Its models replicate by their own means, which can be combined with all the others.
_OWN_REPLICAS = "torchtitan.experiments.simple_fsdp."


@dataclass(frozen=True)
class Layout:
    """How the ranks share the work.

    Attributes:
        dp_world_size: Model replicas that read different rows.
        model_parts: Ranks among which the weights of the model are divided.
    """

    dp_world_size: int
    model_parts: int = 1


def find_layout(config: "JobConfig", world_size: int) -> Layout:
    """Check that the parallel degrees make up `world_size`, the ranks of the whole run."""
    if config.comm.mode != "default":  # a dry run, whose number of ranks TorchTitan reads elsewhere
        return Layout(dp_world_size=1)
    parallelism = config.parallelism
    kinds = ("data_parallel_replicate", "tensor_parallel", "pipeline_parallel", "context_parallel")
    fixed = {f"{kind}_degree": getattr(parallelism, f"{kind}_degree") for kind in kinds}
    for name, degree in fixed.items():
        if degree < 1:
            raise TrainSpecError(f"parallelism.{name} must be at least 1, got {degree}")
    product = math.prod(fixed.values())
    shard = parallelism.data_parallel_shard_degree
    if shard == -1:
        shard = world_size // product
    elif shard < 1:
        raise TrainSpecError(
            f"parallelism.data_parallel_shard_degree must be -1 or more, got {shard}"
        )
    if product * shard != world_size:
        degrees = " * ".join(
            f"{name.removesuffix('_degree')} {degree}"
            for name, degree in {**fixed, "data_parallel_shard_degree": shard}.items()
            if degree != 1
        )
        wanted = "a multiple of " if parallelism.data_parallel_shard_degree == -1 else ""
        raise TrainSpecError(
            f"the parallel degrees ({degrees or 'all 1'}) do not make {world_size} rank(s): "
            f"start {wanted}{product * max(shard, 1)} (--nproc-per-node), or change [parallelism]"
        )
    replicas = parallelism.data_parallel_replicate_degree
    return Layout(replicas * shard, model_parts=world_size // replicas)


def check_batches(config: "JobConfig", layout: Layout) -> None:
    """Check that the batch sizes fit one another and the ranks."""
    dp_world_size = layout.dp_world_size
    training, parallelism = config.training, config.parallelism
    local, whole = training.local_batch_size, training.global_batch_size
    if local < 1:
        raise TrainSpecError(f"training.local_batch_size must be at least 1, got {local}")
    if whole >= 0 and (whole == 0 or whole % (local * dp_world_size)):
        raise TrainSpecError(
            f"training.global_batch_size {whole} is not a multiple of training.local_batch_size "
            f"{local} * {dp_world_size} data-parallel rank(s): use -1 or a multiple of "
            f"{local * dp_world_size}"
        )
    micro = parallelism.pipeline_parallel_microbatch_size
    if parallelism.pipeline_parallel_degree > 1 and micro > 0 and local % micro:
        raise TrainSpecError(
            f"training.local_batch_size {local} is not a multiple of "
            f"parallelism.pipeline_parallel_microbatch_size {micro}: change one of them"
        )


def row_lengths(config: "JobConfig") -> dict[str, int]:
    """The row lengths of the run in tokens, by section."""
    lengths = {"training": config.training.seq_len}
    if config.validation.enable:
        lengths["validation"] = config.validation.seq_len
    return lengths


def check_sequence(config: "JobConfig") -> None:
    """Check that the parallel degrees can cut rows."""
    parallelism = config.parallelism
    # TorchTitan asks for this factor of two also without context parallelism.
    divisor = parallelism.tensor_parallel_degree * parallelism.context_parallel_degree * 2
    for section, length in row_lengths(config).items():
        if length < 1 or length % divisor:
            raise TrainSpecError(
                f"{section}.seq_len {length} is not a multiple of {divisor} (2 * tensor parallel "
                f"* context parallel degree): use {max(length // divisor, 1) * divisor}"
            )


def check_max_seq_len(config: "JobConfig", model: ChosenModel, report: Report) -> None:
    """Compare the row lengths with the positions that the model knows.

    TorchTitan's models take `training.seq_len` for their maximum, whatever the flavor says, so that
    longer rows only cost quality; but validation cannot exceed it.
    """
    most = getattr(model.args, "max_seq_len", None)
    if most is None:
        return
    length = config.training.seq_len
    if length > most:
        report.warn(
            f"training.seq_len {length} exceeds the {most} positions that {model.name} is made "
            "for: later positions get rotations that it was not tuned for, and weights trained "
            f"elsewhere do not know them; {most} or less has no such cost"
        )
    if config.validation.enable and config.validation.seq_len > length:
        raise TrainSpecError(
            f"validation.seq_len {config.validation.seq_len} exceeds training.seq_len {length}, "
            f"for which {model.name} computes its positions: set it to {length} or less"
        )


def check_heads(config: "JobConfig", model: ChosenModel) -> None:
    """Check that the attention heads can be divided among the ranks."""
    degree = config.parallelism.tensor_parallel_degree
    heads = getattr(model.args, "n_heads", None)
    for count in (heads, getattr(model.args, "n_kv_heads", None) or heads):
        if count is not None and count % degree:
            raise TrainSpecError(
                f"parallelism.tensor_parallel_degree {degree} does not divide the {count} "
                f"attention heads of {model.name}: use a degree that does"
            )


def check_replicas(config: "JobConfig", model: ChosenModel) -> None:
    """Check that DDP is not asked for together with another kind of parallelism.

    It replicates whole models, and not parts of them. All degrees are known to be at least 1.
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
        raise TrainSpecError(
            f"parallelism.data_parallel_replicate_degree {replicas} without sharding cannot "
            f"be combined with other kinds of parallelism ({', '.join(others)}): set "
            "parallelism.data_parallel_shard_degree to 2 or more, or "
            "parallelism.data_parallel_replicate_degree to 1"
        )


def no_validation(schedule: str) -> str:
    """Why validation cannot use a V-shaped pipeline schedule, and what to change."""
    return (
        f"torch cannot run the pipeline schedule {schedule} without a backward pass, as validation "
        "does: set parallelism.pipeline_parallel_schedule to 1F1B or Interleaved1F1B, or "
        "validation.enable to false"
    )


_TORCHTITANS = "torchtitan.distributed.pipeline_parallel"


def check_pipeline(config: "JobConfig", model: ChosenModel) -> None:
    """Check that stages, ranks, layers and micro-batches of a pipeline go together.

    They are counted as TorchTitan's `pipeline_llm` does. A wrong value of a single option is left
    to `check_options`.
    """
    options = config.parallelism
    ranks = options.pipeline_parallel_degree
    if ranks < 2:
        return
    if model.spec.pipelining_fn is None:
        raise TrainSpecError(
            f"parallelism.pipeline_parallel_degree is {ranks}, but {model.name} cannot be cut into "
            "stages: set it to 1"
        )
    keys = ("enable_weight_tying", "tie_word_embeddings")
    if any(getattr(model.args, key, False) for key in keys):
        raise TrainSpecError(
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
    v_shaped = is_v_shaped(name)
    if (single and each != 1) or (v_shaped and each != 2) or each < 2 - single or each % 1:
        wanted = "1" if single else "2" if v_shaped else "2 or more"
        raise TrainSpecError(
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
        raise TrainSpecError(
            f"the {layers} layers of {model} cannot be cut into {stages} pipeline stages with "
            f"parallelism.pipeline_parallel_first_stage_less_layers = {first} and "
            f"pipeline_parallel_last_stage_less_layers = {last}: lower these, or "
            "parallelism.pipeline_parallel_degree"
        ) from error


def _check_microbatches(config: "JobConfig", name: str, stages: int) -> None:
    """The conditions that torch's schedules raise on."""
    local = config.training.local_batch_size
    micro = config.parallelism.pipeline_parallel_microbatch_size
    if micro < 1 or local < 1 or local % micro:  # reported elsewhere
        return
    count, ranks = local // micro, config.parallelism.pipeline_parallel_degree
    if name.lower() in ("1f1b", "dualpipev") and count < stages:
        raise TrainSpecError(
            f'schedule "{name}" needs a micro-batch for each of the {stages} pipeline stages, but '
            f"training.local_batch_size {local} makes {count} of "
            f"parallelism.pipeline_parallel_microbatch_size {micro}: use a "
            f"training.local_batch_size of {stages * micro} or more"
        )
    rounds = max(1, count // ranks)
    if name.lower().startswith("interleaved") and count % rounds:
        raise TrainSpecError(
            f'schedule "{name}" takes micro-batches in {rounds} rounds, which do not divide the '
            f"{count} of training.local_batch_size {local}: use a training.local_batch_size that "
            f"is a multiple of {ranks * micro}"
        )
