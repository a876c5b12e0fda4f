"""Input as it really is: damaged, broken, badly encoded; and what a run that stopped resumes."""

import gzip
import io
import json
import logging
import lzma
import os
from pathlib import Path
from typing import Any

import prepare_helpers as helpers
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streaming import LocalDataset

from mosaic_dataloader.errors import MosaicDataError
from mosaic_prepare import PrepareOptions, job, prepare, run


def texts_in(folder: Path) -> list[str]:
    return [sample["text"] for sample in LocalDataset(str(folder))]


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def zstd(data: bytes) -> bytes:
    return bytes(pa.compress(data, "zstd", asbytes=True))


def test_damaged_files_stop_or_are_left_out_from_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    texts = [f"{i} {os.urandom(300).hex()}" for i in range(400)]
    whole = lines(texts)
    table = pa.table({"text": texts})
    pq.write_table(table, folder / "c.parquet", row_group_size=100)
    parquet = (folder / "c.parquet").read_bytes()
    # In the data of the third row group: nothing before it is lost.
    middle = pq.ParquetFile(folder / "c.parquet").metadata.row_group(2).column(0).data_page_offset
    with pa.ipc.new_stream(str(folder / "e.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=100)
    damaged = {
        "a.jsonl.gz": gzip.compress(whole)[:-2000],
        "b.jsonl.xz": lzma.compress(whole)[:-2000],
        "c.parquet": parquet[:middle] + b"\xff" * 4000 + parquet[middle + 4000 :],
        "d.jsonl.zst": zstd(whole)[:-2000],
        "e.arrow": (folder / "e.arrow").read_bytes()[:-30_000],
        "f.parquet": parquet[:-50],
        "g.parquet": b"",
        "h.csv": b"",
        "i.jsonl.gz": b"not gzip at all",
    }
    for name, data in damaged.items():
        (folder / name).write_bytes(data)
    (folder / "z.jsonl").write_bytes(lines(["the end"]))

    def prepared(pattern: str, **more: Any) -> Any:
        given = str(folder / pattern)
        output = tmp_path / f"out-{pattern}"
        return prepare(PrepareOptions(input=given, output=output, form="text", processes=1, **more))

    for name in damaged:
        with pytest.raises(MosaicDataError, match=rf"{name}.*(is damaged|has no column)") as caught:
            prepared(name)
        assert "\n" not in str(caught.value)
        assert 'bad_input = "skip"' in str(caught.value)

    report = prepared("[!z]*", bad_input="skip")
    assert report.skipped == len(damaged)
    found = texts_in(tmp_path / "out-[!z]*")
    beginnings = [number for number, text in enumerate(found) if text == texts[0]]
    for begin, end in zip(beginnings, [*beginnings[1:], len(found)], strict=True):
        assert found[begin:end] == texts[: end - begin]
        assert end - begin >= 200, "all up to where it is damaged, or the row group before"
    assert len(beginnings) == 5
    assert "left out" in caplog.text
    assert prepared("*", bad_input="skip").documents == report.documents + 1


def test_an_arrow_file_in_pieces_names_each_mistake_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run, "bytes_of_unit", lambda total: 2000)
    texts = [f"{number} {'x' * 100}".encode() for number in range(200)]
    texts[57] = b"\xff"
    table = pa.table({"text": pa.array(texts, pa.binary())})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=20)
    # Without its end, which says where its record batches are.
    (tmp_path / "b.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:-50])
    given = {"input": str(tmp_path / "*.arrow"), "output": tmp_path / "out", "form": "text"}
    report = prepare(PrepareOptions(**given, bad_input="skip", processes=1))
    assert len(helpers.units_in(tmp_path / "out")) > 5
    assert texts_in(tmp_path / "out") == [t.decode() for t in texts if t != b"\xff"]
    assert report.skipped == 2
    assert "a.arrow, record batch 3, row 18: is not UTF-8" in caplog.text
    assert "b.arrow: is damaged" in caplog.text


def test_a_disk_that_fails_is_no_reason_to_leave_a_file_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines(["text"] * 9)))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "b.parquet")

    class Failing(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr("mosaic_prepare.opening.open", Failing, raising=False)
    for name in ("a.jsonl.gz", "b.parquet"):
        given = {"input": str(tmp_path / name), "output": tmp_path / "out", "bad_input": "skip"}
        with pytest.raises(MosaicDataError, match=rf"cannot read .*{name}: Input/output error"):
            prepare(PrepareOptions(**given, form="text", processes=1))


@pytest.mark.parametrize("change", ["mended", "replaced", "removed", "skipped"])
def test_a_run_that_stopped_on_a_damaged_file_resumes(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    monkeypatch.setattr(run, "bytes_of_unit", lambda total: 6000)
    whole = {f"{i:02}.jsonl.gz": [os.urandom(40).hex() for _ in range(30)] for i in range(60)}
    for name, texts in whole.items():
        (folder / name).write_bytes(gzip.compress(lines(texts)))
    bad = folder / "47.jsonl.gz"
    mended = bad.read_bytes()
    bad.write_bytes(mended[:-20])
    made: list[str] = []
    real = job.UnitJob.__call__

    def counted(self: Any, unit: Any) -> Any:
        note = real(self, unit)
        made.append(unit.name)
        return note

    monkeypatch.setattr(job.UnitJob, "__call__", counted)

    def prepared(output: str, **more: Any) -> Any:
        given = {"input": str(folder / "*"), "output": tmp_path / output, **more}
        return prepare(PrepareOptions(**given, form="text", processes=1))

    with pytest.raises(MosaicDataError, match=r"47.jsonl.gz: is damaged"):
        prepared("out")
    before, made[:] = set(made), []
    assert len(before) > 5
    more = {}
    if change == "mended":
        bad.write_bytes(mended)
    elif change == "replaced":
        bad.write_bytes(gzip.compress(lines(["new"] * 5)))
    elif change == "removed":
        bad.unlink()
    else:
        more = {"bad_input": "skip"}
    prepared("out", **more)
    # A unit that the change has moved a border of may be made again; the others are not.
    assert len(before - set(helpers.units_in(tmp_path / "out"))) <= 2
    assert not before & set(made)
    made.clear()
    prepared("fresh", **more)
    assert helpers.contents(tmp_path / "out") == helpers.contents(tmp_path / "fresh")


def test_what_is_not_a_document_in_tables(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.WARNING, logger="mosaic_prepare")
    binary = pa.array([b"good", b"\xff\xfe", None, b"x" * 600], pa.binary())
    pq.write_table(pa.table({"text": binary}), tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_bytes(b"n,text\n1,good\n2\n3,\xff\xfe\n4,fine\n")
    huge = b'{"text":"a","n":' + b"9" * 5000 + b'}\n{"text":"b"}\n'
    (tmp_path / "c.jsonl").write_bytes(b"\xef\xbb\xbf" + huge)
    (tmp_path / "d.txt").write_bytes(b"\xef\xbb\xbfmark")
    given = {"input": str(tmp_path / "*.*"), "max_document_bytes": 6000, "form": "text"}
    options = PrepareOptions(**given, output=tmp_path / "out", bad_input="skip", processes=1)
    report = prepare(options)
    assert texts_in(tmp_path / "out") == ["good", "x" * 600, "good", "fine", "b", "mark"]
    assert (report.skipped, report.empty) == (4, 1)
    for place in ("a.parquet, row 2", "b.csv, row 2", "b.csv, row 3", "c.jsonl, line 1"):
        assert place in caplog.text


def test_a_saved_data_set_and_its_split(tmp_path: Path) -> None:
    import datasets

    datasets.disable_progress_bars()
    single = datasets.Dataset.from_dict({"text": ["a", "b"]}, split="test")
    single.save_to_disk(str(tmp_path / "single"))
    datasets.Dataset.from_dict({"text": ["c"]}).save_to_disk(str(tmp_path / "bare"))

    def prepared(name: str, split: str | None, output: str) -> list[str]:
        given = {"input": str(tmp_path / name), "input_format": "dataset", "form": "text"}
        prepare(PrepareOptions(**given, dataset_split=split, output=tmp_path / output))
        return texts_in(tmp_path / output)

    assert prepared("single", None, "1") == ["a", "b"]
    assert prepared("single", "test", "2") == ["a", "b"]
    assert prepared("bare", None, "3") == ["c"]
    with pytest.raises(MosaicDataError, match=r"only the split 'test', not with 'train'"):
        prepared("single", "train", "4")
    with pytest.raises(MosaicDataError, match=r"no splits, not with 'train'"):
        prepared("bare", "train", "5")


def test_text_that_spells_a_special_token_stays_text(tmp_path: Path) -> None:
    """Also with a tokenizer written in Python: the ids are those of the fast one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(["the quick brown fox"] * 9, trainer)
    model = json.loads(bpe.to_str())["model"]
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    config = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "unk_token": "</s>"}))
    (tmp_path / "a.txt").write_text("the <s>x</s>")
    ids = {}
    for special in ("text", "parse"):
        for fast in (True, False):
            output = tmp_path / f"{special}-{fast}"
            given = {"input": str(tmp_path / "a.txt"), "output": output, "form": "documents"}
            more = {"tokenizer": folder, "tokenizer_kwargs": {"use_fast": fast}}
            prepare(PrepareOptions(**given, **more, special_tokens=special, processes=1))
            ids[special, fast] = LocalDataset(str(output))[0]["tokens"].tolist()
    assert ids["text", True] == ids["text", False]
    assert (ids["text", True][-1], ids["text", True][:-1].count(1)) == (1, 0)
    assert 0 not in ids["text", True]
    assert 0 in ids["parse", False]


def test_a_run_that_stopped_resumes_with_a_file_of_the_same_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name and size are those of a unit that is done; when it was written is not."""
    monkeypatch.setattr(run, "bytes_of_unit", lambda total: 1)
    (tmp_path / "a.jsonl").write_text('{"text": "old"}')
    (tmp_path / "b.jsonl").write_text("{")
    options = PrepareOptions(
        input=str(tmp_path / "*.jsonl"), output=tmp_path / "out", form="text", processes=1
    )
    with pytest.raises(MosaicDataError, match=r"b\.jsonl"):
        prepare(options)
    assert list((tmp_path / ".out.partial" / ".prepare").glob("unit-*"))
    (tmp_path / "a.jsonl").write_text('{"text": "new"}')
    os.utime(tmp_path / "a.jsonl", ns=(0, 0))
    (tmp_path / "b.jsonl").write_text("")
    prepare(options)
    assert texts_in(tmp_path / "out") == ["new"]
