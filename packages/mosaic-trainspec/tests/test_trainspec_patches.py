"""What is corrected of a model and its loss, and which kinds of parallelism go together."""

import importlib
import importlib.metadata
import inspect
import pkgutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchtitan import train
from torchtitan.components import metrics
from torchtitan.config import JobConfig
from torchtitan.protocols.train_spec import get_train_spec
from torchtitan.tools.logging import logger
from torchtitan.tools.utils import NoColor
from torchtitan.train import Trainer

import mosaic_trainspec.torchtitan_patches as patches
from mosaic_trainspec import TrainSpecError, check_job, patch_spec, patch_torchtitan
from mosaic_trainspec.checks.model import find_model
from mosaic_trainspec.checks.parallel import check_pipeline, check_replicas
from mosaic_trainspec.torchtitan_patches import gradient_scale, loss_rank, tied_weights


def test_the_value_of_a_loss_is_left_as_it_is() -> None:
    loss_fn = gradient_scale.ScaledLoss(lambda x, *, power: (x**power).sum())
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    for scale in (1.0, 0.25):
        loss_fn.scale, values.grad = scale, None
        loss = loss_fn(values, power=2)
        loss.backward()
        assert loss.item() == 5
        assert values.grad is not None
        assert values.grad.tolist() == [2 * scale, 4 * scale]


def test_every_patch_names_what_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    patches.check_torchtitan()
    found = pkgutil.walk_packages(patches.__path__, f"{patches.__name__}.")
    modules = [importlib.import_module(each.name) for each in found]
    assert {answer for module in modules for answer in module.ANSWERS} == set(patches.ANSWERS)
    for module in modules:
        assert "can go once" in " ".join(inspect.getsource(module).split()), module

    def told() -> str:
        with pytest.raises(TrainSpecError) as refused:
            patches.check_torchtitan()
        return str(refused.value)

    # Each line of each patch is compared.
    for answer in patches.ANSWERS:
        with monkeypatch.context() as patch:
            patch.setattr(patches, "ANSWERS", (*patches.ANSWERS, f"{answer} # as it was"))
            line = told()
        place, text = answer.split(": ", 1)
        path, number = place.split(":")
        assert f"line {number} of torchtitan/{path} is {text!r} and not " in line
        assert line.endswith("reinstall torchtitan 0.2.2")
    with monkeypatch.context() as patch:
        patch.setattr(patches, "ANSWERS", ("no/such/file.py:1: x = 1",))
        assert "line 1 of torchtitan/no/such/file.py is ''" in told()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.2+cu130")
    patches.check_torchtitan()


def test_a_scale_without_a_patched_spec_is_refused() -> None:
    """A trainer that needs none goes on: its gradients are right without."""

    def trainer(loss_fn: Any, **parts: Any) -> Any:
        dims = SimpleNamespace(pp_enabled=False, dp_replicate=2)
        return SimpleNamespace(loss_fn=loss_fn, parallel_dims=dims, model_parts=[], **parts)

    def plain(*_: Any) -> None: ...

    gradient_scale.set_scale(trainer(plain), 8)
    pipelined, corrected = trainer(plain), trainer(gradient_scale.ScaledLoss(plain))
    for each in (pipelined, corrected):
        each.parallel_dims.pp_enabled = True
    gradient_scale.set_scale(corrected, 8)
    assert corrected.loss_fn.scale == 1 / 8
    with pytest.raises(TrainSpecError, match=r"^the TrainSpec .* was not patched.*call patch_spec"):
        gradient_scale.set_scale(pipelined, 8)


def test_the_rank_with_the_loss_writes_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in [
        (metrics, "_get_metrics_rank"),
        (metrics, "ensure_pp_loss_visible"),
        (train, "ensure_pp_loss_visible"),
    ]:
        monkeypatch.setattr(module, name, getattr(module, name))
    warnings: list[str] = []
    monkeypatch.setattr(logger, "warning", warnings.append)
    monkeypatch.setenv("LOG_RANK", "0")
    loss_rank.log_where_the_loss_is()
    for stages, schedule, rank in [
        (1, "1F1B", 0),
        (2, "1F1B", 4),
        (4, "Interleaved1F1B", 6),
        (4, "ZBVZeroBubble", 0),
        (4, "zbvzerobubble", 0),
        (4, "DualPipeV", 0),
    ]:
        made = config("llama3", "debugmodel", pipeline_parallel=stages)
        made.parallelism.pipeline_parallel_schedule = schedule
        dims: Any = SimpleNamespace(pp=stages, pp_enabled=stages > 1, world_size=8)
        assert metrics._get_metrics_rank(dims, made) == rank
        assert loss_rank.loss_rank(made, 8) == rank
        warnings.clear()
        if stages > 1:
            metrics.ensure_pp_loss_visible(dims, made, NoColor())
        assert vars(train)["ensure_pp_loss_visible"] is metrics.ensure_pp_loss_visible
        assert [f"rank {rank} to LOG_RANK" in line for line in warnings] == [True] * (rank > 0)


