"""Values that a rank of TorchTitan would refuse, and what is said of them before one starts."""

from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import save
from torchtitan.config import JobConfig

from mosaic_trainspec import TrainSpecError, check_job
from mosaic_trainspec.checks import machine, torchtitan_options
from mosaic_trainspec.checks.model import ChosenModel, build_meta_model, find_model
from mosaic_trainspec.checks.parallel import Layout, check_pipeline, find_layout
from mosaic_trainspec.checks.report import Report
from mosaic_trainspec.checks.torchtitan_options import (
    LIMITS,
    Run,
    check_options,
    check_schedule,
    conflicts,
)


def configuration(**options: Any) -> JobConfig:
    """The defaults, with `section__key = value` changed."""
    config = JobConfig()
    config.model.flavor = "debugmodel"
    for option, value in options.items():
        *sections, key = option.split("__")
        setattr(attrgetter(".".join(sections))(config), key, value)
    return config


@pytest.fixture(scope="module")
def model() -> ChosenModel:
    return find_model(configuration())


def mistakes(model: ChosenModel | None, world: int = 1, **options: Any) -> list[str]:
    config = configuration(**options)
    degrees = config.parallelism
    parts = degrees.tensor_parallel_degree * degrees.pipeline_parallel_degree
    ranks = world // parts // degrees.context_parallel_degree
    report = Report()
    check_options(Run(config, model, Layout(ranks), world), report)
    return report.errors


# Option, a value that is refused, what of the rest makes it count, and one that is accepted.
WRONG: list[tuple[str, Any, dict[str, Any], Any]] = [
    ("job__save_config_file", "folder/", {}, "config.json"),
    ("profiling__profile_freq", 0, {"profiling__enable_memory_snapshot": True}, 1),
    ("profiling__profiler_active", 0, {"profiling__enable_profiling": True}, 1),
    ("profiling__profiler_warmup", -1, {"profiling__enable_profiling": True}, 0),
    ("metrics__log_freq", 0, {}, 1),
    ("model__converters", ["float8"], {}, []),
    ("optimizer__name", "Adamw", {}, "Adam"),
    ("optimizer__lr", -1e-3, {}, 0.0),
    ("optimizer__lr", float("nan"), {}, 1e-3),
    ("optimizer__beta1", 1.0, {}, 0.0),
    ("optimizer__beta2", -0.1, {}, 0.999),
    ("optimizer__eps", -1.0, {}, 0.0),
    ("optimizer__weight_decay", -0.1, {}, 0.0),
    ("lr_scheduler__warmup_steps", -1, {}, 0),
    ("lr_scheduler__total_steps", 0, {}, None),
    ("lr_scheduler__decay_ratio", -0.5, {}, 0.0),
    ("lr_scheduler__min_lr_factor", -0.1, {}, 0.0),
    ("training__steps", 0, {}, 1),
    ("training__max_norm", 0.0, {}, float("inf")),
    ("training__gc_freq", 0, {}, 1),
    ("parallelism__expert_parallel_degree", 0, {}, 1),
    ("parallelism__expert_tensor_parallel_degree", 0, {}, 1),
    (
        "parallelism__pipeline_parallel_schedule",
        "1F2B",
        {"parallelism__pipeline_parallel_degree": 2},
        "gpipe",
    ),
    (
        "parallelism__pipeline_parallel_schedule_csv",
        "no/such.csv",
        {"parallelism__pipeline_parallel_degree": 2},
        None,
    ),
    (
        "parallelism__pipeline_parallel_microbatch_size",
        0,
        {"parallelism__pipeline_parallel_degree": 2},
        1,
    ),
    (
        "parallelism__pipeline_parallel_layers_per_stage",
        0,
        {"parallelism__pipeline_parallel_degree": 2},
        4,
    ),
    (
        "parallelism__context_parallel_load_balancer",
        "head-tail",
        {"parallelism__context_parallel_degree": 2},
        None,
    ),
    ("checkpoint__interval", 0, {"checkpoint__enable": True}, 1),
    ("checkpoint__keep_latest_k", 1, {"checkpoint__enable": True}, 0),
    ("activation_checkpoint__selective_ac_option", "-1", {}, "op"),
    (
        "activation_checkpoint__memory_budget",
        1.5,
        {"activation_checkpoint__mode": "memory_budget", "compile__enable": True},
        1.0,
    ),
    ("activation_checkpoint__determinism_check", "no", {}, "none"),
    ("compile__backend", "inductr", {"compile__enable": True}, "inductor"),
    ("compile__components", ["modle"], {"compile__enable": True}, ["model"]),
    ("comm__init_timeout_seconds", 0, {}, 1),
    ("comm__train_timeout_seconds", -5, {}, 1),
    ("comm__trace_buf_size", -1, {}, 0),
    ("validation__freq", 0, {"validation__enable": True}, 1),
    ("validation__local_batch_size", 0, {"validation__enable": True}, 8),
    ("debug__seed", 2**64, {}, None),
]


