"""From base spec to Mosaic spec, and the registry under ``<name>_mosaic``."""

import copy
import dataclasses
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from torchtitan.config import JobConfig
from torchtitan.protocols import train_spec as titan_registry
from torchtitan.protocols.train_spec import TrainSpec, get_train_spec

from mosaic_trainspec import (
    MosaicValidator,
    TrainSpecError,
    build_mosaic_validator,
    get_mosaic_train_spec,
    log_data_metrics,
    register_mosaic_train_spec,
)

TEXT_SPECS = [
    "llama3",
    "llama3_ft",
    "llama4",
    "qwen3",
    "deepseek_v3",
    "gpt_oss",
    "simple_fsdp.llama3",
    "simple_fsdp.deepseek_v3",
    "transformers_modeling_backend",
]


def build_loader(**_: Any) -> str:
    return "loader"


def build_tokenizer(_: Any) -> str:
    return "tokenizer"


def build_validation_loader(**arguments: Any) -> dict[str, Any]:
    return arguments


def build_metrics(*_: Any) -> str:
    return "metrics"


BUILDERS: dict[str, Any] = {
    "build_dataloader_fn": build_loader,
    "build_tokenizer_fn": build_tokenizer,
    "build_validation_dataloader_fn": build_validation_loader,
}


@pytest.fixture(autouse=True)
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(titan_registry, "_extra_train_specs", {})
    yield


def build_validator(spec: TrainSpec, **overrides: Any) -> MosaicValidator:
    """Call the spec's validator builder as the Trainer does, on one rank."""
    config = JobConfig()
    config.model.flavor = next(iter(spec.model_args))
    for name, value in overrides.items():
        setattr(config.validation, name, value)
    assert spec.build_validator_fn is not None
    validator = spec.build_validator_fn(
        job_config=config,
        dp_world_size=1,
        dp_rank=0,
        tokenizer="tokenizer",
        parallel_dims=SimpleNamespace(pp_enabled=False, get_optional_mesh=lambda _: None),
        loss_fn=None,
        validation_context=None,
        maybe_enable_amp=None,
        metrics_processor=None,
        pp_schedule=None,
        pp_has_first_stage=None,
        pp_has_last_stage=None,
    )
    assert isinstance(validator, MosaicValidator)
    return validator


@pytest.mark.parametrize("name", TEXT_SPECS)
def test_every_text_spec_gets_mosaic_data_and_keeps_the_rest(name: str) -> None:
    if name == "transformers_modeling_backend":
        pytest.importorskip("transformers", reason="this spec needs it, the package does not")
    base = get_train_spec(name)
    before = {field.name: getattr(base, field.name) for field in dataclasses.fields(base)}
    flavors = copy.deepcopy(dict(base.model_args))

    spec = get_mosaic_train_spec(base, **BUILDERS)

    replaced = {"model_args", "build_dataloader_fn", "build_tokenizer_fn", "build_validator_fn"}
    assert type(spec) is type(base)
    for field, value in before.items():
        assert getattr(base, field) is value
        assert (getattr(spec, field) is value) == (field not in replaced), field
    assert spec.build_dataloader_fn is build_loader
    assert spec.build_tokenizer_fn is build_tokenizer
    assert spec.model_args.keys() == flavors.keys()

    # What the Trainer does to a flavor in place stays in this spec, nested arguments included.
    for flavor, args in spec.model_args.items():
        assert args is not base.model_args[flavor]
        args.max_seq_len = 12345  # type: ignore[attr-defined]
        if hasattr(args, "moe_args"):
            args.moe_args._debug_force_load_balance = True
    assert {flavor: repr(args) for flavor, args in base.model_args.items()} == {
        flavor: repr(args) for flavor, args in flavors.items()
    }

    # A validator also where the base has none, with the arguments of the trained flavor.
    validator = build_validator(spec)
    assert validator.model_args is next(iter(spec.model_args.values()))
    loader: Any = validator.validation_dataloader
    assert loader == {
        "dp_world_size": 1,
        "dp_rank": 0,
        "tokenizer": "tokenizer",
        "job_config": validator.job_config,
    }
    assert [step for step in range(1, 31) if validator.should_validate(step)] == [1, 10, 20, 30]


def test_metrics_processor_is_the_given_one_or_the_bases() -> None:
    base = get_train_spec("llama3")
    assert get_mosaic_train_spec(base, **BUILDERS).build_metrics_processor_fn is None
    base = dataclasses.replace(base, build_metrics_processor_fn=build_tokenizer)
    kept = get_mosaic_train_spec(base, **BUILDERS)
    assert kept.build_metrics_processor_fn is build_tokenizer
    given = get_mosaic_train_spec(base, **BUILDERS, build_metrics_processor_fn=build_metrics)
    assert given.build_metrics_processor_fn is build_metrics


