"""Values that TorchTitan 0.2.2 takes from the configuration and refuses, in a rank, much later.

Everything that its trainer asserts on, raises on, divides by or indexes by, as two tables: values
that are wrong in themselves (`torchtitan_limits.toml`), and values that do not go together. Each
entry quotes the line that it answers, so that a test notices when a TorchTitan no longer has it.
Options whose type lists the allowed values are checked by the configuration; degrees, batches and
rows by `parallel`.
"""

import difflib
import importlib.util
import math
import os
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.model import ChosenModel
from mosaic_train.checks.parallel import Layout
from mosaic_train.checks.report import Report
from mosaic_train.errors import TrainError
from mosaic_train.torchtitan_patches.cpu import no_accelerator

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


@dataclass(frozen=True)
class Run:
    """What the entries look at.

    Attributes:
        config: The configuration.
        model: The model that it names; None where there is no such model.
        layout: How the ranks share the work; None where the degrees are wrong.
        world_size: Ranks of the whole run.
    """

    config: "MosaicJobConfig"
    model: ChosenModel | None
    layout: Layout | None
    world_size: int

    def torchtitans(self, builder: str) -> bool:
        """Whether a function of the model's spec is TorchTitan's own, and reads its options."""
        return self.module(builder).startswith("torchtitan.")

    def module(self, builder: str) -> str:
        """The module of a function of the model's spec."""
        function = None if self.model is None else getattr(self.model.spec, builder, None)
        return str(getattr(getattr(function, "func", function), "__module__", ""))

    @property
    def compiled(self) -> bool:
        """Whether the model is compiled."""
        return self.config.compile.enable and "model" in self.config.compile.components

    @property
    def sharded(self) -> bool:
        """Whether FSDP shares out the weights."""
        degrees = self.config.parallelism
        if degrees.context_parallel_degree > 1:
            return True
        return self.layout is not None and (
            self.layout.dp_world_size > degrees.data_parallel_replicate_degree
        )

    @property
    def trains(self) -> bool:
        """Whether steps are trained, and not only a checkpoint of the untrained model is made."""
        config = self.config
        return not config.checkpoint.create_seed_checkpoint and config.comm.mode != "local_tensor"


@dataclass(frozen=True)
class Values:
    """Values that an option may have.

    Attributes:
        text: They in words; follows "must be".
        accepts: Whether a value is one of them.
        names: All of them, where they are names.
    """

    text: str
    accepts: Callable[[Any], bool]
    names: Sequence[str] = ()


def _at_least(least: int) -> Values:
    return Values(f"at least {least}", lambda value: math.isfinite(value) and value >= least)


def _one_of(*names: str, any_case: bool = False) -> Values:
    quoted = [f'"{name}"' for name in names]
    known = [name.lower() for name in names] if any_case else names
    return Values(
        " or ".join([", ".join(quoted[:-1]), quoted[-1]] if len(names) > 1 else quoted),
        lambda value: (value.lower() if any_case else value) in known,
        names,
    )


def _or_none(values: Values) -> Values:
    accepts = values.accepts
    return Values(values.text, lambda value: value is None or accepts(value), values.names)


@dataclass(frozen=True)
class Limit:
    """An option and the values that TorchTitan accepts.

    Attributes:
        option: Its section and key.
        values: They.
        upstream: A file of TorchTitan, and the text of its line that fails with others.
        when: Whether that line is reached.
    """

    option: str
    values: Values
    upstream: tuple[str, str]
    when: Callable[[Run], bool]


@dataclass(frozen=True)
class Conflict:
    """Options that TorchTitan refuses together, or that ask for what is not there.

    Attributes:
        line: The mistake: section and key, and what to change.
        broken: Whether it is made.
        upstream: A file of TorchTitan, and the text of its line that fails.
    """

    line: str
    broken: Callable[[Run], bool]
    upstream: tuple[str, str]


_OPTIMIZER = "components/optimizer.py"
_SCHEDULER = "components/lr_scheduler.py"
_CHECKPOINT = "components/checkpoint.py"
_METRICS = "components/metrics.py"
_PROFILING = "tools/profiling.py"
_DISTRIBUTED = "distributed/utils.py"
_PIPELINE = "distributed/pipeline_parallel.py"
_DIMENSIONS = "distributed/parallel_dims.py"
_RECOMPUTE = "distributed/activation_checkpoint.py"
_FLOAT8 = "components/quantization/float8.py"
_MX = "components/quantization/mx.py"


