"""Rows: every way to store tokens gives the same tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dataloader_helpers import loader
from hypothesis import given
from hypothesis import strategies as st
from streaming import JSONWriter, MDSWriter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from mosaic_dataloader import MosaicDataError, StreamingTextDataset
from mosaic_dataloader.reading.rows import fill_row

LENGTHS = [1, 5, 15, 16, 17, 18, 40]


@given(length=st.integers(1, 12), tokens=st.lists(st.integers(0, 99), max_size=30))
def test_a_row_is_its_tokens_and_their_successors(length: int, tokens: list[int]) -> None:
    inputs = np.full((2, length), 7777, np.int64)
    labels = np.full((2, length), 7777, np.int64)
    fill_row(inputs, labels, 1, np.array(tokens, np.uint16), pad_id=5)
    for place in range(length):
        assert inputs[1, place] == (tokens[place] if place < len(tokens) else 5)
        assert labels[1, place] == (tokens[place + 1] if place + 1 < len(tokens) else -100)
    assert (inputs[0] == 7777).all()
    assert (labels[0] == 7777).all()


def rows_of(count: int = 60, lengths: list[int] | None = None) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    sizes = lengths or LENGTHS
    return [rng.integers(0, 200, sizes[i % len(sizes)]) for i in range(count)]


STORED: dict[str, tuple[dict[str, str], Any]] = {
    "int32": ({"tokens": "ndarray:int32"}, lambda t: {"tokens": t.astype(np.int32)}),
    "uint16": ({"tokens": "ndarray:uint16"}, lambda t: {"tokens": t.astype(np.uint16)}),
    "uint8": ({"tokens": "ndarray:uint8"}, lambda t: {"tokens": t.astype(np.uint8)}),
    "int64": ({"tokens": "ndarray:int64"}, lambda t: {"tokens": t.astype(np.int64)}),
    "any dtype": ({"tokens": "ndarray"}, lambda t: {"tokens": t.astype(np.uint32)}),
    "bytes": ({"tokens": "bytes"}, lambda t: {"tokens": t.astype(np.uint16).tobytes()}),
    "other columns": (
        {"a": "str", "b": "int32", "tokens": "ndarray:int32", "z": "bytes"},
        lambda t: {"a": "x" * len(t), "b": 3, "tokens": t.astype(np.int32), "z": b"zz"},
    ),
}


@pytest.mark.parametrize("how", STORED)
@pytest.mark.parametrize("compression", [None, "zstd"])
@pytest.mark.parametrize("lengths", [LENGTHS, [17], [40], [9]])
def test_every_token_column_reads_alike(
    tmp_path: Path, how: str, compression: str | None, lengths: list[int]
) -> None:
    columns, make = STORED[how]
    rows = rows_of(lengths=lengths)
    out = str(tmp_path / "data")
    with MDSWriter(out=out, columns=columns, size_limit=1500, compression=compression) as writer:
        for row in rows:
            writer.write(make(row))
    before = sorted(p.name for p in Path(out).iterdir())
    options = {"token_encoding_type": "uint16"} if how == "bytes" else {}
    one = loader(
        out,
        shuffle=False,
        batch_size=12,
        cache_dir=str(tmp_path / "cache"),
        infinite=False,
        **options,
    )
    found = list(one)
    assert len(found) == 5
    for number, tokens in enumerate(rows):
        inputs = found[number // 12][0]["input"][number % 12]
        labels = found[number // 12][1][number % 12]
        assert inputs.dtype == labels.dtype == torch.int64
        padded = np.concatenate([tokens, np.zeros(40, np.int64)])
        known = min(len(tokens) - 1, 16)
        assert inputs.tolist() == padded[:16].tolist()
        assert labels.tolist() == tokens[1 : known + 1].tolist() + [-100] * (16 - known)
        assert one.dataset[number].tolist() == tokens[:17].tolist()
    # Data that are only local are read where they lie, and nothing is written beside them.
    assert sorted(p.name for p in Path(out).iterdir()) == before


def test_a_static_shape_is_read(tmp_path: Path) -> None:
    with MDSWriter(out=str(tmp_path), columns={"tokens": "ndarray:int32:17"}) as writer:
        for number in range(30):
            writer.write({"tokens": np.arange(number, number + 17, dtype=np.int32)})
    batch, labels = next(iter(loader(str(tmp_path), shuffle=False)))
    assert batch["input"][3].tolist() == list(range(3, 19))
    assert labels[3].tolist() == list(range(4, 20))


def words(count: int) -> str:
    return " ".join(f"w{i}" for i in range(count))


def tokenizer() -> Tokenizer:
    vocabulary = {"<s>": 0, "</s>": 1, **{f"w{i}": i + 2 for i in range(50)}}
    made = Tokenizer(WordLevel(vocabulary, unk_token="<s>"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    # A limit set on the tokenizer must not cut documents unseen.
    made.enable_truncation(4)
    made.enable_padding(length=60, pad_id=1, pad_token="</s>")
    return made


@pytest.mark.parametrize("kind", ["mds", "jsonl"])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_text_is_tokenized_cut_and_padded(tmp_path: Path, kind: str, num_workers: int) -> None:
    writer = (
        MDSWriter(out=str(tmp_path), columns={"text": "str", "id": "int32"})
        if kind == "mds"
        else JSONWriter(out=str(tmp_path), columns={"text": "str", "id": "int"})
    )
    with writer as out:
        for number in range(40):
            out.write({"text": words(number % 25 + 1), "id": number})
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token="</s>")
    one = loader(str(tmp_path), shuffle=False, tokenizer=wrapped, num_workers=num_workers)
    batches = iter(one)
    for number in range(0, 40, 8):
        inputs, labels = next(batches)
        for row in range(8):
            count = (number + row) % 25 + 1
            tokens = [0, *range(2, count + 2)]
            assert inputs["input"][row].tolist() == (tokens + [1] * 16)[:16]
            assert labels[row].tolist() == (tokens[1:] + [-100] * 16)[:16]
    assert one.dataset[3].tolist() == [0, 2, 3, 4, 5]
    identity = one.dataset.identity.rows
    twin = PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token="</s>")
    assert identity == loader(str(tmp_path), tokenizer=twin).dataset.identity.rows
    twin.add_tokens(["another"])
    assert identity != loader(str(tmp_path), tokenizer=twin).dataset.identity.rows
    one.close()


@pytest.mark.parametrize(
    ("columns", "sample", "parts"),
    [
        ({"image": "bytes"}, {"image": b"1"}, ["image", "neither", "tokens", "text"]),
        ({"tokens": "str"}, {"tokens": "1"}, ["encoding 'str'", "ndarray"]),
        (
            {"tokens": "ndarray:float32"},
            {"tokens": np.ones(3, np.float32)},
            ["float32", "integer"],
        ),
        ({"text": "bytes"}, {"text": b"1"}, ["encoding 'bytes'", "str"]),
        ({"text": "str"}, {"text": "1"}, ["holds text", "mosaic_tokenizer.name"]),
        ({"tokens": "pkl"}, {"tokens": 1}, ["unsafe"]),
    ],
)
def test_unreadable_columns_are_refused_at_once(
    tmp_path: Path, columns: dict[str, str], sample: dict[str, Any], parts: list[str]
) -> None:
    with MDSWriter(out=str(tmp_path), columns=columns) as writer:
        writer.write(sample)
    with pytest.raises(MosaicDataError) as caught:
        StreamingTextDataset(seq_len=8, streams={"mine": {"local": str(tmp_path)}})
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in ["mine", *parts]), message


def test_a_wrong_token_encoding_is_named(tmp_path: Path) -> None:
    with MDSWriter(out=str(tmp_path), columns={"tokens": "bytes"}) as writer:
        writer.write({"tokens": np.arange(17, dtype=np.uint16).tobytes()})
    with pytest.raises(MosaicDataError, match="token_encoding_type"):
        next(iter(loader(str(tmp_path), batch_size=1)))


def test_batches_are_never_rewritten(numbered: str) -> None:
    iterator = iter(loader(numbered))
    kept = [next(iterator) for _ in range(30)]
    copies = [(i["input"].clone(), t.clone()) for i, t in kept]
    for _ in range(60):
        next(iterator)
    for (inputs, labels), (their_inputs, their_labels) in zip(kept, copies, strict=True):
        assert inputs["input"].equal(their_inputs)
        assert labels.equal(their_labels)
        assert inputs["input"].is_contiguous()
        assert labels.is_contiguous()


def test_texts_of_several_batches_are_encoded_at_once_and_none_waits_for_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with MDSWriter(out=str(tmp_path), columns={"text": "str"}, size_limit=600) as out:
        for number in range(200):
            out.write({"text": words(number % 25 + 1)})
    one = loader(str(tmp_path), shuffle=False, tokenizer=tokenizer(), batch_size=4)
    rows, encoded = one.dataset.rows, []
    encode = rows._tokenizer.encode  # type: ignore[union-attr]

    def noted(texts: list[str]) -> Any:
        encoded.append(len(texts))
        return encode(texts)

    monkeypatch.setattr(rows._tokenizer, "encode", noted)
    read = take_text(iter(one), 50)
    assert read == [min(16, number % 25 + 2) for number in range(200)]
    # The first batch waits for its own texts only; then as many as half of what is kept ready.
    assert encoded[:5] == [4, 8, 16, 32, 32]
    one.close()
    shards = sorted(tmp_path.glob("*.mds"))
    assert len(shards) >= 8
    lame = loader(str(tmp_path), shuffle=False, tokenizer=tokenizer(), batch_size=4)
    shards[2].unlink()
    before = sum(lame.dataset.mixture.samples_per_shard[:2].tolist()) // 4
    batches = iter(lame)
    assert take_text(batches, before) == [min(16, number % 25 + 2) for number in range(4 * before)]
    with pytest.raises(MosaicDataError, match=shards[2].name):
        next(batches)
    assert lame.samples_seen == 4 * before


def take_text(batches: Any, count: int) -> list[int]:
    """How many tokens each row holds, up to the row's length, of the next batches."""
    found = [next(batches)[0]["input"] for _ in range(count)]
    return [int((row > 1).sum()) + 1 for inputs in found for row in inputs]


