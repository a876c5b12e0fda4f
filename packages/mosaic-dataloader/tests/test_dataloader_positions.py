"""Positions in documents, and labels across their boundaries, against a reading token by token."""

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import packing_helpers
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streaming import MDSWriter

from mosaic_dataloader import MosaicDataError, MosaicParallelAwareDataloader, StreamingTextDataset
from mosaic_dataloader.inspect.previews import preview
from mosaic_dataloader.reading.origins import DocumentOrigin
from mosaic_dataloader.reading.positions import ends_in_rows, positions_from_ends

EOS, T = 1, 16


def oracle(row: list[int], ends: set[int]) -> list[int]:
    """Positions of one row, token by token."""
    found, position = [], 0
    for place in range(len(row)):
        found.append(position)
        position = 0 if place in ends else position + 1
    return found


@given(st.data())
def test_positions_are_those_of_an_oracle(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 9))
    row = st.lists(st.integers(0, 3), min_size=length, max_size=length)
    rows = data.draw(st.lists(row, min_size=1, max_size=6))
    eos = data.draw(st.sampled_from([None, 1]))
    # Any order, repeated, beyond the row, or the one -1 that stands for none.
    ends = st.one_of(st.just([-1]), st.lists(st.integers(0, length + 2), max_size=5))
    stored = {row: data.draw(ends) for row in range(len(rows)) if data.draw(st.booleans())}
    inputs = np.array(rows, np.int64)
    found = ends_in_rows(inputs, eos, {r: np.array(e, "i4") for r, e in stored.items()})
    of_row = [
        set(stored[number])
        if number in stored
        else {place for place, token in enumerate(row) if token == eos}
        for number, row in enumerate(rows)
    ]
    assert positions_from_ends(np.unique(found), inputs.shape).tolist() == [
        oracle(row, own) for row, own in zip(rows, of_row, strict=True)
    ]
    assert set(found.tolist()) == {
        number * length + end
        for number, own in enumerate(of_row)
        for end in own
        if 0 <= end < length
    }


def write(out: Path, seed: int, *, column: bool, rows: int = 40) -> tuple[str, list[Any]]:
    """Rows of random tokens, first of T+1 and then of fewer, and where their documents end."""
    rng = np.random.default_rng(seed)
    columns = {"tokens": "ndarray:uint16"}
    if column:
        columns["document_ends"] = "ndarray:int32"
    written = []
    with MDSWriter(out=str(out), columns=columns, size_limit=1000) as writer:
        for number in range(rows):
            # Shards that hold nothing but full rows are read in another way.
            length = T + 1 if number < 4 * rows // 5 else 9
            tokens = rng.integers(0, 6, length).astype(np.uint16)
            ends = np.flatnonzero(tokens == EOS).astype(np.int32)
            if column:
                # Not where EOS stands, so that it is seen which of them counts.
                ends = np.flatnonzero(rng.random(len(tokens)) < 0.2).astype(np.int32)
            sample = {"tokens": tokens}
            if column:
                sample["document_ends"] = ends if len(ends) else np.array([-1], np.int32)
            writer.write(sample)
            written.append((tokens.tolist(), set(ends.tolist())))
    return str(out), written


class Tokenizer:
    """All that rows of tokens ask of one."""

    eos_token_id = EOS
    pad_token_id = 0


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_with_and_without_a_column(tmp_path: Path, workers: int) -> None:
    with_column, first = write(tmp_path / "column", 3, column=True)
    without, second = write(tmp_path / "eos", 4, column=False)
    streams = {"column": {"local": with_column}, "eos": {"local": without}}
    plain, loader = (
        MosaicParallelAwareDataloader(
            StreamingTextDataset(
                seq_len=T, streams=streams, shuffle=True, tokenizer=Tokenizer(), **options
            ),
            dp_rank=0,
            dp_world_size=1,
            batch_size=3,
            num_workers=workers,
        )
        for options in ({}, {"positions": True, "mask_boundaries": True})
    )
    known = {tuple(tokens): ends for tokens, ends in [*first, *second]}
    assert len(known) == 80
    masked, seen = 0, 0
    for (before, labels), (batch, own) in islice(zip(plain, loader, strict=True), 45):
        assert set(batch) == {"input", "positions"} and set(before) == {"input"}
        assert batch["positions"].dtype == own.dtype and batch["positions"].shape == own.shape
        assert (batch["input"] == before["input"]).all()
        for row, position, label, unmasked in zip(
            batch["input"].tolist(),
            batch["positions"].tolist(),
            own.tolist(),
            labels.tolist(),
            strict=True,
        ):
            tokens = [row[0], *(token for token in unmasked if token >= 0)]
            ends = known[tuple(tokens)]
            assert position == oracle(row, ends)
            expected = [-100 if n in ends else token for n, token in enumerate(unmasked)]
            assert label == expected
            masked += sum(a != b for a, b in zip(label, unmasked, strict=True))
            seen += sum(token >= 0 for token in label)
    assert masked > 100
    assert sum(loader.tokens_per_stream.values()) == seen
    assert sum(plain.tokens_per_stream.values()) == seen + masked
    plain.close()
    loader.close()