def _own_optimizer(run: Run) -> bool:
    return run.model is None or run.torchtitans("build_optimizers_fn")


def _own_schedule(run: Run) -> bool:
    return run.model is None or run.torchtitans("build_lr_schedulers_fn")


def _pipelined(run: Run) -> bool:
    return run.config.parallelism.pipeline_parallel_degree > 1


def _saves(run: Run) -> bool:
    checkpoint = run.config.checkpoint
    return checkpoint.enable and not checkpoint.load_only


def _known_backend(name: str) -> bool:
    if name == "inductor":  # to import all of them takes seconds
        return True
    from torch.compiler import list_backends

    return name in list_backends(exclude_tags=())


def _known_converters(names: Sequence[str]) -> bool:
    from torchtitan.protocols.model_converter import _registry_model_converter_cls

    return set(names) <= set(_registry_model_converter_cls)


# When an option is read, as `torchtitan_limits.toml` names it.
_WHEN: dict[str, Callable[[Run], bool]] = {
    "always": lambda run: True,
    "memory snapshots": lambda run: run.config.profiling.enable_memory_snapshot,
    "profiling": lambda run: run.config.profiling.enable_profiling,
    "own optimizer": _own_optimizer,
    "own schedule": _own_schedule,
    "trains": lambda run: run.trains,
    "pipeline": _pipelined,
    "pipeline without a CSV file": lambda run: (
        _pipelined(run) and not run.config.parallelism.pipeline_parallel_schedule_csv
    ),
    "context parallelism": lambda run: run.config.parallelism.context_parallel_degree > 1,
    "saves": _saves,
    "checkpoints": lambda run: run.config.checkpoint.enable,
    "recomputation": lambda run: run.config.activation_checkpoint.mode in ("selective", "full"),
    "selective recomputation": lambda run: run.config.activation_checkpoint.mode == "selective",
    "memory budget": lambda run: run.config.activation_checkpoint.mode == "memory_budget",
    "compile": lambda run: run.config.compile.enable,
    "compiles TorchTitan's model": lambda run: (
        run.config.compile.enable and run.torchtitans("parallelize_fn")
    ),
    "validation": lambda run: run.config.validation.enable,
}
# Values that neither a bound nor a list of names describes.
_ACCEPTS: dict[str, Callable[[Any], bool]] = {
    "file name": lambda value: value is None or os.path.basename(value) != "",
    "file or nothing": lambda value: not value or os.path.isfile(value),
    "converters": _known_converters,
    "fraction": lambda value: 0 <= value < 1,
    "share": lambda value: 0 <= value <= 1,
    "above 0": lambda value: value > 0,
    "not 1": lambda value: value != 1,
    "op or a number": lambda value: value == "op" or (value.isascii() and value.isdecimal()),
    "backend": _known_backend,
    "components": lambda value: set(value) <= {"model", "loss"},
    "seed": lambda value: value is None or -(2**63) <= value < 2**64,
}
_VALUES: dict[str, Callable[[Any], Values]] = {
    "at_least": _at_least,
    "at_least_if_set": lambda least: _or_none(_at_least(least)),
    "one_of": lambda names: _one_of(*names),
    "one_of_if_set": lambda names: _or_none(_one_of(*names)),
    "one_of_in_any_case": lambda names: _one_of(*names, any_case=True),
}


def _read_limits() -> tuple[Limit, ...]:
    """The limits in `torchtitan_limits.toml`, which says what the keys mean."""
    path = Path(__file__).with_name("torchtitan_limits.toml")
    limits = []
    for entry in tomllib.loads(path.read_text(encoding="utf-8"))["limit"]:
        upstream = (entry.pop("file"), entry.pop("line"))
        option, when = entry.pop("option"), _WHEN[entry.pop("when", "always")]
        if "must_be" in entry:
            text = " ".join(entry["must_be"].split())
            values = Values(text, _ACCEPTS[entry["accepts"]])
        else:
            ((kind, given),) = entry.items()
            values = _VALUES[kind](given)
        limits.append(Limit(option, values, upstream, when))
    return tuple(limits)


