"""What is corrected of a model and its loss, and which kinds of parallelism go together."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torchtitan.config import JobConfig

from mosaic_trainspec import TrainSpecError
from mosaic_trainspec.checks.model import find_model
from mosaic_trainspec.checks.parallel import check_pipeline, check_replicas
from mosaic_trainspec.torchtitan_patches import gradient_scale, tied_weights


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
