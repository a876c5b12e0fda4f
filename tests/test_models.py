"""Every dense text model of TorchTitan, and the mixtures of experts, train on CPU as they are.

Only `model.name` and `model.flavor` change. `test_every_spec.py` trains all of them with fewer
layers; whole ones are trained by a soak, and one of them in every run.
"""

import json
import re

import pytest
from integration_support.client import Numbered, RankServer, stream

STEP = re.compile(r"step:\s*(\d+).*?loss:\s*([\d.]+)")
#: A mixture of experts behind a dense layer; then the others.
SOME = ("deepseek_v3",)
OTHERS = ("qwen3", "llama3", "llama3_ft", "simple_fsdp.llama3", "llama4", "simple_fsdp.deepseek_v3")


def losses(log: str) -> dict[int, float]:
    return {int(step): float(loss) for step, loss in STEP.findall(log)}


@pytest.mark.parametrize(
    "name", [*SOME, *(pytest.param(name, marks=pytest.mark.soak) for name in OTHERS)]
)
def test_it_trains(ranks: RankServer, numbered: Numbered, name: str) -> None:
    options = ["--model.name", name, "--model.flavor", "debugmodel", "--optimizer.lr", "1e-3"]
    options += ["--training.local_batch_size", "2"]
    run = ranks.train(1, *options, *stream("a", numbered.local)).succeeded()
    seen = losses(run.log(0))
    assert list(seen) == [1, 2, 3]
    # Of 2,048 tokens, none is likelier at first: e^7.62. Tied embeddings (qwen3) make of each token
    # itself what is likeliest, which often is right here.
    assert 5 < seen[1] < 10
    assert len(set(seen.values())) == 3
    assert len(run.ledger(0).rows) == 3


def test_a_model_of_hugging_faces_trains(ranks: RankServer, numbered: Numbered) -> None:
    """TorchTitan's `transformers_modeling_backend`, told in its own section what to build."""
    backend = "transformers_modeling_backend"
    told = ranks.new_folder("hf")
    size = {"vocab_size": 2048, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (told / "config.json").write_text(json.dumps(size))
    options = ["--model.name", backend, "--model.flavor", "debugmodel", "--optimizer.lr", "1e-3"]
    options += ["--job.custom_config_module", f"torchtitan.experiments.{backend}.job_config"]
    options += ["--hf_transformers.model", str(told), *stream("a", numbered.local)]
    run = ranks.train(1, *options).succeeded()
    seen = losses(run.log(0))
    assert list(seen) == [1, 2, 3]
    assert len(set(seen.values())) == 3
    assert len(run.ledger(0).rows) == 3
    # The folder is looked into before a rank starts.
    (told / "config.json").unlink()
    missing = ranks.train(1, *options, launched_by_us=False)
    assert missing.codes == [2]
    (line,) = [line for line in missing.log(0).splitlines() if line.startswith("error: ")]
    assert f"hf_transformers.model '{told}' cannot be read (" in line
    assert line.endswith("set it to the name or the folder of a Hugging Face model")


@pytest.mark.parametrize(
    "degrees",
    [
        pytest.param({"tensor_parallel": 2}, id="tp"),
        # `test_every_spec.py` has experts under FSDP.
        pytest.param({"data_parallel_shard": 2}, id="fsdp", marks=pytest.mark.soak),
    ],
)
def test_experts_compute_the_same_however_they_are_laid_out(
    ranks: RankServer, numbered: Numbered, degrees: dict[str, int]
) -> None:
    """A mixture trained on one rank goes on on two, with the losses of one."""
    options = [*EXPERT_OPTIONS, *stream("a", numbered.local)]
    one = ranks.train(1, *options, "--training.local_batch_size", "4").succeeded()
    folder = ranks.new_folder("two")
    target = folder / "out" / "checkpoint"
    target.mkdir(parents=True)
    (target / "step-1").symlink_to(one.folder / "out" / "checkpoint" / "step-1")
    local = 4 // degrees.get("data_parallel_shard", 1)
    layout = [f"--parallelism.{name}_degree={value}" for name, value in degrees.items()]
    size = f"--training.local_batch_size={local}"
    options += [size, *layout]
    two = ranks.train(2, *options, folder=folder, loads_weights=True).succeeded()
    before, after = losses(one.log(0)), losses(two.log(0))
    assert list(after) == [2, 3]
    assert after == pytest.approx({step: before[step] for step in after}, abs=1e-4)


EXPERT_OPTIONS = [
    *("--model.name", "few_experts", "--model.flavor", "tiny"),
    *("--experimental.custom_import", "integration_support.few_experts"),
    *("--training.global_batch_size", "4", "--checkpoint.enable", "--checkpoint.interval", "1"),
]