@pytest.mark.parametrize(
    ("option", "wrong", "rest", "right"), WRONG, ids=[f"{w[0]}={w[1]}" for w in WRONG]
)
def test_a_wrong_value_is_one_line_with_its_key_and_what_it_may_be(
    option: str, wrong: Any, rest: dict[str, Any], right: Any, model: ChosenModel
) -> None:
    world = 2 if "degree" in str(rest) else 1
    (line,) = mistakes(model, world, **rest, **{option: wrong})
    assert line.startswith(f"{option.replace('__', '.')} must be ")
    assert f"got {wrong!r}" in line
    assert mistakes(model, world, **rest, **{option: right}) == []
    if any("enable" in key or "degree" in key or "mode" in key for key in rest):
        # What is never read is no mistake.
        assert mistakes(model, 1, **{option: wrong}) == []


def test_every_value_that_is_limited_is_tried_above() -> None:
    assert {w[0].replace("__", ".") for w in WRONG} == {limit.option for limit in LIMITS}


def test_the_lines_of_torchtitan_that_are_answered_are_still_there(model: ChosenModel) -> None:
    import torchtitan

    root = Path(torchtitan.__file__).parent
    refused = conflicts(Run(configuration(), model, Layout(1), 1))
    answered = [each.line.split(": ", 1) for each in (*LIMITS, *refused)]
    assert [each for each in answered if each[1] not in (root / each[0]).read_text()] == []


def test_the_nearest_name_is_suggested(model: ChosenModel) -> None:
    (line,) = mistakes(model, optimizer__name="adamw")
    told = """optimizer.name must be "Adam" or "AdamW", got 'adamw'; did you mean "AdamW"?"""
    assert line == told


def test_a_value_that_its_type_does_not_list(model: ChosenModel) -> None:
    wrong: dict[str, Any] = {
        "training__dtype": "fp32",
        "quantize__linear__float8__recipe_name": "rowise",
        "quantize__grouped_mm__mx__recipe_name": "mx",
        "activation_checkpoint__mode": "selectve",
    }
    lines = [
        """training.dtype must be "bfloat16" or "float32", got 'fp32'; did you mean "float32"?""",
        """activation_checkpoint.mode must be "selective", "full", "memory_budget" or "none", """
        """got 'selectve'; did you mean "selective"?""",
        'quantize.linear.float8.recipe_name must be "tensorwise", "rowwise" or '
        """"rowwise_with_gw_hp", got 'rowise'; did you mean "rowwise"?""",
        """quantize.grouped_mm.mx.recipe_name must be "mxfp8", got 'mx'; did you mean "mxfp8"?""",
    ]
    assert mistakes(model, **wrong) == lines
    # And nothing else is made of them.
    assert check_job(configuration(**wrong), world_size=1, ranks_here=1).errors == lines


