"""Preparation end to end: what is read is what is written, whatever the input and the form."""

import io
import json
import logging
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import prepare_helpers as helpers
import pytest
from streaming import LocalDataset, StreamingDataset
from transformers import AutoTokenizer

from mosaic_dataloader.errors import MosaicDataError
from mosaic_prepare import cli, prepare, run

FORMS = ("rows", "documents", "text")


@pytest.mark.parametrize("kind", helpers.INPUTS)
def test_every_document_is_written_once(
    kind: str, tmp_path: Path, tokenizer_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Cut into many units.
    monkeypatch.setattr(run, "bytes_of_unit", lambda total: 4000)
    texts = helpers.documents()
    (tmp_path / "in").mkdir()
    given = helpers.INPUTS[kind](tmp_path / "in", texts)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    full = [text for text in texts if text]
    for form in FORMS:
        output = tmp_path / form
        report = prepare(
            helpers.options(tmp_path, tokenizer_dir, **given, form=form, output=output)
        )
        helpers.check(output, form, tokenizer, texts)
        assert report.created
        assert (report.documents, report.skipped) == (len(full), 0)
        assert report.empty == len(texts) - len(full)
        assert report.text_bytes == sum(len(text.encode()) for text in full)
        assert report.samples == len(LocalDataset(str(output)))
        assert report.shards == len(list(output.rglob("*.mds"))) > 2
        assert len(list(output.glob("unit-*"))) > (0 if kind == "dataset" else 1)
        tokens = sum(map(len, helpers.encoded(tokenizer, texts)))
        assert report.tokens == (0 if form == "text" else tokens + len(full))
        note = helpers.manifest(output)
        assert (note["complete"], note["form"]) == (True, form)
        assert (note["tokenizer"] or {}).get("vocab_size") == (None if form == "text" else 400)


def test_split_compression_and_hashes(tmp_path: Path, tokenizer_dir: str) -> None:
    (tmp_path / "in").mkdir()
    texts = [f"{number}: {text}" for number, text in enumerate(helpers.documents(200))]
    # Equal documents must not lie on both sides.
    texts += texts[::7]
    given = helpers.write_jsonl(tmp_path / "in", texts)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    sides: dict[str, list[str]] = {}
    for form in ("text", "documents", "rows"):
        report = prepare(
            helpers.options(
                tmp_path,
                tokenizer_dir,
                **given,
                form=form,
                output=tmp_path / form,
                split_validation=0.25,
                compression="zstd:3",
                hashes=["sha1", "xxh64"],
            )
        )
        assert not list((tmp_path / form).rglob("*.mds")), "compressed only"
        for split in ("train", "validation"):
            data = StreamingDataset(
                remote=str(tmp_path / form),
                local=str(tmp_path / "cache" / form),
                split=split,
                batch_size=1,
                validate_hash="sha1",
                num_canonical_nodes=1,
            )
            samples = [data[number] for number in range(len(data))]
            if form == "text":
                sides[split] = [sample["text"] for sample in samples]
            if form != "rows":
                helpers.check(samples, form, tokenizer, sides[split])
            assert report.splits[split]["samples"] == len(samples)
            if form != "rows":
                column = "text" if form == "text" else "tokens"
                check_lengths(
                    report.splits[split]["document_lengths"],
                    [len(s[column].encode() if form == "text" else s[column]) for s in samples],
                )
            assert helpers.manifest(tmp_path / form / split)["complete"]
    assert not set(sides["train"]) & set(sides["validation"])
    # In order, and none lost.
    for split, side in sides.items():
        assert side == [text for text in texts if text in set(side)], split
    assert sum(map(len, sides.values())) == len(texts)
    assert 0.15 < len(sides["validation"]) / len(texts) < 0.35


def check_lengths(found: Any, lengths: list[int]) -> None:
    """What is said of documents' lengths is right to 2 %, and exact for the longest."""
    lengths = sorted(lengths)
    assert found["longest"] == lengths[-1]
    for name, share in (("median", 0.5), ("percentile_90", 0.9)):
        exact = lengths[-(-len(lengths) * int(10 * share) // 10) - 1]
        assert 0.98 * exact <= found[name] <= exact, name


def test_a_second_call_does_nothing_and_other_options_are_refused(
    tmp_path: Path, tokenizer_dir: str, caplog: pytest.LogCaptureFixture
) -> None:
    given = helpers.write_text(tmp_path / "in", helpers.documents(30))
    first = prepare(helpers.options(tmp_path, tokenizer_dir, **given))
    before = helpers.contents(tmp_path / "data")
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "data").iterdir())]
    caplog.set_level(logging.INFO, logger="mosaic_prepare")

    # The tokenizer is known by what it holds, and neither processes nor what is done with bad
    # input change the result.
    moved = str(shutil.copytree(tokenizer_dir, tmp_path / "moved"))
    second = prepare(helpers.options(tmp_path, moved, **given, processes=2, bad_input="skip"))
    assert (first.created, second.created) == (True, False)
    assert (second.tokens, second.splits) == (first.tokens, first.splits)
    assert "already prepared" in caplog.text
    assert re.search(r"document lengths in tokens: median about \d+, 90 % up to about", caplog.text)
    assert "have changed" not in caplog.text

    for change, named in [
        ({"seq_len": 30}, "seq_len=31, now seq_len=30"),
        ({"form": "documents"}, "form='rows', now form='documents'"),
        ({"input": str(tmp_path / "in" / "0" / "*")}, "input="),
        ({"tokenizer_kwargs": {"eos_token": "a"}}, "tokenizer="),
    ]:
        with pytest.raises(MosaicDataError, match=named) as caught:
            prepare(helpers.options(tmp_path, tokenizer_dir, **{**given, **change}))
        assert "\n" not in str(caught.value)
        assert "delete" in str(caught.value)
    assert before == helpers.contents(tmp_path / "data")
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "data").iterdir())]

    # Changed sources under finished data: said, not acted upon.
    (tmp_path / "in" / "0" / "more.txt").write_text("more")
    assert not prepare(helpers.options(tmp_path, tokenizer_dir, **given)).created
    assert "have changed" in caplog.text