class NeedsImages(nn.Module):
    def forward(self, tokens: Any, pixel_values: Any, grid: Any, masks: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("change", "builders", "message"),
    [
        ({}, {"build_dataloader_fn": None}, "build_dataloader_fn must be callable, not NoneType"),
        ({}, {"build_tokenizer_fn": "gpt2"}, "build_tokenizer_fn must be callable, not str"),
        ({}, {"build_validation_dataloader_fn": 3}, "build_validation_dataloader_fn must be call"),
        ({}, {"build_metrics_processor_fn": 3}, "build_metrics_processor_fn must be callable"),
        ({"build_tokenizer_fn": None}, {}, "Transformer is not a text model"),
        ({"model_cls": NeedsImages}, {}, "beside 'tokens' its forward needs pixel_values, grid)"),
    ],
)
def test_bad_builders_and_non_text_specs_are_refused(
    change: dict[str, Any], builders: dict[str, Any], message: str
) -> None:
    base = dataclasses.replace(get_train_spec("llama3"), **change)
    with pytest.raises(TrainSpecError) as error:
        get_mosaic_train_spec(base, **{**BUILDERS, **builders})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_base_that_is_no_spec_is_refused() -> None:
    with pytest.raises(TrainSpecError, match="must be a torchtitan TrainSpec, not str"):
        get_mosaic_train_spec("llama3", **BUILDERS)  # type: ignore[arg-type]


def test_validation_without_a_loader_or_with_a_bad_frequency_is_refused() -> None:
    base = get_train_spec("llama3")
    spec = get_mosaic_train_spec(base, **{**BUILDERS, "build_validation_dataloader_fn": None})
    with pytest.raises(TrainSpecError, match=r"pass build_validation_dataloader_fn, or set"):
        build_validator(spec)
    with pytest.raises(TrainSpecError, match=r"validation\.freq is 0: set it to 1 or more"):
        build_validator(get_mosaic_train_spec(base, **BUILDERS), freq=0)
    with pytest.raises(TypeError):
        build_mosaic_validator()  # type: ignore[call-arg]


def test_registering_again_replaces_and_never_stacks() -> None:
    assert register_mosaic_train_spec("llama3", **BUILDERS) == "llama3_mosaic"
    assert get_train_spec("llama3_mosaic").build_dataloader_fn is build_loader
    newer = {**BUILDERS, "build_dataloader_fn": build_metrics}
    assert register_mosaic_train_spec("llama3", **newer) == "llama3_mosaic"
    assert get_train_spec("llama3_mosaic").build_dataloader_fn is build_metrics
    # By its registered name, and by that name in a process that has not registered it yet.
    for name in ("llama3_mosaic", "qwen3_mosaic", "simple_fsdp.llama3_mosaic"):
        assert register_mosaic_train_spec(name, **BUILDERS) == name
        assert get_train_spec(name).build_dataloader_fn is build_loader
    assert not any(name.endswith("_mosaic_mosaic") for name in titan_registry._extra_train_specs)


def test_specs_of_other_code_are_found_and_never_overwritten() -> None:
    theirs = get_train_spec("llama3")
    titan_registry.register_train_spec("theirs", theirs)
    titan_registry.register_train_spec("odd_mosaic", theirs)
    assert register_mosaic_train_spec("theirs", **BUILDERS) == "theirs_mosaic"
    assert register_mosaic_train_spec("odd_mosaic", **BUILDERS) == "odd_mosaic_mosaic"
    titan_registry.register_train_spec("qwen3_mosaic", theirs)
    with pytest.raises(TrainSpecError, match="'qwen3_mosaic' was registered by other code"):
        register_mosaic_train_spec("qwen3", **BUILDERS)
    assert get_train_spec("qwen3_mosaic") is theirs


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lama3", "did you mean 'llama3'? known are autoparallel.deepseek_v3,"),
        ("lama3_mosaic", "model.name 'lama3' is not known: did you mean 'llama3'?"),
        ("zzzzzz", "model.name 'zzzzzz' is not known: known are autoparallel"),
        ("flux", "model.name 'flux' is not a text model (it needs images)"),
        ("vlm", "is not a text model (it needs images next to the text)"),
    ],
)
def test_unknown_and_non_text_names_are_refused_without_importing(name: str, message: str) -> None:
    with pytest.raises(TrainSpecError) as error:
        register_mosaic_train_spec(name, **BUILDERS)
    assert message in str(error.value)
    assert "qwen3" in str(error.value)
    assert "\n" not in str(error.value)
    assert "flux," not in str(error.value)
    assert not {"torchtitan.models.flux", "torchtitan.experiments.vlm"} & sys.modules.keys()


