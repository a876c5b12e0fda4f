"""Preparation end to end: rows, identity, interruption, concurrency."""

import json
import logging
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import LocalDataset
from transformers import AutoTokenizer

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare import PrepareOptions, prepare

WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "twelve"]


def write_corpus(directory: Path, *, files: int = 40, seed: int = 0) -> str:
    """Text files of very different lengths; one empty, one not UTF-8, one spelling a token."""
    rng = np.random.default_rng(seed)
    directory.mkdir(parents=True)
    for number in range(files):
        words = rng.choice(WORDS, size=int(rng.integers(1, 400)))
        text = " ".join(words) + "\r\n"
        (directory / f"{number:03}.txt").write_bytes(text.encode())
    (directory / "empty.txt").write_bytes(b"")
    (directory / "latin.txt").write_bytes(b"caf\xe9")
    (directory / "special.txt").write_bytes(b"not an end: <|end_of_text|> nor a start")
    return str(directory / "**" / "*.txt")


def options(tmp_path: Path, **changes: Any) -> PrepareOptions:
    values: dict[str, Any] = {
        "input": str(tmp_path / "corpus" / "**" / "*.txt"),
        "output": tmp_path / "data",
        "train_tokenizer": tmp_path / "tokenizer",
        "vocab_size": 300,
        "seq_len": 31,
        "shard_bytes": 8192,
    }
    return PrepareOptions(**(values | changes))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_every_token_is_a_target_once(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    report = prepare(options(tmp_path))

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", local_files_only=True)
    assert len(tokenizer) == 300
    assert tokenizer.eos_token == "<|end_of_text|>"
    expected: list[int] = []
    documents = []
    for path in sorted((tmp_path / "corpus").iterdir()):
        if path.name in ("empty.txt", "latin.txt"):
            continue
        text = path.read_bytes().decode()
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert tokenizer.decode(ids) == text, "byte level: nothing is lost"
        documents.append(ids)
        expected += [tokenizer.eos_token_id, *ids] if expected else ids

    rows = [sample["tokens"] for sample in LocalDataset(str(tmp_path / "data"))]
    assert all(row.dtype == np.uint16 for row in rows)
    assert all(len(row) == 32 for row in rows[:-1])
    assert 2 <= len(rows[-1]) <= 32
    targets = np.concatenate([row[1:] for row in rows])
    inputs = np.concatenate([row[:-1] for row in rows])
    assert targets.tolist() == expected[1:]
    assert inputs.tolist() == expected[:-1]

    assert (report.documents, report.empty, report.skipped) == (len(documents), 1, 1)
    assert (report.tokens, report.samples) == (len(expected), len(rows))
    assert report.shards == len(list((tmp_path / "data").glob("*.mds"))) > 2
    index = json.loads((tmp_path / "data" / "index.json").read_text())
    assert all("xxh64" in shard["raw_data"]["hashes"] for shard in index["shards"])


def test_second_call_does_nothing_and_other_options_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_corpus(tmp_path / "corpus")
    first = prepare(options(tmp_path))
    before = contents(tmp_path / "data") | contents(tmp_path / "tokenizer")
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "data").iterdir())]
    caplog.set_level(logging.INFO, logger="mosaic_dataloader.prepare")

    second = prepare(options(tmp_path))
    assert (first.created, second.created) == (True, False)
    assert second.tokens == first.tokens
    assert "already prepared" in caplog.text
    assert "have changed" not in caplog.text
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "data").iterdir())]

    for change, named in [
        ({"seq_len": 30}, "seq_len=31, now seq_len=30"),
        ({"vocab_size": 301}, "vocab_size=300, now vocab_size=301"),
        ({"input": str(tmp_path / "corpus" / "0*.txt")}, "input="),
    ]:
        with pytest.raises(MosaicDataError, match=named) as caught:
            prepare(options(tmp_path, **change))
        assert "\n" not in str(caught.value)
        assert "delete" in str(caught.value)
    assert before == contents(tmp_path / "data") | contents(tmp_path / "tokenizer")

    # Changed sources under finished data: said, not acted upon.
    (tmp_path / "corpus" / "more.txt").write_text("more")
    assert not prepare(options(tmp_path)).created
    assert "have changed" in caplog.text


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", files=1)
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "precious.txt").write_text("keep me")
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "a.txt").write_text("")
    existing = {"train_tokenizer": None, "tokenizer": tmp_path / "tokenizer"}

    cases: list[tuple[dict[str, Any], str]] = [
        ({"input": str(tmp_path / "nowhere" / "*.txt")}, "matches no file"),
        ({"input": str(tmp_path / "corpus")}, r"\*\*"),
        ({"output": foreign, "vocab_size": 258}, "not written by prepare"),
        ({"vocab_size": 50_000, "train_tokenizer": tmp_path / "big"}, "set vocab_size to"),
        ({"vocab_size": 100}, "at least 258"),
        ({"output": "s3://bucket/data"}, "local directory"),
        ({"train_tokenizer": tmp_path / "data"}, "its own directory"),
        ({"tokenizer": "x"}, "exactly one tokenizer"),
        ({"seq_len": 0}, "seq_len"),
        ({"shard_bytes": 100}, "too small"),
        ({"train_tokenizer": None, "tokenizer": tmp_path / "absent"}, "cannot load tokenizer"),
        (existing | {"input": str(tmp_path / "blank" / "*")}, "no text to train on|cannot load"),
    ]
    for change, named in cases:
        with pytest.raises(MosaicDataError, match=named) as caught:
            prepare(options(tmp_path, **change))
        assert "\n" not in str(caught.value), change
    assert (foreign / "precious.txt").read_text() == "keep me"
    assert not list(tmp_path.glob(".*.partial"))


KILLED = """
import os, signal, sys
from mosaic_dataloader.prepare import PrepareOptions, prepare
from streaming import MDSWriter

write, rows = MDSWriter.write, 0

def write_then_die(self, sample):
    global rows
    rows += 1
    if rows == 150:
        os.kill(os.getpid(), signal.SIGKILL)
    write(self, sample)

MDSWriter.write = write_then_die
prepare(PrepareOptions(input=sys.argv[1], output=sys.argv[2], train_tokenizer=sys.argv[3],
                       vocab_size=300, seq_len=31, shard_bytes=8192))
"""


def test_a_killed_preparation_is_made_good(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    command = [sys.executable, "-c", KILLED, corpus, tmp_path / "data", tmp_path / "tokenizer"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert not (tmp_path / "data").exists()
    assert list((tmp_path / ".data.partial").glob("*.mds")), "killed in the middle of writing"

    assert prepare(options(tmp_path)).created
    assert not (tmp_path / ".data.partial").exists()
    clean = {"output": tmp_path / "clean" / "data", "train_tokenizer": tmp_path / "clean" / "tok"}
    prepare(options(tmp_path, **clean))
    assert contents(tmp_path / "data") == contents(tmp_path / "clean" / "data")
    assert contents(tmp_path / "tokenizer") == contents(tmp_path / "clean" / "tok")


def test_of_several_at_once_one_prepares(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: prepare(options(tmp_path)), range(4)))
    assert sorted(report.created for report in reports) == [False, False, False, True]
    assert len({report.tokens for report in reports}) == 1
