"""A small tokenizer, made once a session; for the tests of mosaic-prepare, too."""

from pathlib import Path

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
    text = (Path(__file__).parent / "dataloader_helpers.py").read_text()
    bare.train_from_iterator([text], trainer)
    folder = str(tmp_path_factory.mktemp("tokenizer") / "bpe")
    PreTrainedTokenizerFast(tokenizer_object=bare, bos_token=bos, eos_token=eos).save_pretrained(
        folder
    )
    return folder