def test_a_tokenizer_is_trained_once_and_one_of_several_prepares(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = helpers.documents(40)
    given = helpers.write_text(tmp_path / "in", texts)
    caplog.set_level(logging.INFO, logger="mosaic_prepare")

    def run(folder: str) -> Any:
        trained = {"train_tokenizer": tmp_path / folder / "tok", "vocab_size": 300}
        output = tmp_path / folder / "data"
        return prepare(helpers.options(tmp_path, "", **given, **trained, output=output))

    with ThreadPoolExecutor(3) as pool:
        reports = list(pool.map(run, ["one"] * 3))
    assert sorted(report.created for report in reports) == [False, False, True]
    assert len({report.tokens for report in reports}) == 1
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one" / "tok", local_files_only=True)
    assert (len(tokenizer), tokenizer.eos_token) == (300, "<|end_of_text|>")
    assert all(tokenizer.decode(ids) in texts for ids in helpers.encoded(tokenizer, texts))
    helpers.check(tmp_path / "one" / "data", "rows", tokenizer, texts)
    assert LocalDataset(str(tmp_path / "one" / "data"))[0]["tokens"].dtype == np.uint16

    run("two")
    for part in ("tok", "data"):
        one, two = (helpers.contents(tmp_path / folder / part) for folder in ("one", "two"))
        assert one == two, "the bytes depend on the documents alone"
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["data", "tok"]
    # Progress, in lines where nobody watches: the tokenizer's reading, then the documents.
    assert re.search(r"reading for the tokenizer: [\d.]+kB of [\d.]+kB, 00:0\d so far", caplog.text)
    assert re.search(r"tokenizing: .* left, [\d.]+ MB/s, [\d,]+ tokens/s", caplog.text)


def test_begin_of_text_and_special_tokens_when_wanted(tmp_path: Path, tokenizer_dir: str) -> None:
    given = helpers.write_text(tmp_path / "in", ["a<|end_of_text|>b", "c"])
    more = {"form": "documents", "add_bos": True, "special_tokens": "parse"}
    prepare(helpers.options(tmp_path, tokenizer_dir, **given, **more))
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = {text: tokenizer(text)["input_ids"] for text in "abc"}
    rows = [sample["tokens"].tolist() for sample in LocalDataset(str(tmp_path / "data"))]
    assert rows == [[bos, *ids["a"], eos, *ids["b"], eos], [bos, *ids["c"], eos]]


def test_bad_input_stops_or_is_left_out_and_counted(
    tmp_path: Path, tokenizer_dir: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    long = "long " * 200
    good = ["first", "second", "third"]

    def line(text: Any) -> str:
        return json.dumps({"text": text})

    lone = '{"text": "\\ud83d"}'
    broken = [b"{not json", b'{"other": 1}', line(3).encode(), b"[1]", lone.encode(), b"\xff\xfe"]
    lines = [line(good[0]).encode(), *broken, line(long).encode(), line(good[1]).encode(), b""]
    lines.append(line(good[2]).encode())
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(b"\n".join(lines))
    (folder / "b.txt").write_bytes(b"caf\xe9")
    (folder / "c.txt").write_bytes(long.encode())
    (folder / "d.txt").write_bytes(b"fourth")
    table = {"input": str(folder / "*"), "max_document_bytes": 500}

    for name, named in [
        ("a.jsonl", r"a\.jsonl, line 2: is not JSON"),
        ("b.txt", r"b\.txt: is not UTF-8 text"),
        ("c.txt", r"c\.txt: is one document of more than 500 bytes"),
    ]:
        with pytest.raises(MosaicDataError, match=named) as caught:
            given = {**table, "input": str(folder / name)}
            prepare(helpers.options(tmp_path, tokenizer_dir, **given))
        assert "\n" not in str(caught.value)
        assert 'bad_input = "skip"' in str(caught.value)
        assert not (tmp_path / "data").exists()
        assert not (tmp_path / ".data.partial").exists(), "nothing was done that is of use"

    caplog.set_level(logging.WARNING, logger="mosaic_prepare")
    report = prepare(helpers.options(tmp_path, tokenizer_dir, **table, bad_input="skip"))
    helpers.check(tmp_path / "data", "rows", tokenizer, [*good, "fourth"])
    assert (report.documents, report.skipped) == (4, len(broken) + 1 + 2)
    assert "left out" in caplog.text


def test_the_command_runs_no_tokenizers_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nor does it ask whether to, on its standard input."""
    folder = tmp_path / "tok"
    folder.mkdir()
    (folder / "mine.py").write_text(f"open({str(folder / 'RAN')!r}, 'w').write('x')")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "Mine",
                "auto_map": {"AutoTokenizer": [None, "mine.Mine"]},
                "eos_token": "</s>",
            }
        )
    )
    (tmp_path / "a.txt").write_text("a a a a a")
    monkeypatch.chdir(tmp_path)
    answers = io.StringIO("y\n" * 9)
    monkeypatch.setattr(sys, "stdin", answers)
    given = ["--input", "a.txt", "--output", "out", "--tokenizer", "./tok", "--seq-len", "2"]
    assert cli.main(given) == 2
    told = capfd.readouterr()
    assert [line for line in told.err.splitlines() if "trust_remote_code" in line], told.err
    assert "[y/N]" not in told.out + told.err
    assert answers.tell() == 0
    assert not (folder / "RAN").exists()