LIMITS = _read_limits()


def _missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def _converts(run: Run, *names: str) -> bool:
    return not set(names).isdisjoint(run.config.model.converters)


def _quantized(run: Run) -> set[str]:
    """The number formats that converters of TorchTitan's bring the model to."""
    return {name.rpartition(".")[2] for name in run.config.model.converters if "quantize" in name}


def _cuda_below(*capability: int) -> bool:
    from torchtitan.tools.utils import has_cuda_capability

    major, minor = capability
    return not has_cuda_capability(major, minor)


def _rocm_below(*capability: int) -> bool:
    from torchtitan.tools.utils import has_rocm_capability

    major, minor = capability
    return not has_rocm_capability(major, minor)


def _float8_without_units(run: Run) -> bool:
    if not _converts(run, "quantize.linear.float8"):
        return False
    emulated = run.config.quantize.linear.float8.emulate and not run.compiled
    return not emulated and _cuda_below(8, 9)


def _uneven_experts(run: Run) -> bool:
    degree = run.config.parallelism.expert_parallel_degree
    args = None if run.model is None else getattr(run.model.args, "moe_args", None)
    experts = getattr(args, "num_experts", None)
    return degree > 1 and experts is not None and experts % degree != 0


def _experts_do_not_fit(run: Run) -> bool:
    """Experts are shared out to ranks of FSDP, context and tensor parallelism."""
    degrees = run.config.parallelism
    expert = degrees.expert_parallel_degree * degrees.expert_tensor_parallel_degree
    if degrees.expert_parallel_degree < 2 or run.layout is None or expert < 1:
        return False
    ranks = run.layout.dp_world_size // degrees.data_parallel_replicate_degree
    ranks *= degrees.context_parallel_degree * degrees.tensor_parallel_degree
    return ranks % expert != 0


def _deepep(run: Run) -> bool:
    """Whether the model's parallelization looks at the option."""
    modules = ("torchtitan.models.llama4.", "torchtitan.models.deepseek_v3.")
    return run.config.parallelism.expert_parallel_comm_backend == "deepep" and run.module(
        "parallelize_fn"
    ).startswith(modules)


def _no_ranks_to_simulate(run: Run) -> bool:
    count = os.environ.get("NGPU", "")
    return run.config.comm.mode != "default" and not (count.isdecimal() and int(count) > 0)


def _loads_first(run: Run) -> bool:
    """Whether the run's own checkpoint folder, which would be loaded from, does not exist yet."""
    config = run.config
    folder = os.path.join(config.job.dump_folder, config.checkpoint.folder)
    return config.checkpoint.enable and not os.path.exists(folder)


def _no_adapter(run: Run) -> bool:
    return run.model is not None and getattr(run.model.spec, "state_dict_adapter", None) is None