def test_correcting_twice_is_correcting_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(Trainer, "forward_backward_step", Trainer.forward_backward_step)
    monkeypatch.setattr(patches.no_targets, "leave_out_of_maxima", lambda: made.append("maxima"))
    monkeypatch.setattr(patches.loss_rank, "log_where_the_loss_is", lambda: made.append("rank"))
    monkeypatch.setattr(patches.cpu, "enable_cpu", lambda: made.append("cpu"))
    monkeypatch.setattr(patches, "no_accelerator", lambda: True)
    patch_torchtitan()
    once = Trainer.forward_backward_step
    patch_torchtitan()
    assert Trainer.forward_backward_step is once
    assert made == ["maxima", "rank", "cpu"]

    spec = get_train_spec("llama3")
    patch_spec(spec)
    build, parallelize = spec.build_loss_fn, spec.parallelize_fn
    patch_spec(spec)
    assert (spec.build_loss_fn, spec.parallelize_fn) == (build, parallelize)


def test_another_torchtitan_is_refused_by_each_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.2.3")
    spec = get_train_spec("llama3")
    build = spec.build_loss_fn
    for correct in (patch_torchtitan, lambda: patch_spec(spec)):
        with pytest.raises(TrainSpecError, match=r"^torchtitan 0\.2\.3 is installed"):
            correct()
    assert spec.build_loss_fn is build
    assert check_job(JobConfig(), world_size=1, ranks_here=1).errors == [
        "torchtitan 0.2.3 is installed, but mosaic-trainspec corrects the code of 0.2.2: install "
        "torchtitan 0.2.2"
    ]


def config(name: str, flavor: str, **degrees: int) -> Any:
    made: Any = JobConfig()
    made.model.name, made.model.flavor = name, flavor
    for kind, degree in degrees.items():
        setattr(made.parallelism, f"{kind}_degree", degree)
    return made


def refusal(made: Any) -> str | None:
    try:
        check_replicas(made, find_model(made))
        check_pipeline(made, find_model(made))
    except TrainSpecError as error:
        return str(error)
    return None


def test_kinds_of_parallelism_that_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    fine: list[dict[str, int]] = [
        {"pipeline_parallel": 2},
        {"data_parallel_replicate": 2, "data_parallel_shard": 1},
        {"data_parallel_replicate": 2, "data_parallel_shard": 2, "tensor_parallel": 2},
        {"tensor_parallel": 2, "pipeline_parallel": 2, "data_parallel_shard": 1},
    ]
    for degrees in fine:
        assert refusal(config("llama3", "debugmodel", **degrees)) is None
    assert refusal(config("qwen3", "debugmodel", data_parallel_shard=2)) is None
    assert refusal(config("qwen3", "debugmodel_moe", pipeline_parallel=2)) == (
        "parallelism.pipeline_parallel_degree is 2, but qwen3 debugmodel_moe cannot be cut into "
        "stages: set it to 1"
    )
    alone = {"data_parallel_replicate": 2, "data_parallel_shard": 1}
    for name in ("llama3", "deepseek_v3"):
        both = config(name, "debugmodel", **alone, tensor_parallel=2, pipeline_parallel=4)
        assert refusal(both) == (
            "parallelism.data_parallel_replicate_degree 2 without sharding cannot be combined with "
            "other kinds of parallelism (tensor_parallel_degree 2, pipeline_parallel_degree 4): "
            "set parallelism.data_parallel_shard_degree to 2 or more, or "
            "parallelism.data_parallel_replicate_degree to 1"
        )
    assert refusal(config("simple_fsdp.llama3", "debugmodel", **alone, tensor_parallel=2)) is None
    # A model of one's own that cuts itself, with tied weights.
    made = config("llama3", "debugmodel", pipeline_parallel=2)
    chosen = find_model(made)
    monkeypatch.setattr(chosen.args, "enable_weight_tying", True, raising=False)
    with pytest.raises(TrainSpecError, match="has one weight for its embedding and its output"):
        check_pipeline(made, chosen)


def test_tied_weights_are_found_where_the_same_weight_serves_twice() -> None:
    model: Any = SimpleNamespace(
        tok_embeddings=torch.nn.Embedding(4, 2), output=torch.nn.Linear(2, 4, bias=False)
    )
    assert not tied_weights.has_tied_weights(model)
    model.output.weight = model.tok_embeddings.weight
    assert tied_weights.has_tied_weights(model)
    model.output = None  # the first stage of a pipeline
    assert not tied_weights.has_tied_weights(model)
