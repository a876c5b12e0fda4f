"""Documents packed into one row do not attend to one another, where the flavor masks them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from streaming import MDSWriter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torchtitan.models.llama3 import Transformer, TransformerModelArgs
from transformers import PreTrainedTokenizerFast

from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset
from mosaic_dataloader.builders import MosaicTokenizer

SEQ_LEN, EOS = 32, 1


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchTitan compiles the mask for a GPU and the attention for minutes; neither is at issue."""
    import torchtitan.models.attention as attention
    import torchtitan.models.llama3.model.model as llama3

    on_cpu = partial(create_block_mask, device="cpu")
    monkeypatch.setattr(llama3, "create_attention_mask", on_cpu)
    monkeypatch.setattr(attention.FlexAttentionWrapper, "_compiled_flex_attn", flex_attention)


def packed_row(folder: Path) -> tuple[torch.Tensor, MosaicTokenizer]:
    """The first row of texts of ten words each, int64[1, T], and its tokenizer."""
    vocabulary = {"<unk>": 0, "</s>": EOS, **{f"w{n}": n + 2 for n in range(60)}}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = MosaicTokenizer(PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>"))
    with MDSWriter(out=str(folder), columns={"text": "str"}) as writer:
        for number in range(6):
            writer.write({"text": " ".join(f"w{10 * number + n}" for n in range(10))})
    dataset = StreamingTextDataset(
        tokenizer=tokenizer, seq_len=SEQ_LEN, local=str(folder), packing=True, packing_lanes=1
    )
    loader = MosaicParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=1)
    inputs, _ = next(iter(loader))
    loader.close()
    return inputs["input"], tokenizer


@pytest.mark.parametrize("mask", ["block_causal", "causal"])
def test_a_token_reaches_its_own_document_only(tmp_path: Path, uncompiled: None, mask: str) -> None:
    row, tokenizer = packed_row(tmp_path / "data")
    (ends,) = (row[0] == EOS).nonzero(as_tuple=True)
    assert ends.tolist() == [10, 21]
    torch.manual_seed(0)
    args = TransformerModelArgs(
        dim=32,
        n_layers=2,
        n_heads=2,
        vocab_size=64,
        multiple_of=16,
        max_seq_len=SEQ_LEN,
        attn_type="flex",
        attn_mask_type=mask,
    )
    model: Any = Transformer(args)
    with torch.no_grad():
        model.init_weights()
    changed = row.clone()
    changed[0, 3] += 20
    logits = []
    with torch.no_grad():
        for tokens in (row, changed):
            masks = model.get_attention_masks(input_batch=tokens, tokenizer=tokenizer)
            logits.append(model(tokens, masks)[0])
    differs = (logits[0] != logits[1]).any(dim=-1)
    # What comes before is never reached; the rest of the document, its EOS included, always.
    assert not differs[:3].any()
    assert differs[3:11].all()
    if mask == "block_causal":
        assert logits[0][11:].equal(logits[1][11:])
    else:
        assert differs[11:].all()
