"""A small tokenizer, made once a session."""

import os
import sys
from pathlib import Path

# Test modules are imported by path (importmode importlib), which leaves their folder out.
sys.path.insert(0, str(Path(__file__).parent))
# Before torch and tokenizers are imported: several test processes share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Ray would report to its makers that it is used.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Under `uv run` it would start every worker through `uv run`, which takes a minute.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

import pytest


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A byte-level BPE tokenizer of 400 entries, as `AutoTokenizer` loads it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    bos, eos = "<|begin_of_text|>", "<|end_of_text|>"
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[bos, eos],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    text = (Path(__file__).parent / "prepare_helpers.py").read_text()
    bare.train_from_iterator([text], trainer)
    folder = str(tmp_path_factory.mktemp("tokenizer") / "bpe")
    PreTrainedTokenizerFast(tokenizer_object=bare, bos_token=bos, eos_token=eos).save_pretrained(
        folder
    )
    return folder
