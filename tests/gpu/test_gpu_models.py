"""On one GPU: what has no CPU form trains there, compiled models too."""

from pathlib import Path

import pytest
from integration_support.client import Numbered, Outcome, stream, train_with_command
from integration_support.ledger import VOCABULARY

STEPS = 4
MODELS = [
    ("llama4", "debugmodel"),
    ("deepseek_v3", "debugmodel"),
    ("qwen3", "debugmodel_moe"),
    ("llama3", "debugmodel_flex_attn"),
    ("llama3", "debugmodel_varlen_attn"),
    ("llama4", "debugmodel_irope"),
    ("deepseek_v3", "debugmodel_flex_attn"),
    ("gpt_oss", "debugmodel"),
    ("llama3_ft", "debugmodel"),
    ("simple_fsdp.llama3", "debugmodel"),
    ("simple_fsdp.deepseek_v3", "debugmodel"),
]
# They run with tensor parallelism only.
COMPILER_TOOLKIT = ["compiler_toolkit.llama3", "compiler_toolkit.deepseek_v3"]


def write_tokenizer(folder: Path) -> Path:
    """As many words as the models embed; the last one ends a document."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(VOCABULARY - 1)} | {"<eos>": VOCABULARY - 1}
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>").save_pretrained(folder)
    return folder


def train(
    folder: Path, numbered: Numbered, name: str, flavor: str, *more: str, ranks: int = 1
) -> Outcome:
    folder.mkdir(exist_ok=True)
    options = [
        *("--model.name", name, "--model.flavor", flavor, "--optimizer.lr", "1e-3"),
        *("--training.steps", str(STEPS), "--training.local_batch_size", "4"),
        # Varlen attention has no kernel for float32, and gpt_oss's layers are in bfloat16.
        *("--training.mixed_precision_param", "bfloat16"),
        *("--mosaic_tokenizer.name", str(write_tokenizer(folder / "tokenizer"))),
    ]
    return train_with_command(ranks, *options, *stream("a", numbered.local), *more, folder=folder)


def check(outcome: Outcome) -> str:
    assert len(outcome.ledger(0).rows) == STEPS
    log = (outcome.folder / "output.log").read_text()
    assert f"step:  {STEPS}" in log
    assert "nan" not in log.partition("Training starts")[2].replace("mfu: nan", "")
    return log


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "flavor"), MODELS)
def test_it_trains(tmp_path: Path, numbered: Numbered, name: str, flavor: str) -> None:
    # The attention of gpt_oss has no kernel for rows of less than a block.
    longer = ["--training.seq_len", "256"] if name == "gpt_oss" else []
    assert "CUDA" in check(train(tmp_path, numbered, name, flavor, *longer))


@pytest.mark.gpu(count=2)
@pytest.mark.parametrize("name", COMPILER_TOOLKIT)
def test_it_trains_with_tensor_parallelism(tmp_path: Path, numbered: Numbered, name: str) -> None:
    tensor = ["--parallelism.tensor_parallel_degree", "2"]
    assert "CUDA" in check(train(tmp_path, numbered, name, "debugmodel", *tensor, ranks=2))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llama3", "llama4"])
def test_compiled(tmp_path: Path, numbered: Numbered, name: str) -> None:
    log = check(train(tmp_path, numbered, name, "debugmodel", "--compile.enable"))
    assert "with torch.compile" in log


@pytest.mark.soak
def test_the_same_on_cpu(
    tmp_path: Path, numbered: Numbered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the test itself is known to work where there is no GPU."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check(train(tmp_path, numbered, "llama4", "debugmodel"))