def test_what_an_own_model_builds_itself_is_not_looked_at(model: ChosenModel) -> None:
    def own(*_: object) -> None: ...

    spec = SimpleNamespace(
        **{**vars(model.spec), "build_optimizers_fn": own, "build_lr_schedulers_fn": own}
    )
    other = ChosenModel("own", spec, model.args)
    assert mistakes(other, optimizer__name="Muon", lr_scheduler__warmup_steps=-1) == []
    assert len(mistakes(model, optimizer__name="Muon", lr_scheduler__warmup_steps=-1)) == 2


CONFLICTING: list[tuple[str, int, dict[str, Any]]] = [
    (
        "profiling.profile_freq must be at least",
        1,
        {"profiling__enable_profiling": True, "profiling__profile_freq": 3},
    ),
    ("the package wandb is not installed", 1, {"metrics__enable_wandb": True}),
    ("the package tensorboard is not installed", 1, {"metrics__enable_tensorboard": True}),
    ("the package torchao is not installed", 1, {"model__converters": ["quantize.linear.float8"]}),
    (
        "mixes quantize.*.float8 and quantize.*.mx",
        1,
        {"model__converters": ["quantize.linear.float8", "quantize.grouped_mm.mx"]},
    ),
    (
        "enable_fsdp_float8_all_gather does not go with",
        1,
        {
            "model__converters": ["quantize.linear.float8"],
            "quantize__linear__float8__recipe_name": "rowwise",
            "quantize__linear__float8__enable_fsdp_float8_all_gather": True,
        },
    ),
    (
        "which supports neither pipeline nor context parallelism",
        2,
        {
            "model__converters": ["quantize.grouped_mm.float8"],
            "parallelism__context_parallel_degree": 2,
        },
    ),
    (
        "cannot be compiled with tensor parallelism",
        2,
        {
            "model__converters": ["quantize.linear.mx"],
            "parallelism__tensor_parallel_degree": 2,
            "compile__enable": True,
        },
    ),
    ("needs a GPU of compute capability 8.9", 1, {"model__converters": ["quantize.linear.float8"]}),
    (
        "quantize.grouped_mm.float8, which needs a GPU",
        1,
        {"model__converters": ["quantize.grouped_mm.float8"]},
    ),
    ("or ROCm's gfx950", 1, {"model__converters": ["quantize.linear.mx"]}),
    (
        "quantize.grouped_mm.mx, which needs a GPU",
        1,
        {"model__converters": ["quantize.grouped_mm.mx"]},
    ),
    (
        "early_step_in_backward = true does not work",
        2,
        {
            "optimizer__early_step_in_backward": True,
            "parallelism__pipeline_parallel_degree": 2,
        },
    ),
    ("has no GPU to offload from", 2, {"training__enable_cpu_offload": True}),
    (
        "expert_tensor_parallel_degree must be 1 or the same",
        4,
        {
            "parallelism__expert_parallel_degree": 2,
            "parallelism__expert_tensor_parallel_degree": 2,
        },
    ),
    ("does not divide data_parallel_shard_degree", 2, {"parallelism__expert_parallel_degree": 4}),
    (
        "enable_async_tensor_parallel = true needs compile.enable",
        2,
        {
            "parallelism__tensor_parallel_degree": 2,
            "parallelism__enable_async_tensor_parallel": True,
        },
    ),
    (
        '"ptrr" balances flex attention only',
        2,
        {
            "parallelism__context_parallel_degree": 2,
            "parallelism__context_parallel_load_balancer": "ptrr",
        },
    ),
    ("needs compile.enable = true", 1, {"activation_checkpoint__mode": "memory_budget"}),
    (
        'does not go with selective_ac_option = "op"',
        1,
        {
            "activation_checkpoint__selective_ac_option": "op",
            "activation_checkpoint__debug": True,
        },
    ),
    (
        '"DualPipeV" does not support activation checkpointing',
        4,
        {
            "parallelism__pipeline_parallel_degree": 2,
            "parallelism__expert_parallel_degree": 2,
            "parallelism__pipeline_parallel_schedule": "DualPipeV",
        },
    ),
    (
        '"DualPipeV" needs a GPU for its overlap',
        4,
        {
            "parallelism__pipeline_parallel_degree": 2,
            "parallelism__pipeline_parallel_schedule": "DualPipeV",
        },
    ),
    ("the environment variable NGPU", 1, {"comm__mode": "fake_backend"}),
    (
        '"async_with_pinned_mem" needs a GPU',
        1,
        {"checkpoint__enable": True, "checkpoint__async_mode": "async_with_pinned_mem"},
    ),
    (
        "create_seed_checkpoint = true needs",
        2,
        {"checkpoint__enable": True, "checkpoint__create_seed_checkpoint": True},
    ),
    (
        "initial_load_in_hf = true loads weights only",
        1,
        {
            "checkpoint__enable": True,
            "checkpoint__folder": "none/such",
            "checkpoint__initial_load_in_hf": True,
            "checkpoint__initial_load_model_only": False,
        },
    ),
    (
        "initial_load_in_hf_quantized = true needs",
        1,
        {
            "checkpoint__enable": True,
            "checkpoint__folder": "none/such",
            "checkpoint__initial_load_in_hf_quantized": True,
        },
    ),
    (
        "last_save_in_hf = true saves weights only",
        1,
        {
            "checkpoint__enable": True,
            "checkpoint__last_save_in_hf": True,
            "checkpoint__last_save_model_only": False,
        },
    ),
    (
        "under pipeline parallelism, whose schedule takes batches of one shape",
        2,
        {
            "parallelism__pipeline_parallel_degree": 2,
            "validation__enable": True,
            "validation__local_batch_size": 4,
        },
    ),
    (
        "torch cannot run the pipeline schedule dualpipev without a backward pass",
        2,
        {
            "parallelism__pipeline_parallel_degree": 2,
            "parallelism__pipeline_parallel_schedule": "dualpipev",
            "parallelism__pipeline_parallel_expert_parallel_overlap": False,
            "validation__enable": True,
        },
    ),
]