CONFLICTS = (
    Conflict(
        "profiling.profile_freq must be at least profiling.profiler_warmup + "
        "profiling.profiler_active: raise it, or lower them",
        lambda run: (
            run.config.profiling.enable_profiling
            and run.config.profiling.profile_freq
            < run.config.profiling.profiler_warmup + run.config.profiling.profiler_active
        ),
        (_PROFILING, "profile_freq must be greater than or equal to warmup + active"),
    ),
    Conflict(
        "metrics.enable_wandb = true, but the package wandb is not installed: install it, or set "
        "metrics.enable_wandb = false",
        lambda run: run.config.metrics.enable_wandb and _missing("wandb"),
        (_METRICS, "Failed to create WandB logger: No module named 'wandb'."),
    ),
    Conflict(
        "metrics.enable_tensorboard = true, but the package tensorboard is not installed: install "
        "it, or set metrics.enable_tensorboard = false",
        lambda run: run.config.metrics.enable_tensorboard and _missing("tensorboard"),
        (_METRICS, "from torch.utils.tensorboard import SummaryWriter"),
    ),
    Conflict(
        "model.converters has quantize.*, but the package torchao is not installed: install it, "
        "or leave the converters out",
        lambda run: bool(_quantized(run)) and _missing("torchao"),
        (_FLOAT8, "torchao is not installed. Please install it to use float8 linear layers."),
    ),
    Conflict(
        "model.converters mixes quantize.*.float8 and quantize.*.mx: choose one of the two formats",
        lambda run: len(_quantized(run)) > 1,
        ("components/quantization/__init__.py", "Cannot combine model converters with different"),
    ),
    Conflict(
        "model.converters has quantize.linear.float8, which needs a GPU of compute capability 8.9 "
        "or newer: leave it out, or set quantize.linear.float8.emulate = true without compiling "
        "the model",
        _float8_without_units,
        (_FLOAT8, "float8 is only supported on SM89 or later."),
    ),
    Conflict(
        "quantize.linear.float8.enable_fsdp_float8_all_gather does not go with "
        "quantize.linear.float8.recipe_name: leave one of them out",
        lambda run: (
            _converts(run, "quantize.linear.float8")
            and run.config.quantize.linear.float8.enable_fsdp_float8_all_gather
            and run.config.quantize.linear.float8.recipe_name is not None
        ),
        (_FLOAT8, "assert not float8_config.enable_fsdp_float8_all_gather"),
    ),
    Conflict(
        "model.converters has quantize.grouped_mm.float8, which needs a GPU of compute capability "
        "8.9 or newer: leave it out",
        lambda run: _converts(run, "quantize.grouped_mm.float8") and _cuda_below(8, 9),
        (_FLOAT8, "Float8 MoE training only supported on SM89 or later."),
    ),
    Conflict(
        "model.converters has quantize.grouped_mm.float8, which has neither pipeline nor context "
        "parallelism: set parallelism.pipeline_parallel_degree and "
        "parallelism.context_parallel_degree to 1, or leave it out",
        lambda run: (
            _converts(run, "quantize.grouped_mm.float8")
            and (_pipelined(run) or run.config.parallelism.context_parallel_degree > 1)
        ),
        (_FLOAT8, "Float8 MoE training prototype does not yet support pipeline parallelism"),
    ),
    Conflict(
        "model.converters has quantize.linear.mx, which needs a GPU of compute capability 10.0 or "
        "newer, or ROCm's gfx950: leave it out",
        lambda run: (
            _converts(run, "quantize.linear.mx") and _cuda_below(10, 0) and _rocm_below(9, 5)
        ),
        (_MX, "MXFP8 is only supported on CUDA SM100 or later, or ROCm gfx950 or later"),
    ),
    Conflict(
        "model.converters has quantize.grouped_mm.mx, which needs a GPU of compute capability 10.0 "
        "or newer: leave it out",
        lambda run: _converts(run, "quantize.grouped_mm.mx") and _cuda_below(10, 0),
        (_MX, "MXFP8 is only supported on SM100 or architectures"),
    ),
    Conflict(
        "model.converters has quantize.linear.mx, which cannot be compiled with tensor "
        "parallelism: set parallelism.tensor_parallel_degree = 1, or compile.enable = false",
        lambda run: (
            _converts(run, "quantize.linear.mx")
            and run.compiled
            and run.config.parallelism.tensor_parallel_degree > 1
        ),
        (_MX, "TP not yet supported with torch.compile for mxfp8"),
    ),
    Conflict(
        "optimizer.early_step_in_backward = true has neither expert nor pipeline parallelism: set "
        "it to false, or parallelism.expert_parallel_degree and "
        "parallelism.pipeline_parallel_degree to 1",
        lambda run: (
            _own_optimizer(run)
            and run.config.optimizer.early_step_in_backward
            and (_pipelined(run) or run.config.parallelism.expert_parallel_degree > 1)
        ),
        (_OPTIMIZER, "Optimizers in backward is not supported with Pipeline Parallel."),
    ),
    Conflict(
        "training.enable_cpu_offload = true, but this machine has no GPU to offload from: set it "
        "to false",
        lambda run: run.config.training.enable_cpu_offload and no_accelerator(),
        (_DISTRIBUTED, 'backend = f"{device_type}:{backend},cpu:gloo"'),
    ),
    Conflict(
        "training.enable_cpu_offload = true, but only FSDP offloads: set it to false, or start "
        "more ranks, for a parallelism.data_parallel_shard_degree of 2 or more",
        lambda run: (
            run.config.training.enable_cpu_offload
            and not no_accelerator()
            and run.layout is not None
            and run.config.comm.mode == "default"
            and not run.sharded
        ),
        ("train.py", "elif job_config.training.enable_cpu_offload:"),
    ),
    Conflict(
        "parallelism.expert_tensor_parallel_degree must be 1 or the same as "
        "parallelism.tensor_parallel_degree",
        lambda run: (
            run.config.parallelism.expert_parallel_degree > 1
            and run.config.parallelism.expert_tensor_parallel_degree
            not in (1, run.config.parallelism.tensor_parallel_degree)
        ),
        (_DIMENSIONS, "Currently we only support ETP=TP or ETP=1"),
    ),
    Conflict(
        "parallelism.expert_parallel_degree * expert_tensor_parallel_degree does not divide "
        "data_parallel_shard_degree * context_parallel_degree * tensor_parallel_degree: change "
        "one of them",
        _experts_do_not_fit,
        (_DIMENSIONS, "efsdp = fsdp * self.tp // (self.etp * self.ep)"),
    ),
    Conflict(
        "parallelism.expert_parallel_degree does not divide the experts of the model's flavor: "
        "use a degree that does",
        _uneven_experts,
        ("distributed/expert_parallel.py", "num_tokens_per_expert.view(ep_degree, -1)"),
    ),
    Conflict(
        'parallelism.expert_parallel_comm_backend = "deepep" needs '
        "parallelism.expert_parallel_degree of 2 or more and "
        'parallelism.expert_tensor_parallel_degree = 1: change them, or set it to "standard"',
        lambda run: (
            _deepep(run)
            and (
                run.config.parallelism.expert_parallel_degree < 2
                or run.config.parallelism.expert_tensor_parallel_degree > 1
            )
        ),
        ("models/llama4/infra/parallelize.py", "DeepEP requires expert parallelism"),
    ),
    Conflict(
        'parallelism.expert_parallel_comm_backend = "deepep", but the package deep_ep is not '
        'installed: install it, or set it to "standard"',
        lambda run: _deepep(run) and _missing("deep_ep"),
        ("models/llama4/infra/parallelize.py", "use_deepep = True"),
    ),
    Conflict(
        'parallelism.enable_async_tensor_parallel = true needs compile.enable = true and "model" '
        "in compile.components",
        lambda run: (
            run.config.parallelism.enable_async_tensor_parallel
            and run.config.parallelism.tensor_parallel_degree > 1
            and not run.compiled
        ),
        ("distributed/tensor_parallel.py", "Async TP requires 'model' in --compile.components"),
    ),
    Conflict(
        'parallelism.context_parallel_load_balancer = "ptrr" balances flex attention only: set it '
        'to "headtail", or choose a flavor with flex attention',
        lambda run: (
            run.config.parallelism.context_parallel_degree > 1
            and run.config.parallelism.context_parallel_load_balancer == "ptrr"
            and run.model is not None
            and getattr(run.model.args, "attn_type", "sdpa") != "flex"
        ),
        ("distributed/context_parallel.py", "PTRRLoadBalancer requires attention_masks to be a"),
    ),
    Conflict(
        'activation_checkpoint.mode = "memory_budget" needs compile.enable = true and "model" in '
        "compile.components",
        lambda run: run.config.activation_checkpoint.mode == "memory_budget" and not run.compiled,
        (_RECOMPUTE, "Memory budget mode requires model to be compiled"),
    ),
    Conflict(
        'activation_checkpoint.debug = true does not go with selective_ac_option = "op": set it to '
        "false, or selective_ac_option to a number of layers",
        lambda run: (
            run.config.activation_checkpoint.mode == "selective"
            and run.config.activation_checkpoint.selective_ac_option == "op"
            and run.config.activation_checkpoint.debug
        ),
        (_RECOMPUTE, "context_fn=selective_checkpointing_context_fn,"),
    ),
    Conflict(
        'parallelism.pipeline_parallel_schedule = "DualPipeV" with expert parallelism has no '
        'activation checkpointing: set activation_checkpoint.mode = "none", or '
        "parallelism.pipeline_parallel_expert_parallel_overlap = false",
        lambda run: (
            _pipelined(run)
            and run.config.parallelism.expert_parallel_degree > 1
            and run.config.parallelism.pipeline_parallel_expert_parallel_overlap
            and run.config.parallelism.pipeline_parallel_schedule.lower() == "dualpipev"
            and run.config.activation_checkpoint.mode != "none"
        ),
        ("distributed/dual_pipe_v.py", "Expert Parallel with DualPipeV and Activation"),
    ),
    Conflict(
        "comm.mode simulates as many ranks as the environment variable NGPU says, which is not "
        'a number of at least 1: set NGPU, or comm.mode = "default"',
        _no_ranks_to_simulate,
        (_DISTRIBUTED, "NGPU environment variable must be set when using comm_mode="),
    ),
    Conflict(
        'checkpoint.async_mode = "async_with_pinned_mem" needs a GPU: set it to "async", or use a '
        "machine with GPUs",
        lambda run: (
            _saves(run)
            and run.config.checkpoint.async_mode == "async_with_pinned_mem"
            and no_accelerator()
        ),
        (_CHECKPOINT, "self.stager = DefaultStager(StagingOptions(True, True, True, True))"),
    ),
    Conflict(
        "checkpoint.create_seed_checkpoint = true needs checkpoint.enable = true, "
        "checkpoint.load_only = false and a single rank (--nproc-per-node 1)",
        lambda run: (
            run.config.checkpoint.create_seed_checkpoint and (run.world_size > 1 or not _saves(run))
        ),
        ("train.py", "Must create seed checkpoint using a single device, to disable sharding."),
    ),
    Conflict(
        "checkpoint.initial_load_in_hf = true loads weights only: set "
        "checkpoint.initial_load_model_only = true",
        lambda run: (
            _loads_first(run)
            and run.config.checkpoint.initial_load_in_hf
            and not run.config.checkpoint.initial_load_model_only
        ),
        (_CHECKPOINT, "Only model can be loaded when loading from HF's safetensors checkpoint."),
    ),
    Conflict(
        "checkpoint.initial_load_in_hf_quantized = true needs checkpoint.initial_load_in_hf = true",
        lambda run: (
            _loads_first(run)
            and run.config.checkpoint.initial_load_in_hf_quantized
            and not run.config.checkpoint.initial_load_in_hf
        ),
        (_CHECKPOINT, "Quantized checkpoint can only be loaded from HuggingFace format."),
    ),
    Conflict(
        "checkpoint.initial_load_in_hf = true, but this model has no weights in Hugging Face's "
        "format: set it to false",
        lambda run: (
            _loads_first(run) and run.config.checkpoint.initial_load_in_hf and _no_adapter(run)
        ),
        (_CHECKPOINT, "trying to load checkpoint in HF safetensors format, but sd_adapter is not"),
    ),
    Conflict(
        "checkpoint.last_save_in_hf = true, but this model has no weights in Hugging Face's "
        "format: set it to false",
        lambda run: (
            run.config.checkpoint.enable
            and run.config.checkpoint.last_save_in_hf
            and _no_adapter(run)
        ),
        (_CHECKPOINT, "last_save_in_hf is True, but sd_adapter is not provided."),
    ),
    Conflict(
        "checkpoint.last_save_in_hf = true saves weights only: set checkpoint.last_save_model_only "
        "= true, or checkpoint.last_save_in_hf = false",
        lambda run: (
            _saves(run)
            and run.config.checkpoint.last_save_in_hf
            and not run.config.checkpoint.last_save_model_only
        ),
        (_CHECKPOINT, "Only model can be saved when saving in HF safetensors format."),
    ),
    Conflict(
        "under pipeline parallelism, whose schedule takes batches of one shape, "
        "validation.local_batch_size and validation.seq_len must be those of [training]: make them "
        "equal",
        lambda run: (
            _pipelined(run)
            and run.config.validation.enable
            and (run.config.validation.local_batch_size, run.config.validation.seq_len)
            != (run.config.training.local_batch_size, run.config.training.seq_len)
        ),
        ("components/validate.py", "self.pp_schedule.eval("),
    ),
    Conflict(
        "fault_tolerance.enable = true has no effect in this trainer, which does not use TorchFT: "
        "set it to false",
        lambda run: run.config.fault_tolerance.enable,
        ("experiments/ft/train.py", "self.ft_manager = FTManager(job_config.fault_tolerance)"),
    ),
)