def test_what_an_experiment_cannot_import_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchtitan.experiments

    (tmp_path / "broken_a").mkdir()
    (tmp_path / "broken_a" / "__init__.py").write_text("import nowhere_to_be_found.inside\n")
    (tmp_path / "broken_b").mkdir()
    (tmp_path / "broken_b" / "__init__.py").write_text("from torch import no_such_function_x\n")
    paths = [*torchtitan.experiments.__path__, str(tmp_path)]
    monkeypatch.setattr(torchtitan.experiments, "__path__", paths)
    known = torchtitan.experiments._supported_experiments | {"broken_a", "broken_b"}
    monkeypatch.setattr(torchtitan.experiments, "_supported_experiments", known)
    with pytest.raises(TrainSpecError, match="needs the Python module 'nowhere_to_be_found'"):
        register_mosaic_train_spec("broken_a", **BUILDERS)
    with pytest.raises(TrainSpecError, match=r"cannot be imported \(cannot import name 'no_such_f"):
        register_mosaic_train_spec("broken_b", **BUILDERS)
    assert not titan_registry._extra_train_specs


class CountingLoader:
    """Counts as mosaic-dataloader's does, on one rank."""

    dp_world_size = 1
    dataset = SimpleNamespace(streams=[SimpleNamespace(name="web")], packing=False)
    synced = 0

    def loading_counters(self) -> dict[str, float]:
        names = ("web/shards_fetched", "web/bytes_fetched", "cache_hits", "evictions", "retries")
        return dict.fromkeys((*names, "texts_encoded", "wait_seconds", "batches_ready"), 0)

    def stage_begun(self) -> None: ...

    def metrics(self, sum_over_ranks: object) -> dict[str, float]:
        return {"data/epoch": 0.5, "data/samples_seen": 8, "data/tokens_seen": 64}

    def sync_token_counts(self, sum_over_ranks: object) -> None:
        self.synced += 1


def test_what_the_loader_counts_is_logged_beside_the_specs_own_metrics() -> None:
    logged: list[dict[str, Any]] = []

    def log(step: int, *_: Any, extra_metrics: dict[str, Any]) -> None:
        logged.append(extra_metrics)

    def build_processor(*_: Any) -> SimpleNamespace:
        return SimpleNamespace(should_log=lambda step: step == 1, log=log)

    loader = CountingLoader()
    builders = BUILDERS | {"build_dataloader_fn": lambda **_: loader}
    spec = get_mosaic_train_spec(
        get_train_spec("llama3"), **builders, build_metrics_processor_fn=build_processor
    )
    for _ in range(2):
        log_data_metrics(spec)
    config = JobConfig()
    config.checkpoint.enable, config.checkpoint.interval = True, 2
    build: Any = spec.build_metrics_processor_fn
    assert build(config, None).log is log  # a trainer without data
    assert spec.build_dataloader_fn(dp_rank=0) is loader  # type: ignore[call-arg, comparison-overlap]
    processor = build(config, None)
    assert [processor.should_log(step) for step in (1, 2, 3)] == [True, False, False]
    assert loader.synced == 1  # before a checkpoint
    processor.log(1, 0.0, 0.0, 0.0, extra_metrics={"own": 1})
    (metrics,) = logged
    assert metrics["own"] == 1
    assert metrics["data/samples_seen"] == 8
    assert metrics["loading/batches_ready"] == 0

    # A spec that is made of this one has a loader of its own, and the base's metrics.
    other = CountingLoader()
    builders["build_dataloader_fn"] = lambda **_: other
    spec = get_mosaic_train_spec(spec, **builders)
    log_data_metrics(spec)
    assert spec.build_dataloader_fn() is other  # type: ignore[call-arg, comparison-overlap]
    build = spec.build_metrics_processor_fn
    assert build(config, None).should_log(2) is False
    assert other.synced == 1
    config.fault_tolerance.enable = True
    with pytest.raises(TrainSpecError, match="replica groups cannot be asked: leave log_data_m"):
        build(config, None)


def test_a_loader_that_counts_nothing_is_refused() -> None:
    spec = get_mosaic_train_spec(get_train_spec("llama3"), **BUILDERS)
    log_data_metrics(spec)
    with pytest.raises(TrainSpecError) as raised:
        spec.build_dataloader_fn()  # type: ignore[call-arg]
    assert str(raised.value) == (
        "log_data_metrics: the training loader, a str, has no dp_world_size, dataset, metrics, "
        "sync_token_counts, loading_counters, stage_begun: let build_dataloader_fn return "
        "mosaic-dataloader's MosaicParallelAwareDataloader, or a loader with these, or leave "
        "log_data_metrics out"
    )


def test_importing_the_package_costs_little() -> None:
    """A trainer may report a mistake before it imports torch, and check before it corrects."""
    code = "import sys; from mosaic_trainspec import TrainSpecError, check_job, patch_torchtitan; "
    code += "print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"