@pytest.mark.parametrize(
    ("expected", "world", "options"), CONFLICTING, ids=[each[0] for each in CONFLICTING]
)
def test_what_does_not_go_together_is_one_line(
    expected: str,
    world: int,
    options: dict[str, Any],
    model: ChosenModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine without GPUs and without the packages, each with the rest of its kind."""
    monkeypatch.setattr(torchtitan_options, "_missing", lambda _: True)
    monkeypatch.setattr(torchtitan_options, "_cuda_below", lambda *_: True)
    monkeypatch.setattr(torchtitan_options, "_rocm_below", lambda *_: True)
    monkeypatch.setattr(torchtitan_options, "no_accelerator", lambda: True)
    monkeypatch.delenv("NGPU", raising=False)
    found = mistakes(model, world, **options)
    assert len([line for line in found if expected in line]) == 1, found
    assert len(found) == len(set(found))
    if not options.get("model__converters"):
        assert len(found) == 1, found
    # With what it needs there, nothing is said.
    monkeypatch.setattr(torchtitan_options, "_missing", lambda _: False)
    monkeypatch.setattr(torchtitan_options, "_cuda_below", lambda *_: False)
    monkeypatch.setattr(torchtitan_options, "no_accelerator", lambda: False)
    monkeypatch.setenv("NGPU", "4")
    if any(word in expected for word in ("needs a GPU", "installed", "gfx950", "no GPU", "NGPU")):
        assert mistakes(model, world, **options) == []
    else:
        assert expected in " ".join(mistakes(model, world, **options))


def test_experts_adapters_and_offloading(
    model: ChosenModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What depends on the model, and on FSDP."""
    moe = find_model(configuration(model__name="deepseek_v3"))
    experts = moe.args.moe_args.num_experts
    assert mistakes(moe, experts, parallelism__expert_parallel_degree=experts) == []
    three = mistakes(moe, 3, parallelism__expert_parallel_degree=3)
    assert ["does not divide the experts" in line for line in three] == [True]
    monkeypatch.setattr(torchtitan_options, "_missing", lambda name: name == "deep_ep")
    deepep = mistakes(moe, 2, parallelism__expert_parallel_comm_backend="deepep")
    assert len(deepep) == 2
    assert "needs parallelism.expert_parallel_degree of 2 or more" in deepep[0]
    assert "deep_ep is not installed" in deepep[1]
    # llama3 never looks at it.
    assert mistakes(model, 2, parallelism__expert_parallel_comm_backend="deepep") == []

    spec = SimpleNamespace(**{**vars(model.spec), "state_dict_adapter": None})
    bare = ChosenModel("own", spec, model.args)
    (line,) = mistakes(bare, checkpoint__enable=True, checkpoint__last_save_in_hf=True)
    assert "checkpoint.last_save_in_hf = true, but this model has no weights" in line
    hf: dict[str, Any] = {"checkpoint__folder": "none/such", "checkpoint__initial_load_in_hf": True}
    (line,) = mistakes(bare, checkpoint__enable=True, **hf)
    assert "checkpoint.initial_load_in_hf = true, but this model has no weights" in line

    monkeypatch.setattr(torchtitan_options, "no_accelerator", lambda: False)
    offload = {"training__enable_cpu_offload": True}
    assert mistakes(model, 2, **offload) == []
    (line,) = mistakes(model, 1, **offload)
    assert "but only FSDP offloads" in line
    (line,) = mistakes(model, 2, parallelism__data_parallel_replicate_degree=2, **offload)
    assert "but only FSDP offloads" in line


def test_a_learning_rate_below_zero(model: ChosenModel) -> None:
    """Behind the schedule's end, where it turns negative or fails an assertion."""

    def check(steps: int, **options: Any) -> list[str]:
        config = configuration(training__steps=steps, **options)
        report = Report()
        check_schedule(Run(config, model, Layout(1), 1), report)
        return report.warnings

    total: dict[str, Any] = {"lr_scheduler__total_steps": 100, "lr_scheduler__warmup_steps": 10}
    for options in ({}, {"lr_scheduler__decay_ratio": 0.2}, {"lr_scheduler__decay_type": "sqrt"}):
        assert check(100, **total, **options) == []
        (line,) = check(200, **total, **options)
        assert "training.steps 200 goes beyond lr_scheduler.total_steps 100, after which" in line
        assert "below zero: raise lr_scheduler.total_steps, or lower" in line
    # Without a decay the next factor cannot be computed at all.
    assert check(100, lr_scheduler__total_steps=100, lr_scheduler__decay_ratio=0.0) == []
    with pytest.raises(TrainSpecError, match="there is no learning rate"):
        check(101, lr_scheduler__total_steps=100, lr_scheduler__decay_ratio=0.0)
    # A cosine comes back up.
    assert check(200, **total, lr_scheduler__decay_type="cosine") == []
    assert check(200, lr_scheduler__warmup_steps=10) == []


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"model__name": "qwen3"}, "qwen3 debugmodel cannot be cut into stages"),
        (
            {"parallelism__pipeline_parallel_layers_per_stage": 3},
            'layers_per_stage 3 makes 3 stages of the 6 layers .*"1F1B" wants 1 on each',
        ),
        (
            {"parallelism__pipeline_parallel_layers_per_stage": 2},
            'layers_per_stage 2 makes 4 stages .*"1F1B" wants 1 on each',
        ),
        (
            {
                "parallelism__pipeline_parallel_schedule": "Interleaved1F1B",
                "parallelism__pipeline_parallel_layers_per_stage": 4,
            },
            'makes 2 stages .*"Interleaved1F1B" wants 2 or more on each',
        ),
        (
            {
                "parallelism__pipeline_parallel_schedule": "ZBVZeroBubble",
                "parallelism__module_fqns_per_model_part": [["tok_embeddings"], ["output"]],
            },
            'module_fqns_per_model_part makes 2 stages .*"ZBVZeroBubble" wants 2 on each',
        ),
        (
            {"parallelism__pipeline_parallel_first_stage_less_layers": 9},
            "first_stage_less_layers = 9",
        ),
        (
            {"training__local_batch_size": 1},
            'schedule "1F1B" needs a micro-batch for each of the 2',
        ),
        (
            {
                "parallelism__pipeline_parallel_schedule": "Interleaved1F1B",
                "training__local_batch_size": 5,
            },
            "takes micro-batches in 2 rounds, which do not divide the 5",
        ),
        ({}, None),
        ({"parallelism__pipeline_parallel_schedule": "Interleaved1F1B"}, None),
        ({"parallelism__pipeline_parallel_schedule": "DualPipeV"}, None),
        ({"parallelism__pipeline_parallel_layers_per_stage": 4}, None),
    ],
)
def test_pipelines_that_the_schedule_cannot_have(
    options: dict[str, Any], expected: str | None
) -> None:
    config = configuration(parallelism__pipeline_parallel_degree=2, **options)
    chosen = find_model(config)
    config.model.name = options.get("model__name", "llama3")
    if expected is None:
        check_pipeline(config, chosen)
        return
    with pytest.raises(TrainSpecError, match=expected):
        check_pipeline(config, chosen)