def check_options(run: Run, report: Report) -> None:
    """Look for values that TorchTitan would refuse.

    Args:
        run: The run.
        report: Where each is noted, as a mistake of its own.
    """
    for limit in LIMITS:
        if limit.when(run):
            report.attempt(_check_limit, limit, run)
    for conflict in CONFLICTS:
        if conflict.broken(run):
            report.attempt(_refuse, conflict)


def check_schedule(run: Run, report: Report) -> None:
    """Check that there is a learning rate at every step, with TorchTitan's own schedule.

    Beyond `lr_scheduler.total_steps` it falls below zero, which trains away what was learned, or
    fails an assertion.

    Args:
        run: The run.
        report: Takes a warning where it falls below zero.

    Raises:
        TrainError: TorchTitan would fail.
    """
    options, steps = run.config.lr_scheduler, run.config.training.steps
    total = options.total_steps
    wrong = any(
        not limit.values.accepts(value_of(run.config, limit.option))
        for limit in LIMITS
        if limit.option.startswith(("lr_scheduler.", "training.steps"))
    )
    if total is None or steps <= total or wrong or not run.trains or not _own_schedule(run):
        return
    import torch
    from torchtitan.components.lr_scheduler import build_lr_schedulers

    optimizer: Any = [torch.optim.SGD([torch.zeros(1)], lr=1.0)]
    schedule: Any = build_lr_schedulers(optimizer, options, steps).schedulers[0]
    beyond = f"training.steps {steps} goes beyond lr_scheduler.total_steps {total}"
    remedy = "raise lr_scheduler.total_steps, or lower training.steps"
    try:
        # Each step asks for the factor of the next one, the last one too.
        last, _ = (schedule.lr_lambdas[0](step) for step in (steps - 1, steps))
    except AssertionError as error:
        raise TrainError(
            f"{beyond}, after which there is no learning rate (the schedule has no decay): {remedy}"
        ) from error
    if last < 0:
        report.warn(f"{beyond}, after which the learning rate is below zero: {remedy}")