@pytest.mark.parametrize("tokens", ["ndarray:int32", "ndarray:uint16", "bytes"])
def test_rows_beside_another_column_are_gathered(tmp_path: Path, tokens: str) -> None:
    """Rows lie at uneven distances, and some are of another length; both kinds read alike."""
    rng = np.random.default_rng(5)
    dtype = np.dtype(tokens.partition(":")[2] or "uint16")
    rows = [rng.integers(0, 60000, 33 if n % 7 else 20, np.int64).astype(dtype) for n in range(60)]
    ends = {"document_ends": "ndarray:int32", "tokens": tokens}
    with MDSWriter(out=str(tmp_path), columns=ends, size_limit=2000) as writer:
        for row in rows:
            value = row.tobytes() if tokens == "bytes" else row
            many = rng.integers(0, 33, rng.integers(1, 6)).astype(np.int32)
            writer.write({"document_ends": many, "tokens": value})
    dataset = StreamingTextDataset(local=str(tmp_path), seq_len=32, token_encoding_type="uint16")
    assert len(dataset.streams[0].readers) >= 3
    assert [dataset[n].tolist() for n in range(60)] == [row.tolist() for row in rows]
    full = dataset.store.full_rows
    assert len(full) == len(dataset.streams[0].readers)
    shards, places = dataset.mixture.locate(np.arange(60))
    for number, (shard, place) in enumerate(zip(shards.tolist(), places.tolist(), strict=True)):
        if number % 7:
            assert full[shard][place].tolist() == rows[number].tolist()
        else:
            with pytest.raises(KeyError):
                full[shard][place]
    # A batch of full rows alone, and one with a short row in it.
    for numbers in (np.arange(1, 7), np.arange(5, 9)):
        inputs, labels, *_ = dataset.rows.batch(shards[numbers].tolist(), places[numbers].tolist())
        for one, wanted in zip(range(len(numbers)), numbers.tolist(), strict=True):
            count = len(rows[wanted])
            assert inputs[one, : min(count, 32)].tolist() == rows[wanted][:32].tolist()
            assert labels[one, : count - 1].tolist() == rows[wanted][1:33].tolist()
            assert set(labels[one, count - 1 :].tolist()) <= {-100}
    dataset.close()