def test_a_report_keeps_what_is_no_mistake_of_the_user() -> None:
    report = Report()

    def fails(error: Exception) -> None:
        raise error

    with pytest.raises(ZeroDivisionError):
        report.attempt(fails, ZeroDivisionError())
    report.stop_on_errors()
    assert report.attempt(lambda: 3) == 3
    report.attempt(fails, TrainSpecError("one"))
    report.attempt(fails, TrainSpecError("one"))
    with pytest.raises(TrainSpecError, match=r"^one$"):
        report.stop_on_errors()
    report.attempt(fails, TrainSpecError("two"))
    with pytest.raises(TrainSpecError, match=r"^one; two$") as several:
        report.stop_on_errors()
    assert several.value.problems == ("one", "two")


def test_slow_precision_and_a_model_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(**options: str) -> list[str]:
        report = Report()
        options = {"training__mixed_precision_param": "float32"} | options
        machine.check_speed(configuration(**options), report)
        return report.warnings

    monkeypatch.setattr(machine, "no_accelerator", lambda: True)
    monkeypatch.setattr(machine, "_has_bfloat16_units", lambda: False)
    assert slow() == []
    (line,) = slow(training__mixed_precision_param="bfloat16")
    assert "training.mixed_precision_param is bfloat16, for which this CPU" in line
    (line,) = slow(training__dtype="bfloat16", training__mixed_precision_param="bfloat16")
    assert "training.dtype and training.mixed_precision_param are bfloat16" in line
    monkeypatch.setattr(machine, "_has_bfloat16_units", lambda: True)
    assert slow(training__dtype="bfloat16") == []

    def large(ranks: int, here: int, **options: Any) -> list[str]:
        report = Report()
        made = configuration(model__flavor="8B", **options)
        model, layout = find_model(made), find_layout(made, ranks)
        meta_model = build_meta_model(made, model)
        assert meta_model is not None
        assert 8.0e9 < meta_model.parameters < 8.1e9
        machine.check_memory(made, model, meta_model, layout, here, report)
        return report.warnings

    monkeypatch.setattr(machine, "machine_bytes", lambda: 40 * 10**9)
    (line,) = large(2, 1)
    assert "llama3 8B has 8.03 billion parameters: weights, gradients and" in line
    assert "an estimated 64.2 GB per rank (16 bytes per parameter, shared by 2 rank(s))" in line
    assert "but a rank has 40.0 GB" in line
    assert large(4, 1) == []
    (line,) = large(4, 4)
    assert "32.1 GB per rank" in line
    assert "but a rank has 10.0 GB" in line
    assert large(2, 1, training__dtype="bfloat16") == []
    assert large(2, 1, parallelism__tensor_parallel_degree=2) != []
    (line,) = large(4, 1, parallelism__data_parallel_replicate_degree=4)
    assert "128.5 GB per rank (16 bytes per parameter, shared by 1 rank(s))" in line