def value_of(config: "MosaicJobConfig", option: str) -> Any:
    """An option's value, by section and key."""
    found: Any = config
    for name in option.split("."):
        found = getattr(found, name)
    return found


def _check_limit(limit: Limit, run: Run) -> None:
    value = value_of(run.config, limit.option)
    if limit.values.accepts(value):
        return
    names = {name.lower(): name for name in limit.values.names}
    near = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.5)
    hint = f'; did you mean "{names[near[0]]}"?' if near else ""
    raise TrainError(f"{limit.option} must be {limit.values.text}, got {value!r}{hint}")


def _refuse(conflict: Conflict) -> None:
    raise TrainError(conflict.line)


# By what they begin with: what is read in their place.
_UNUSED = {
    "training.dataset": "the data are those of [mosaic_dataloader.dataset]",
    "training.dataloader.": "the loader's options are those of [mosaic_dataloader]",
    "validation.dataset": "the data are those of [mosaic_validation_dataloader.dataset]",
    "validation.dataloader.": "the loader's options are those of [mosaic_validation_dataloader]",
    "memory_estimation.": "a script of TorchTitan's own estimates; here the checks do",
}


def check_unused(config: "MosaicJobConfig", report: Report) -> None:
    """Warn of options without effect that are set to other values than their defaults."""
    from torchtitan.config import JobConfig

    defaults = _flat(asdict(JobConfig()))
    given = _flat(asdict(config))
    for option, default in defaults.items():
        for begin, instead in _UNUSED.items():
            if option.startswith(begin) and given[option] != default:
                report.warn(
                    f"{option} = {given[option]!r} has no effect here: {instead}; remove it"
                )


def _flat(tables: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Values by section and key."""
    flat: dict[str, Any] = {}
    for name, value in tables.items():
        # Free keys of a tokenizer or of streams are not options of TorchTitan's.
        if isinstance(value, dict) and not name.startswith("mosaic_"):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = value
    return flat
