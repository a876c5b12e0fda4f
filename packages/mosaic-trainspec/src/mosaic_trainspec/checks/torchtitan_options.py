"""Values that TorchTitan 0.2.2 reads without complaint and refuses much later, in a rank.

Everything that its trainer asserts on, raises on, divides by or indexes by: values that are wrong
in themselves (`torchtitan_limits.toml`), and values that do not go together (`conflicts`). Each
entry quotes the line that it answers, so that a test notices when a TorchTitan no longer has it.
Options whose type lists the allowed values are compared with it, because TorchTitan does not do so
for what a TOML file or a program sets. Degrees, batches and rows are checked by `parallel`.
"""

import dataclasses
import difflib
import importlib.util
import math
import os
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from mosaic_trainspec.checks.checkpoint import own_folder, saves_checkpoints
from mosaic_trainspec.checks.model import ChosenModel
from mosaic_trainspec.checks.parallel import Layout, no_validation
from mosaic_trainspec.checks.report import Report
from mosaic_trainspec.device import no_accelerator
from mosaic_trainspec.errors import TrainSpecError
from mosaic_trainspec.torchtitan_patches.loss_rank import is_v_shaped

if TYPE_CHECKING:
    from torchtitan.config import JobConfig


@dataclass(frozen=True)
class Run:
    """What the entries look at.

    Attributes:
        config: The configuration.
        model: The model that it names; None where there is no such model.
        layout: How the ranks share the work; None where the degrees are wrong.
        world_size: Ranks of the whole run.
    """

    config: "JobConfig"
    model: ChosenModel | None
    layout: Layout | None
    world_size: int

    def torchtitans(self, builder: str) -> bool:
        """Whether a function of the model's spec is TorchTitan's own, and reads its options."""
        return self.model is None or self.module(builder).startswith("torchtitan.")

    def module(self, builder: str) -> str:
        """The module of a function of the model's spec."""
        function = None if self.model is None else getattr(self.model.spec, builder, None)
        return str(getattr(getattr(function, "func", function), "__module__", ""))

    @property
    def trains(self) -> bool:
        """Whether steps are trained, and not only a checkpoint of the untrained model is made."""
        config = self.config
        return not config.checkpoint.create_seed_checkpoint and config.comm.mode != "local_tensor"

    @property
    def pipelined(self) -> bool:
        """Whether the model is cut into pipeline stages."""
        return self.config.parallelism.pipeline_parallel_degree > 1


@dataclass(frozen=True)
class Limit:
    """An option and the values that TorchTitan accepts.

    Attributes:
        option: Its section and key.
        must_be: The values in words, as they follow "must be".
        accepts: Whether a value is one of them; not asked about None.
        names: All of the values, where they are names; else empty.
        when: Whether TorchTitan's line is reached.
        line: A file of TorchTitan, and the text of its line that fails with other values.
    """

    option: str
    must_be: str
    accepts: Callable[[Any], bool]
    names: Sequence[str]
    when: Callable[[Run], bool]
    line: str

    def allows(self, config: "JobConfig") -> bool:
        """Whether the configuration has an accepted value. None is left to the option's type."""
        value = attrgetter(self.option)(config)
        return value is None or self.accepts(value)


