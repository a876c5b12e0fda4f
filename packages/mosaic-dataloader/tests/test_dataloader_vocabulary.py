"""Token ids that the model does not embed end in one line, at the batch that would hold them."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from packing_helpers import tokenizer
from streaming import MDSWriter

from mosaic_dataloader import (
    MosaicDataError,
    MosaicParallelAwareDataloader,
    StreamingTextDataset,
)
from mosaic_dataloader.checks.vocabulary import check_first_samples, first_samples
from mosaic_dataloader.reading.vocabulary import first_outside
from mosaic_dataloader.validation import ValidationDataloader

SEQ_LEN = 16
VOCABULARY = 500
# Of 90 samples the 70th is bad, in the third shard.
SAMPLES, BAD, PER_SHARD = 90, 70, 32
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")


@given(st.data())
def test_an_id_is_outside_if_it_is_negative_or_not_below_the_vocabulary(
    data: st.DataObject,
) -> None:
    dtype = data.draw(st.sampled_from(INTEGERS))
    ids = data.draw(arrays(dtype, st.integers(0, 20)))
    size = data.draw(st.none() | st.integers(1, 300) | st.sampled_from([2**15, 2**16, 2**31]))
    # No model embeds as many as 64 bits can count.
    wrong = [not 0 <= i < (2**64 if size is None else size) for i in ids.tolist()]
    assert first_outside(ids, size) == (wrong.index(True) if True in wrong else -1)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_the_last_id_of_the_vocabulary_is_inside_and_the_next_one_outside(dtype: str) -> None:
    assert first_outside(np.array([0, 99], dtype), 100) == -1
    assert first_outside(np.array([99, 100], dtype), 100) == 1


def write(out: Path, make: Callable[[int], Any], column: str, name: str = "tokens") -> str:
    """Samples in three shards, each of ``make(number)``."""
    with MDSWriter(out=str(out), columns={name: column}, size_limit=1 << 30) as writer:
        for number in range(SAMPLES):
            writer.write({name: make(number)})
            if number % PER_SHARD == PER_SHARD - 1:
                writer.flush_shard()
                writer._reset_cache()
    return str(out)


def row(number: int, bad: int, length: int = SEQ_LEN + 1) -> Any:
    # Between documents there is an EOS, 1.
    tokens = np.arange(number, number + length) + 10
    if number == BAD:
        tokens[-1] = bad
    return tokens


KINDS: dict[str, tuple[str, str, Callable[[int], Any], dict[str, Any], int]] = {
    "rows of one length": ("ndarray:int32", "tokens", lambda n: row(n, 500).astype("i4"), {}, 500),
    "negative": ("ndarray:int32", "tokens", lambda n: row(n, -100).astype("i4"), {}, -100),
    "any length": (
        "ndarray:int64",
        "tokens",
        lambda n: row(n, 7000, 5 + n % 9 + (n == BAD)),
        {},
        7000,
    ),
    "bytes": (
        "bytes",
        "tokens",
        lambda n: row(n, 501).astype("u2").tobytes(),
        {"token_encoding_type": "uint16"},
        501,
    ),
    "text": (
        "str",
        "text",
        lambda n: " ".join(f"w{i}" for i in row(n, 29_999, 10).tolist()),
        {"tokenizer": tokenizer("$A")},
        29_999,
    ),
}


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_id_ends_the_run_at_its_batch_and_again_after_a_resume(
    tmp_path: Path, kind: str, packing: bool
) -> None:
    workers = 1 if kind in ("rows of one length", "text") else 0
    column, name, make, options, bad = KINDS[kind]
    local = write(tmp_path, make, column, name)

    def loader(**more: Any) -> MosaicParallelAwareDataloader:
        dataset = StreamingTextDataset(
            seq_len=SEQ_LEN,
            streams={"web": {"local": local}},
            packing=packing,
            packing_lanes=2 if packing else None,
            **{"vocab_size": VOCABULARY, **options, **more},
        )
        return MosaicParallelAwareDataloader(
            dataset, dp_rank=0, dp_world_size=1, batch_size=4, num_workers=workers
        )

    def run(one: MosaicParallelAwareDataloader) -> tuple[int, str]:
        batches = 0
        with pytest.raises(MosaicDataError) as caught:
            for inputs, labels in one:
                assert inputs["input"].min() >= 0 and inputs["input"].max() < VOCABULARY
                assert labels.max() < VOCABULARY
                batches += 1
        one.close()
        return batches, str(caught.value)

    first = loader()
    count, message = run(first)
    assert (
        f'stream "web", shard shard.00002.mds, sample {BAD - 2 * PER_SHARD} of the shard ({BAD} of '
        f"the stream): token id {bad} is outside the model's vocabulary of 500; "
    ) in message
    assert "\n" not in message
    state = first.state_dict()
    assert first.samples_seen == 4 * count
    # How far a run comes that does not look: the bad row is in the very next batch.
    if not packing:
        assert count == BAD // 4
    elif bad > 0:
        unlimited = iter(loader(vocab_size=None))
        for _ in range(count):
            inputs, labels = next(unlimited)
            assert max(int(inputs["input"].max()), int(labels.max())) < VOCABULARY
        inputs, labels = next(unlimited)
        assert max(int(inputs["input"].max()), int(labels.max())) == bad
    resumed = loader()
    resumed.load_state_dict(state)
    assert run(resumed) == (0, message)


def test_negative_ids_are_refused_where_the_vocabulary_is_not_known(tmp_path: Path) -> None:
    local = write(tmp_path, lambda n: row(n, -1).astype("i4"), "ndarray:int32")
    dataset = StreamingTextDataset(seq_len=SEQ_LEN, local=local)
    validation = ValidationDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=8)
    with pytest.raises(MosaicDataError, match=r"token id -1 is negative, or too large for any"):
        list(validation)
    with pytest.raises(MosaicDataError, match="vocab_size = 0 must be at least 1"):
        StreamingTextDataset(seq_len=SEQ_LEN, local=local, vocab_size=0)


def test_a_shard_that_was_checked_as_a_whole_is_not_checked_again_by_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One with an id outside stays to be checked by batches, whatever was read of it before."""
    local = write(tmp_path, lambda n: row(n, 500).astype("i4"), "ndarray:int32")
    dataset = StreamingTextDataset(seq_len=SEQ_LEN, local=local, vocab_size=VOCABULARY)
    store, rows = dataset.store, dataset.rows
    checked: list[int] = []

    def watched(ids: Any, vocab_size: int | None) -> int:
        if threading.current_thread() is threading.main_thread():
            checked.append(len(ids))
        return first_outside(ids, vocab_size)

    monkeypatch.setattr("mosaic_dataloader.reading.rows.first_outside", watched)
    good, bad = [0, 1, 1, 0], [2, 2, 0, 2]
    with store.iterating():
        # The first batch opens the shards.
        for shards in (good, bad, *[good] * 4, *[bad] * 4):
            rows.batch(shards, [0, 1, 2, 3])
            wait_until(lambda: not rows._checking_shard)
        wait_until(lambda: store.checked == {0, 1})
        checked.clear()
        batch = rows.batch(good, [0, 1, 2, 3])
        assert not checked
        assert batch.inputs[:, 0].tolist() == [10, 32 + 11, 32 + 12, 13]
        with pytest.raises(MosaicDataError, match=rf"\({BAD} of the stream\): token id 500"):
            rows.batch(bad, [0, 1, 2, BAD - 2 * PER_SHARD])
        assert checked
        # What is put in the place of a shard that is closed is not taken for it.
        dataset.store.close()
        assert not store.checked and not store.full_rows


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("written", ["uint16", "int32", "int64"])
@pytest.mark.parametrize("read", ["uint8", "uint16", "int32", "int64"])
def test_a_wrong_token_encoding_type_is_named_before_the_run(
    tmp_path: Path, written: str, read: str
) -> None:
    rng = np.random.default_rng(2)
    local = write(tmp_path, lambda n: rng.integers(3, 2000, 36).astype(written).tobytes(), "bytes")
    dataset = StreamingTextDataset(seq_len=SEQ_LEN, local=local, token_encoding_type=read)
    if written == read:
        check_first_samples(dataset, 0, 2048)
        return
    with pytest.raises(MosaicDataError) as caught:
        check_first_samples(dataset, 0, 2048)
    message = str(caught.value)
    assert message.startswith('stream "data": ')
    assert f"token_encoding_type = {read!r}" in message
    assert f"set {written!r}" in message