def test_packed_rows_know_their_documents(tmp_path: Path) -> None:
    """An EOS inside a document ends nothing, and one that is read on in a row begins at 0."""
    documents = packing_helpers.documents(150, seed=6)
    for document in documents[::3]:
        document[len(document) // 2 : len(document) // 2 + 1] = [EOS]
    local = packing_helpers.write_tokens(tmp_path / "data", documents)
    options = {"tokenizer": packing_helpers.tokenizer(), "batch_size": 6, "packing_lanes": 3}
    plain = packing_helpers.packed(local, **options)
    loader = packing_helpers.packed(local, **options, positions=True, mask_boundaries=True)
    previewed = preview(loader, 0)
    seen = 0
    for (before, labels), (batch, own) in islice(zip(plain, loader, strict=True), 40):
        assert (batch["input"] == before["input"]).all()
        for row, position, label, unmasked in zip(
            batch["input"].tolist(),
            batch["positions"].tolist(),
            own.tolist(),
            labels.tolist(),
            strict=True,
        ):
            made = next(previewed)
            assert [part.tolist() for part in made.read()] == [row, label]
            begins = [origin.begin for origin in made.origins if isinstance(origin, DocumentOrigin)]
            assert position == oracle(row, {begin - 1 for begin in begins})
            assert label == [
                -100 if place + 1 in begins[1:] else token for place, token in enumerate(unmasked)
            ]
            seen += sum(token >= 0 for token in label)
    assert EOS in {token for document in documents for token in document[:-1]}
    assert sum(loader.tokens_per_stream.values()) == seen
    plain.close()
    loader.close()


def test_what_nothing_tells_and_a_damaged_column(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    local, written = write(tmp_path / "plain", 5, column=False)
    dataset = StreamingTextDataset(seq_len=T, local=local, positions=True)
    assert "nothing says where the documents in its rows end" in caplog.text
    loader = MosaicParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=4)
    assert next(iter(loader))[0]["positions"].tolist() == [list(range(T))] * 4
    loader.close()
    with MDSWriter(
        out=str(tmp_path / "wide"),
        columns={"tokens": "ndarray:uint16", "document_ends": "ndarray:int64"},
    ) as writer:
        writer.write({"tokens": np.array(written[1][0], np.uint16), "document_ends": np.array([3])})
    wide = StreamingTextDataset(seq_len=T, local=str(tmp_path / "wide"), tokenizer=Tokenizer())
    wide[0]
    with pytest.raises(MosaicDataError, match='column "document_ends" has encoding ndarray:int64'):
        StreamingTextDataset(seq_len=T, local=str(tmp_path / "wide"), positions=True)
    damaged, _ = write(tmp_path / "damaged", 7, column=True)
    shard = sorted((tmp_path / "damaged").glob("*.mds"))[0]
    data = bytearray(shard.read_bytes())
    begin = int(np.frombuffer(data, "<u4", 1, 4)[0])
    data[begin : begin + 4] = np.array([4000], "<u4").tobytes()
    shard.write_bytes(data)
    broken = StreamingTextDataset(seq_len=T, local=damaged, positions=True, tokenizer=Tokenizer())
    with pytest.raises(MosaicDataError, match=r"document_ends.*damaged; restore it"):
        broken.rows.batch([0], [1])