def test_a_job_is_checked_as_a_whole(tmp_path: Path) -> None:
    """With torchtitan's own configuration, and a checkpoint of any loader."""
    given: dict[str, Any] = {
        "job__dump_folder": str(tmp_path),
        "checkpoint__enable": True,
        "training__mixed_precision_param": "float32",
    }
    parts = ("optimizer.x", "lr_scheduler.x", "train_state.x", "dataloader.dp_rank_0")
    meta_model = build_meta_model(configuration(), find_model(configuration()))
    assert meta_model is not None
    state: dict[str, Any] = {key: torch.zeros(1) for key in parts}
    state |= {key: torch.zeros(s, dtype=torch.int8) for key, s in meta_model.shapes.items()}
    state["train_state.step"] = 2
    save(state, checkpoint_id=tmp_path / "checkpoint" / "step-2", no_dist=True)
    # TorchTitan has a trainer that uses TorchFT.
    config = configuration(**given, fault_tolerance__enable=True)
    good = check_job(config, world_size=1, ranks_here=1)
    assert (good.errors, good.facts) == ([], ["llama3 debugmodel"])

    options: dict[str, Any] = {"training__steps": 2, "checkpoint__last_save_in_hf": True}
    report = check_job(configuration(**given, **options), world_size=1, ranks_here=1)
    (line,) = report.errors
    assert line.startswith("nothing is left to train: checkpoint ")
    (line,) = [line for line in report.warnings if "last_save_in_hf" in line]
    assert "the run cannot be resumed from it" in line

    # A loader without a state leaves no key of its own.
    del state["dataloader.dp_rank_0"]
    save(state | {"dataloader": {}}, checkpoint_id=tmp_path / "checkpoint" / "step-4", no_dist=True)
    report = check_job(configuration(**given), world_size=1, ranks_here=1)
    assert report.errors == []

    # A new run from a checkpoint, of which more than the model is to be loaded.
    save({"w": torch.zeros(1)}, checkpoint_id=tmp_path / "model" / "step-4", no_dist=True)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors").touch()
    new: dict[str, Any] = {
        "checkpoint__folder": "new",
        "checkpoint__initial_load_model_only": False,
    }
    for path, in_hf, said in [
        ("model/step-4", False, f"_path '{tmp_path}/model/step-4' holds the model only: set check"),
        ("hf", True, "checkpoint.initial_load_in_hf = true loads weights only: set checkpoint.ini"),
    ]:
        initial: dict[str, Any] = {
            "checkpoint__initial_load_path": str(tmp_path / path),
            "checkpoint__initial_load_in_hf": in_hf,
            "checkpoint__exclude_from_loading": ["model"],
        }
        report = check_job(configuration(**given, **new, **initial), world_size=1, ranks_here=1)
        (line,) = report.errors
        assert said in line
        assert line.endswith("checkpoint.initial_load_model_only = true")

    wrong: dict[str, Any] = {
        "optimizer__name": "adamw",
        "parallelism__tensor_parallel_degree": 3,
        "training__seq_len": 32,
        "checkpoint__exclude_from_loading": ["dataloder"],
    }
    report = check_job(configuration(**given, **wrong), world_size=3, ranks_here=3)
    starts = ["optimizer.name must be ", "training.seq_len 32 is not a multiple of 6 "]
    starts += ["parallelism.tensor_parallel_degree 3 does not divide the 16 attention heads of "]
    starts += ["checkpoint.exclude_from_loading: dataloder is not a part "]
    assert len(report.errors) == len(starts)
    assert [e for e, start in zip(report.errors, starts, strict=True) if e.startswith(start)] == (
        report.errors
    )
    with pytest.raises(TrainSpecError) as raised:
        report.stop_on_errors()
    assert raised.value.problems == tuple(report.errors)