class Conflict(NamedTuple):
    """Options that TorchTitan refuses together, or that ask for what is not there.

    Attributes:
        broken: Whether the run asks for it.
        mistake: Section and key, and what to change.
        line: A file of TorchTitan, and the text of its line that fails.
    """

    broken: bool
    mistake: str
    line: str


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
    "own optimizer": lambda run: run.torchtitans("build_optimizers_fn"),
    "own schedule": lambda run: run.torchtitans("build_lr_schedulers_fn"),
    "trains": lambda run: run.trains,
    "pipeline": lambda run: run.pipelined,
    "pipeline without a CSV file": lambda run: (
        run.pipelined and not run.config.parallelism.pipeline_parallel_schedule_csv
    ),
    "context parallelism": lambda run: run.config.parallelism.context_parallel_degree > 1,
    "saves": lambda run: saves_checkpoints(run.config),
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
# Values that neither a bound nor a list of names describes: in words, and as a function.
_MUST_BE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "file name": ("the name of a file", lambda value: os.path.basename(value) != ""),
    "file or nothing": ("the path of a file", lambda value: not value or os.path.isfile(value)),
    "converters": (
        'names of converters: "quantize.linear.float8", "quantize.grouped_mm.float8", '
        '"quantize.linear.mx" or "quantize.grouped_mm.mx", or of your own that '
        "experimental.custom_import registers",
        _known_converters,
    ),
    "fraction": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "share": ("between 0 and 1", lambda value: 0 <= value <= 1),
    "norm": ("above 0 (inf: no clipping)", lambda value: value > 0),
    "not 1": ("0 (keep all) or at least 2", lambda value: value != 1),
    "op or layers": (
        '"op", or a number of layers such as "2"',
        lambda value: value == "op" or (value.isascii() and value.isdecimal()),
    ),
    "backend": (
        'a backend of torch.compile, such as "inductor", "aot_eager" or "eager"',
        _known_backend,
    ),
    "components": (
        'some of "model" and "loss"',
        lambda value: set(value) <= {"model", "loss"},
    ),
    "seed": ("from -2**63 to 2**64 - 1", lambda value: -(2**63) <= value < 2**64),
}


def _in_words(names: Sequence[str]) -> str:
    *others, last = (f'"{name}"' for name in names)
    return f"{', '.join(others)} or {last}" if others else last


def _accepted(entry: dict[str, Any]) -> tuple[str, Callable[[Any], bool]]:
    """The values that an entry accepts, in words and as a function."""
    if "at_least" in entry:
        least = entry["at_least"]
        return f"at least {least}", lambda value: math.isfinite(value) and value >= least
    if "must_be" in entry:
        return _MUST_BE[entry["must_be"]]
    text = _in_words(entry["one_of"])
    if entry.get("any_case"):
        known = {name.lower() for name in entry["one_of"]}
        return text, lambda value: value.lower() in known
    return text, lambda value: value in entry["one_of"]


# `torchtitan_limits.toml` says what its keys mean.
LIMITS = tuple(
    Limit(
        entry["option"],
        *_accepted(entry),
        names=entry.get("one_of", ()),
        when=_WHEN[entry.get("when", "always")],
        line=entry["line"],
    )
    for entry in tomllib.loads(
        Path(__file__).with_name("torchtitan_limits.toml").read_text(encoding="utf-8")
    )["limit"]
)


def _missing(module: str) -> bool:
    return importlib.util.find_spec(module) is None


def _cuda_below(major: int, minor: int) -> bool:
    from torchtitan.tools.utils import has_cuda_capability

    return not has_cuda_capability(major, minor)


def _rocm_below(major: int, minor: int) -> bool:
    from torchtitan.tools.utils import has_rocm_capability

    return not has_rocm_capability(major, minor)