def test_another_tokenizers_ids_are_not_taken_for_another_type(tmp_path: Path) -> None:
    """Ids that are stored as they are said to be, and too large for this model."""
    rng = np.random.default_rng(2)
    ids = rng.integers(0, 50_000, (SAMPLES, 36))
    for number, dtype in enumerate(("uint16", "int32", "int64")):
        stored = [row.tobytes() for row in ids.astype(dtype)]
        local = write(tmp_path / dtype, stored.__getitem__, "bytes")
        dataset = StreamingTextDataset(seq_len=SEQ_LEN, local=local, token_encoding_type=dtype)
        check_first_samples(dataset, 0, 50_000)
        for vocab_size in (200, 2048, 30_000):
            with pytest.raises(MosaicDataError, match=r"shard\.00000\.mds.*the type that the"):
                check_first_samples(dataset, 0, vocab_size)
        if dtype != "uint16":
            # Of these any two bytes are inside the vocabulary.
            larger = rng.integers(0, 128_000, (SAMPLES, 36)).astype(dtype)
            local = write(
                tmp_path / f"larger{number}", [r.tobytes() for r in larger].__getitem__, "bytes"
            )
            dataset = StreamingTextDataset(seq_len=SEQ_LEN, local=local, token_encoding_type=dtype)
            with pytest.raises(MosaicDataError, match="the type that the"):
                check_first_samples(dataset, 0, 70_000)
        # A stream of zeros tells nothing.
        zeros = write(tmp_path / f"zeros{number}", lambda n: bytes(8 * 36), "bytes")
        dataset = StreamingTextDataset(seq_len=SEQ_LEN, local=zeros, token_encoding_type=dtype)
        check_first_samples(dataset, 0, 2048)


def test_an_empty_shard_does_not_hide_that_the_first_samples_are_far_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, cache = tmp_path / "store", tmp_path / "cache"
    write(store, lambda n: np.full(SEQ_LEN + 1, VOCABULARY, np.int32), "ndarray:int32")
    index = json.loads((store / "index.json").read_text())
    file = {"basename": "empty.mds", "bytes": 8, "hashes": {}}
    index["shards"].insert(0, {**index["shards"][0], "samples": 0, "raw_data": file})
    (store / "index.json").write_text(json.dumps(index))
    (store / "empty.mds").write_bytes(np.array([0, 8], "<u4").tobytes())
    dataset = StreamingTextDataset(seq_len=SEQ_LEN, remote=str(store), local=str(cache))
    shutil.copy(store / "empty.mds", cache)
    monkeypatch.setattr("mosaic_dataloader.checks.vocabulary._FETCHED_BYTES", 100)
    assert first_samples(dataset, vocab_size=VOCABULARY) == []
    assert not list(cache.glob("shard.*"))
    monkeypatch.undo()
    assert len(first_samples(dataset, vocab_size=VOCABULARY)) == 1