def conflicts(run: Run) -> Iterator[Conflict]:
    """Everything that TorchTitan refuses together, and whether the run asks for it."""
    config, model = run.config, run.model
    float8, checkpoint = config.quantize.linear.float8, config.checkpoint
    degrees, recompute = config.parallelism, config.activation_checkpoint
    tensor, context = degrees.tensor_parallel_degree, degrees.context_parallel_degree
    expert, expert_tensor = degrees.expert_parallel_degree, degrees.expert_tensor_parallel_degree
    pipelined, saves, cpu = run.pipelined, saves_checkpoints(config), no_accelerator()
    compiled = config.compile.enable and "model" in config.compile.components
    converters = set(config.model.converters)
    formats = {name.rpartition(".")[2] for name in converters if "quantize" in name}
    simulated = config.comm.mode != "default"
    simulated_ranks = os.environ.get("NGPU", "")
    # The run's own folder comes before all others that it could load from.
    loads_first = checkpoint.enable and not own_folder(config).exists()
    no_adapter = model is not None and getattr(model.spec, "state_dict_adapter", None) is None
    mixture = None if model is None else getattr(model.args, "moe_args", None)
    experts = getattr(mixture, "num_experts", None)
    # What FSDP shares the weights out to, context parallelism's ranks included.
    fsdp_ranks = 1
    if run.layout is not None:
        fsdp_ranks = run.layout.dp_world_size // degrees.data_parallel_replicate_degree * context
    # Only these models look at the option.
    deepep = degrees.expert_parallel_comm_backend == "deepep" and run.module(
        "parallelize_fn"
    ).startswith(("torchtitan.models.llama4.", "torchtitan.models.deepseek_v3."))
    yield Conflict(
        config.profiling.enable_profiling
        and config.profiling.profile_freq
        < config.profiling.profiler_warmup + config.profiling.profiler_active,
        "profiling.profile_freq must be at least profiling.profiler_warmup + "
        "profiling.profiler_active: raise it, or lower them",
        "tools/profiling.py: profile_freq must be greater than or equal to warmup + active",
    )
    yield Conflict(
        config.metrics.enable_wandb and _missing("wandb"),
        "metrics.enable_wandb = true, but the package wandb is not installed: install it (in a "
        'checkout with the app: "uv sync --extra wandb"), or set metrics.enable_wandb = false',
        "components/metrics.py: Failed to create WandB logger: No module named 'wandb'.",
    )
    yield Conflict(
        config.metrics.enable_tensorboard and _missing("tensorboard"),
        "metrics.enable_tensorboard = true, but the package tensorboard is not installed: install "
        "it, or set metrics.enable_tensorboard = false",
        "components/metrics.py: from torch.utils.tensorboard import SummaryWriter",
    )
    yield Conflict(
        bool(formats) and _missing("torchao"),
        "model.converters has quantize.*, but the package torchao is not installed: install it, "
        "or leave the converters out",
        "components/quantization/float8.py: torchao is not installed. Please install it to use",
    )
    yield Conflict(
        len(formats) > 1,
        "model.converters mixes quantize.*.float8 and quantize.*.mx: choose one of the two formats",
        "components/quantization/__init__.py: Cannot combine model converters with different",
    )
    yield Conflict(
        (
            "quantize.linear.float8" in converters
            and not (float8.emulate and not compiled)
            and _cuda_below(8, 9)
        ),
        "model.converters has quantize.linear.float8, which needs a GPU of compute capability 8.9 "
        "or newer: leave it out, or set quantize.linear.float8.emulate = true without compiling "
        "the model",
        "components/quantization/float8.py: float8 is only supported on SM89 or later.",
    )
    yield Conflict(
        "quantize.linear.float8" in converters
        and float8.enable_fsdp_float8_all_gather
        and float8.recipe_name is not None,
        "quantize.linear.float8.enable_fsdp_float8_all_gather does not go with "
        "quantize.linear.float8.recipe_name: leave one of them out",
        "components/quantization/float8.py: assert not float8_config.enable_fsdp_float8_all_gather",
    )
    yield Conflict(
        "quantize.grouped_mm.float8" in converters and _cuda_below(8, 9),
        "model.converters has quantize.grouped_mm.float8, which needs a GPU of compute capability "
        "8.9 or newer: leave it out",
        "components/quantization/float8.py: Float8 MoE training only supported on SM89 or later.",
    )
    yield Conflict(
        "quantize.grouped_mm.float8" in converters and (pipelined or context > 1),
        "model.converters has quantize.grouped_mm.float8, which supports neither pipeline nor "
        "context parallelism: set parallelism.pipeline_parallel_degree and "
        "parallelism.context_parallel_degree to 1, or leave it out",
        "components/quantization/float8.py: Float8 MoE training prototype does not yet support",
    )
    yield Conflict(
        "quantize.linear.mx" in converters and _cuda_below(10, 0) and _rocm_below(9, 5),
        "model.converters has quantize.linear.mx, which needs a GPU of compute capability 10.0 or "
        "newer, or ROCm's gfx950: leave it out",
        "components/quantization/mx.py: MXFP8 is only supported on CUDA SM100 or later, or ROCm",
    )
    yield Conflict(
        "quantize.grouped_mm.mx" in converters and _cuda_below(10, 0),
        "model.converters has quantize.grouped_mm.mx, which needs a GPU of compute capability 10.0 "
        "or newer: leave it out",
        "components/quantization/mx.py: MXFP8 is only supported on SM100 or architectures",
    )
    yield Conflict(
        "quantize.linear.mx" in converters and compiled and tensor > 1,
        "model.converters has quantize.linear.mx, which cannot be compiled with tensor "
        "parallelism: set parallelism.tensor_parallel_degree = 1, or compile.enable = false",
        "components/quantization/mx.py: TP not yet supported with torch.compile for mxfp8",
    )
    yield Conflict(
        run.torchtitans("build_optimizers_fn")
        and config.optimizer.early_step_in_backward
        and (pipelined or expert > 1),
        "optimizer.early_step_in_backward = true does not work with expert or pipeline "
        "parallelism: set it to false, or parallelism.expert_parallel_degree and "
        "parallelism.pipeline_parallel_degree to 1",
        "components/optimizer.py: Optimizers in backward is not supported with Pipeline Parallel.",
    )
    yield Conflict(
        config.training.enable_cpu_offload and cpu,
        "training.enable_cpu_offload = true, but this machine has no GPU to offload from: set it "
        "to false",
        'distributed/utils.py: backend = f"{device_type}:{backend},cpu:gloo"',
    )
    yield Conflict(
        config.training.enable_cpu_offload
        and not cpu
        and run.layout is not None
        and not simulated
        and fsdp_ranks == 1,
        "training.enable_cpu_offload = true, but only FSDP offloads: set it to false, or start "
        "more ranks, for a parallelism.data_parallel_shard_degree of 2 or more",
        "train.py: elif job_config.training.enable_cpu_offload:",
    )
    yield Conflict(
        expert > 1 and expert_tensor not in (1, tensor),
        "parallelism.expert_tensor_parallel_degree must be 1 or the same as "
        "parallelism.tensor_parallel_degree",
        "distributed/parallel_dims.py: Currently we only support ETP=TP or ETP=1",
    )
    yield Conflict(
        run.layout is not None
        and expert > 1
        and expert_tensor > 0
        and fsdp_ranks * tensor % (expert * expert_tensor) != 0,
        "parallelism.expert_parallel_degree * expert_tensor_parallel_degree does not divide "
        "data_parallel_shard_degree * context_parallel_degree * tensor_parallel_degree: change "
        "one of them",
        "distributed/parallel_dims.py: efsdp = fsdp * self.tp // (self.etp * self.ep)",
    )
    yield Conflict(
        expert > 1 and experts is not None and experts % expert != 0,
        "parallelism.expert_parallel_degree does not divide the experts of the model's flavor: "
        "use a degree that does",
        "distributed/expert_parallel.py: num_tokens_per_expert.view(ep_degree, -1)",
    )
    yield Conflict(
        deepep and (expert < 2 or expert_tensor > 1),
        'parallelism.expert_parallel_comm_backend = "deepep" needs '
        "parallelism.expert_parallel_degree of 2 or more and "
        'parallelism.expert_tensor_parallel_degree = 1: change them, or set it to "standard"',
        "models/llama4/infra/parallelize.py: DeepEP requires expert parallelism",
    )
    yield Conflict(
        deepep and _missing("deep_ep"),
        'parallelism.expert_parallel_comm_backend = "deepep", but the package deep_ep is not '
        'installed: install it, or set it to "standard"',
        "models/llama4/infra/parallelize.py: use_deepep = True",
    )
    yield Conflict(
        degrees.enable_async_tensor_parallel and tensor > 1 and not compiled,
        'parallelism.enable_async_tensor_parallel = true needs compile.enable = true and "model" '
        "in compile.components",
        "distributed/tensor_parallel.py: Async TP requires 'model' in --compile.components",
    )
    yield Conflict(
        context > 1
        and degrees.context_parallel_load_balancer == "ptrr"
        and model is not None
        and model.attention != "flex",
        'parallelism.context_parallel_load_balancer = "ptrr" balances flex attention only: set it '
        'to "headtail", or choose a flavor with flex attention',
        "distributed/context_parallel.py: PTRRLoadBalancer requires attention_masks to be a",
    )
    yield Conflict(
        recompute.mode == "memory_budget" and not compiled,
        'activation_checkpoint.mode = "memory_budget" needs compile.enable = true and "model" in '
        "compile.components",
        "distributed/activation_checkpoint.py: Memory budget mode requires model to be compiled",
    )
    yield Conflict(
        recompute.mode == "selective" and recompute.selective_ac_option == "op" and recompute.debug,
        'activation_checkpoint.debug = true does not go with selective_ac_option = "op": set it to '
        "false, or selective_ac_option to a number of layers",
        "distributed/activation_checkpoint.py: context_fn=selective_checkpointing_context_fn,",
    )
    yield Conflict(
        pipelined
        and expert > 1
        and degrees.pipeline_parallel_expert_parallel_overlap
        and degrees.pipeline_parallel_schedule.lower() == "dualpipev"
        and recompute.mode != "none",
        'parallelism.pipeline_parallel_schedule = "DualPipeV" does not support activation '
        'checkpointing with expert parallelism: set activation_checkpoint.mode = "none", or '
        "parallelism.pipeline_parallel_expert_parallel_overlap = false",
        "distributed/dual_pipe_v.py: Expert Parallel with DualPipeV and Activation",
    )
    yield Conflict(
        pipelined
        and cpu
        and expert < 2  # which needs a GPU in any case
        and degrees.pipeline_parallel_expert_parallel_overlap
        and degrees.pipeline_parallel_schedule.lower() == "dualpipev",
        'parallelism.pipeline_parallel_schedule = "DualPipeV" needs a GPU for its overlap: set '
        "parallelism.pipeline_parallel_expert_parallel_overlap = false, or use a machine with GPUs",
        "distributed/dual_pipe_v.py: device_module.set_stream(main_stream)",
    )
    yield Conflict(
        simulated and not (simulated_ranks.isdecimal() and int(simulated_ranks) > 0),
        "comm.mode simulates as many ranks as the environment variable NGPU says, which is not "
        'a number of at least 1: set NGPU, or comm.mode = "default"',
        "distributed/utils.py: NGPU environment variable must be set when using comm_mode=",
    )
    yield Conflict(
        saves and checkpoint.async_mode == "async_with_pinned_mem" and cpu,
        'checkpoint.async_mode = "async_with_pinned_mem" needs a GPU: set it to "async", or use a '
        "machine with GPUs",
        "components/checkpoint.py: self.stager = DefaultStager(StagingOptions(",
    )
    yield Conflict(
        checkpoint.create_seed_checkpoint and (run.world_size > 1 or not saves),
        "checkpoint.create_seed_checkpoint = true needs checkpoint.enable = true, "
        "checkpoint.load_only = false and a single rank (--nproc-per-node 1)",
        "train.py: Must create seed checkpoint using a single device, to disable sharding.",
    )
    yield Conflict(
        loads_first and checkpoint.initial_load_in_hf and not checkpoint.initial_load_model_only,
        "checkpoint.initial_load_in_hf = true loads weights only: set "
        "checkpoint.initial_load_model_only = true",
        "components/checkpoint.py: Only model can be loaded when loading from HF's safetensors",
    )
    yield Conflict(
        loads_first
        and checkpoint.initial_load_in_hf_quantized
        and not checkpoint.initial_load_in_hf,
        "checkpoint.initial_load_in_hf_quantized = true needs checkpoint.initial_load_in_hf = true",
        "components/checkpoint.py: Quantized checkpoint can only be loaded from HuggingFace",
    )
    yield Conflict(
        loads_first and checkpoint.initial_load_in_hf and no_adapter,
        "checkpoint.initial_load_in_hf = true, but this model has no weights in Hugging Face's "
        "format: set it to false",
        "components/checkpoint.py: trying to load checkpoint in HF safetensors format, but",
    )
    yield Conflict(
        checkpoint.enable and checkpoint.last_save_in_hf and no_adapter,
        "checkpoint.last_save_in_hf = true, but this model has no weights in Hugging Face's "
        "format: set it to false",
        "components/checkpoint.py: last_save_in_hf is True, but sd_adapter is not provided.",
    )
    yield Conflict(
        saves and checkpoint.last_save_in_hf and not checkpoint.last_save_model_only,
        "checkpoint.last_save_in_hf = true saves weights only: set checkpoint.last_save_model_only "
        "= true, or checkpoint.last_save_in_hf = false",
        "components/checkpoint.py: Only model can be saved when saving in HF safetensors format.",
    )
    yield Conflict(
        pipelined
        and config.validation.enable
        and (config.validation.local_batch_size, config.validation.seq_len)
        != (config.training.local_batch_size, config.training.seq_len),
        "under pipeline parallelism, whose schedule takes batches of one shape, "
        "validation.local_batch_size and validation.seq_len must be those of [training]: make them "
        "equal",
        "components/validate.py: self.pp_schedule.eval(",
    )
    yield Conflict(
        pipelined
        and config.validation.enable
        and not degrees.pipeline_parallel_schedule_csv
        and is_v_shaped(degrees.pipeline_parallel_schedule),
        no_validation(degrees.pipeline_parallel_schedule),
        "components/validate.py: self.pp_schedule.eval(",
    )


def check_options(run: Run, report: Report) -> None:
    """Note each value that TorchTitan would refuse as a mistake of its own."""
    for option, value, names in _listed(run.config):
        if value is not None and value not in names:
            report.refuse([_wrong_value(option, _in_words(names), value, names)])
    for limit in LIMITS:
        if limit.when(run) and not limit.allows(run.config):
            value = attrgetter(limit.option)(run.config)
            report.refuse([_wrong_value(limit.option, limit.must_be, value, limit.names)])
    report.refuse(conflict.mistake for conflict in conflicts(run) if conflict.broken)


def _listed(section: Any, path: str = "") -> Iterator[tuple[str, Any, Sequence[str]]]:
    """The options of a section whose type lists their values: name, value and that list."""
    kinds = get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value, kind = getattr(section, field.name), kinds[field.name]
        if dataclasses.is_dataclass(value):
            yield from _listed(value, f"{path}{field.name}.")
            continue
        alternatives = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        lists = [each for each in alternatives if each is not NoneType]
        if all(get_origin(each) is Literal for each in lists):
            yield f"{path}{field.name}", value, [name for each in lists for name in get_args(each)]


def _wrong_value(option: str, must_be: str, value: Any, names: Sequence[str]) -> str:
    known = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(value).lower(), known, n=1, cutoff=0.5)
    hint = f'; did you mean "{known[near[0]]}"?' if near else ""
    return f"{option} must be {must_be}, got {value!r}{hint}"


def check_schedule(run: Run, report: Report) -> None:
    """Check that there is a learning rate at every step, with TorchTitan's own schedule.

    Beyond `lr_scheduler.total_steps` it falls below zero, which trains away what was learned, or
    fails an assertion.
    """
    options, steps = run.config.lr_scheduler, run.config.training.steps
    total = options.total_steps
    wrong = any(
        not limit.allows(run.config)
        for limit in LIMITS
        if limit.option.startswith(("lr_scheduler.", "training.steps"))
    )
    if (
        total is None
        or steps <= total
        or wrong
        or not run.trains
        or not run.torchtitans("build_lr_schedulers_fn")
    ):
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
        raise TrainSpecError(
            f"{beyond}, after which there is no learning rate (the schedule has no decay): {remedy}"
        ) from error
    if last < 0:
        report.warn(f"{beyond}, after which the learning rate is below zero: {remedy}")
