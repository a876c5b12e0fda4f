"""Parts of the preparation: pieces and units wherever they end, which files, the command."""

import fcntl
import gzip
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import prepare_helpers as helpers
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mosaic_dataloader.errors import MosaicDataError
from mosaic_prepare import PrepareOptions, cli, output, prepare, records
from mosaic_prepare.documents import Piece, RejectedInput
from mosaic_prepare.inputs import InputFile, list_files
from mosaic_prepare.progress import Progress
from mosaic_prepare.shards import RowCutter
from mosaic_prepare.units import FORMATS, WorkUnit, bytes_of_unit, documents, pieces_of, plan

KIB = 1 << 10


def reading(**changes: Any) -> PrepareOptions:
    """Options of which only those that say how input is read matter."""
    return PrepareOptions(input="any", output="any", form="text", bad_input="skip", **changes)


def read_cut(path: Path, kind: str, edges: list[int], options: PrepareOptions) -> list[Any]:
    """Documents of a file that is cut at these bytes; the places of those that are rejected."""
    file = InputFile(path.name, str(path), path.stat().st_size, "")
    inner = sorted({edge for edge in edges if 0 < edge < file.size})
    found: list[Any] = []
    for start, stop in zip([0, *inner], [*inner, None], strict=True):
        for one in documents(WorkUnit((Piece(file, kind, start, stop),)), options):
            found.append(one.number if isinstance(one, RejectedInput) else one)
    return found


# Delimiters, halved and overlapping, line ends, and characters of one to four bytes.
pieces = st.sampled_from(["a", "bc", "\n", "\n\n", "\n\n\n", "é", "🙂", "ab", "x" * 40])


@example(texts=["a\n", "\nb"], kind="text", separator="\n\n", edges=[4], chunk=3, limit=70)
@example(texts=["ab", "ab"], kind="text", separator="aba", edges=[1, 2, 3, 4], chunk=1, limit=70)
@example(texts=["y" * 90, "b"], kind="jsonl", separator="\n", edges=[5], chunk=8, limit=70)
@given(
    texts=st.lists(st.lists(pieces, max_size=6).map("".join), max_size=12),
    kind=st.sampled_from(["jsonl", "text"]),
    separator=st.sampled_from(["\n\n", "\n", "aba", "\n<>\n"]),
    edges=st.lists(st.integers(0, 300), max_size=8),
    chunk=st.integers(1, 64),
    limit=st.sampled_from([70, 1 << 20]),
)
def test_wherever_a_file_is_cut_the_documents_are_the_same(
    texts: list[str], kind: str, separator: str, edges: list[int], chunk: int, limit: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder, "in")
        options = reading(document_separator=separator, max_document_bytes=limit)
        if kind == "jsonl":
            separator = "\n"
            parts = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
        else:
            texts = parts = separator.join(texts).split(separator)
        data = separator.join(parts).encode()
        path.write_bytes(data)
        # The documents, and where those that are too long begin.
        expected: list[str | int] = []
        offset = 0
        for text, record in zip(texts, parts, strict=True):
            size = len(record.encode())
            expected.append(text if size <= limit else offset)
            offset += size + len(separator)
        if parts and not parts[-1]:
            expected.pop()  # nothing after the last separator
        patch.setattr(records, "_CHUNK_BYTES", chunk)
        assert read_cut(path, kind, edges, options) == expected


@given(lengths=st.lists(st.integers(2, 200), min_size=1, max_size=30), seq_len=st.integers(1, 40))
def test_rows_hold_every_token_once_and_know_where_documents_end(
    lengths: list[int], seq_len: int
) -> None:
    whole = np.arange(sum(lengths), dtype=np.uint32)
    last = np.cumsum(lengths) - 1
    cutter = RowCutter(seq_len)
    parts = np.split(whole, last[:-1] + 1)
    rows = list(itertools.chain.from_iterable(cutter.add(part) for part in parts))
    rows += cutter.finish()
    assert [row[0] for row, _ in rows] == list(range(0, len(whole) - 1, seq_len))
    assert np.concatenate([row[1:] for row, _ in rows]).tolist() == whole[1:].tolist()
    assert all(len(row) == seq_len + 1 for row, _ in rows[:-1])
    for row, ends in rows:
        assert (ends.dtype, len(ends) > 0) == (np.int32, True)
        expected = [offset for offset, token in enumerate(row) if token in last]
        assert ends.tolist() == (expected or [-1])


def listing(sizes: dict[str, int]) -> list[Piece]:
    return [Piece(InputFile(name, f"/{name}", size, "1"), "jsonl") for name, size in sizes.items()]


def test_units_depend_on_the_files_near_them_alone() -> None:
    chance = np.random.default_rng(0)
    sizes = {f"{i:05}.jsonl": int(size) for i, size in enumerate(chance.integers(1, 900, 3000))}
    sizes["01500.jsonl"] = 100_000
    before = plan(listing(sizes), 8000, reading())
    assert [p.file.name for u in before for p in u.pieces if p.start == 0] == list(sizes)
    large = [unit for unit in before if unit.pieces[0].file.name == "01500.jsonl"]
    edges = [(unit.pieces[0].start, unit.pieces[0].stop) for unit in large]
    assert [start for start, _ in edges] == [0, *(stop for _, stop in edges[:-1])]
    assert (len(large), edges[-1][1]) == (13, None)
    small = [unit.size for unit in before if len(unit.pieces) > 1]
    assert max(small) < 2 * 8000 + 900
    assert 0.5 < np.mean(small) / 8000 < 1.5

    names = {unit.name for unit in before}
    assert len(names) == len(before)
    for change in ({"00100.jsonl": None}, {"01000.jsonl": 5}, {"01500.jsonl": 90_000}):
        changed = {**sizes, **change}
        after = plan(listing({n: size for n, size in changed.items() if size}), 8000, reading())
        redone = [unit for unit in after if unit.name not in names]
        assert len(redone) <= 13, "most of what is done stays of use"


def test_relative_names_are_cut_alike_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuts = []
    for place in ("one", "another"):
        folder = tmp_path / place / "in"
        folder.mkdir(parents=True)
        for number in range(100):
            (folder / f"{number}.txt").write_text("x" * number)
        monkeypatch.chdir(folder.parent)
        options = PrepareOptions(input="in/*.txt", output="out", form="text")
        cuts.append([unit.name for unit in plan(pieces_of(options), 500, options)])
    assert cuts[0] == cuts[1]
    assert len(cuts[0]) > 5


def test_the_size_of_a_unit() -> None:
    mib = 1 << 20
    for total, expected in [(0, 8), (2 << 30, 8), (5 << 30, 16), (1 << 50, 256)]:
        assert bytes_of_unit(total) == expected * mib


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("processes", True, "processes = True must be a whole number"),
        ("document_ends", "no", "document_ends = 'no' must be true or false"),
        ("split_validation", float("nan"), "split_validation = nan must be a finite number"),
    ],
)
def test_options_have_their_types(option: str, value: Any, named: str) -> None:
    with pytest.raises(MosaicDataError, match=f"^prepare: {named}"):
        reading(**{option: value})


def test_which_files_in_which_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ["b.txt", "a/z.txt", "a/b/c.txt", "a/skip.md", "b.jsonl", ".hidden/d.txt"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    (tmp_path / "directory.txt").mkdir()
    (tmp_path / "a[1].jsonl").write_bytes(b"{}")
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for name in ("two.txt", "one.txt"):
            archive.writestr(name, name)

    def names(*patterns: str) -> list[str]:
        return [file.name.removeprefix(f"{tmp_path}/") for file in list_files(patterns)]

    under = str(tmp_path / "**" / "*.txt")
    assert names(under) == ["a/b/c.txt", "a/z.txt", "b.txt"]
    # By pattern, each file once.
    assert names(str(tmp_path / "b.jsonl"), under)[:2] == ["b.jsonl", "a/b/c.txt"]
    assert len(names(under, under, f"file://{under}")) == 3
    assert names(str(tmp_path / "a[1].jsonl")) == ["a[1].jsonl"], "a path is taken as it is"
    archived = names(f"zip://*.txt::file://{tmp_path}/some.zip")
    assert [name.split("::")[0] for name in archived] == ["zip://one.txt", "zip://two.txt"]

    # One file by links, other spellings and links to directories above: all the same file.
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "a" / "up").symlink_to("..")
    os.link(tmp_path / "b.txt", tmp_path / "hard.txt")
    assert names(under) == ["a/b/c.txt", "a/z.txt", "b.txt"]
    hub = tmp_path / "hub"
    (hub / "blobs").mkdir(parents=True)
    (hub / "blobs" / "abc").write_text("{}")
    for revision in ("r1", "r2"):
        (hub / "snapshots" / revision).mkdir(parents=True)
        (hub / "snapshots" / revision / "c.jsonl").symlink_to("../../blobs/abc")
    assert names(str(hub / "**" / "*.jsonl")) == ["hub/snapshots/r1/c.jsonl"]
    assert not caplog.text
    (tmp_path / "gone.txt").symlink_to("nowhere")
    assert names(under) == ["a/b/c.txt", "a/z.txt", "b.txt"]
    assert "gone.txt is a link to a file that does not exist" in caplog.text
    with pytest.raises(MosaicDataError, match="matches no file"):
        names(str(tmp_path / "gone.txt"))

    library = [file.name.removeprefix("python-stdlib/") for file in list_files(["python-stdlib"])]
    assert library == sorted(set(library))
    assert {"abc.py", "asyncio/base_events.py", "json/decoder.py"} <= set(library)
    parts = {part for name in library for part in Path(name).parts[:-1]}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "__pycache__"}


def test_home_directories_and_odd_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    (home / "a.txt").write_text("one two three four five " * 200)
    usual = ["--input", "~/a.txt", "--form", "text", "--output"]
    given = [
        [*usual, "~/text"],
        [*usual, f"file://{home}/by-url"],
        [*usual, f'{home}/o"q\\z'],
        ["--input", "~/a.txt", "--output", "~/rows", "--seq-len", "8", "--vocab-size", "260"],
    ]
    given[-1] += ["--train-tokenizer", "~/tokenizer"]
    for arguments in given:
        assert cli.main(arguments) == 0
        # What is printed is a configuration that reads the data.
        printed = tomllib.loads(capsys.readouterr().out)
        (stream,) = printed["mosaic_dataloader"]["dataset"]["streams"].values()
        assert Path(stream["local"], "index.json").exists()
    assert list(here.iterdir()) == []
    assert printed["mosaic_tokenizer"]["name"] == str(home / "tokenizer")

    # Bytes that are no UTF-8 in a name; and one that lies on the way to the output.
    odd = os.fsdecode(os.fsencode(home) + b"/\xff.txt")
    Path(odd).write_text("text")
    both = PrepareOptions(input=f"{home}/*.txt", output=home / "odd", form="text")
    assert prepare(both).documents == 2


def test_the_tokenizer_is_named_as_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without its "./", a directory may be taken for a name on the hub."""
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("one two three four five " * 200)
    given = ["--input", "a.txt", "--output", "./rows", "--seq-len", "8", "--vocab-size", "260"]
    for _ in range(2):
        assert cli.main([*given, "--train-tokenizer", "./tokenizer"]) == 0
        assert 'name = "./tokenizer"' in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "rows", "tokenizer"]


def test_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    (tmp_path / "a.txt").write_text("x")
    options = PrepareOptions(input=str(tmp_path / "a.txt"), output=tmp_path / "out", form="text")
    assert prepare(options).documents == 1
    assert "has no locks (No locks available)" in caplog.text


def test_mistakes_end_in_one_line(
    tmp_path: Path, tokenizer_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, data in [
        ("good.txt", b"some text"),
        ("odd.xyz", b"some text"),
        ("empty/a.txt", b""),
        ("foreign/precious.txt", b"keep me"),
        ("bad/a.jsonl", b'{"body": "text"}\n'),
        ("bad/b.jsonl.gz", gzip.compress(b'{"text": "text"}\n' * 99)[:-20]),
        ("bad/c.parquet", b"no parquet"),
        ("bad/d.parquet.gz", b""),
        ("bad/f.csv", b"number,body\n1,text\n"),
        ("set/train.jsonl", b'{"body": "text"}\n'),
        ("broken-set/train.jsonl", b'{"text": "text"}\n{"text": \n'),
        ("broken/manifest.json", b"{"),
        ("old/manifest.json", b'{"version": 1, "options": {}, "facts": {}}'),
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    two = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(two, tmp_path / "bad" / "e.parquet")
    here = str(tmp_path)
    # Later options replace earlier ones.
    usual = ["--input", f"{here}/good.txt", "--output", f"{here}/data", "--seq-len", "8"]
    known = [*usual, "--tokenizer", tokenizer_dir, "--processes", "1"]
    without = [word for word in usual if word not in ("--seq-len", "8")]
    textual = [*without, "--form", "text"]
    for arguments, named in [
        (usual, "exactly one tokenizer"),
        (usual[2:], "one of the arguments --dataset --input is required"),
        ([*known, "--colour", "red"], "there is no option --colour; mosaic-prepare --help lists"),
        (["--otput", "x"], "there is no option --otput; did you mean --output?"),
        ([*known, "--form", "rhyme"], "invalid choice: 'rhyme'"),
        ([*without, "--tokenizer", tokenizer_dir], "needs --seq-len"),
        ([*known, "--seq-len", "0"], "--seq-len 0 must be at least 1"),
        ([*known, "--form", "documents"], '--seq-len is not accepted with --form "documents"'),
        ([*textual, "--add-bos"], "leave out --tokenizer, --tokenizer-kwargs"),
        ([*textual, "--no-document-ends"], "--document-ends is a column"),
        ([*known, "--input", f"{here}/none*"], "matches no file"),
        ([*known, "--input", f"{here}/empty"], "for a directory give a glob"),
        ([*known, "--input", f"{here}/empty/*"], "no text to train on"),
        ([*known, "--input", f"{here}/odd.xyz"], "--input-format"),
        ([*known, "--input", f"{here}/bad/a.jsonl"], "a.jsonl, line 1: has no column 'text'"),
        ([*known, "--input", f"{here}/bad/b*"], "b.jsonl.gz: is damaged: EOFError"),
        ([*known, "--input", f"{here}/bad/c*"], "c.parquet: is damaged"),
        ([*known, "--input", f"{here}/bad/d*"], "compressed parquet"),
        ([*known, "--input", f"{here}/bad/e*"], "has two columns 'text'"),
        ([*known, "--input", f"{here}/bad/f*"], "number, body (choose with --text-columns)"),
        ([*known, "--input", "s3://bucket/*.jsonl"], "s3fs"),
        ([*known, "--input", "memory://x/*"], "memory of one process"),
        (
            [*known, "--text-columns", "body"],
            "--text-columns is given, but all",
        ),
        ([*known, "--document-separator", ""], "--document-separator is empty"),
        ([*known, "--output", f"{here}/foreign"], "not written by prepare"),
        ([*known, "--output", f"{here}/broken"], "cannot read the manifest.json"),
        ([*known, "--output", f"{here}/old"], "format 1"),
        ([*known, "--output", f"{here}/good.txt/data"], "(Not a directory)"),
        ([*known, "--compression", "zip"], "--compression 'zip' is not one of"),
        ([*known, "--hashes", "crc"], "--hashes 'crc' is not one of"),
        ([*known, "--shard-bytes", "many"], "--shard-bytes 'many' is no"),
        ([*known, "--shard-bytes", "100"], "must be at least 576"),
        ([*known, "--split-validation", "1.5"], "must be a share"),
        ([*known, "--split-validation", "0.5"], "leaves nothing for"),
        ([*known, "--tokenizer-kwargs", "x"], "is not a JSON object"),
        ([*known, "--vocab-size", "300"], "give --train-tokenizer"),
        ([*known, "--task", "3"], "--task 3/64"),
        ([*known, "--task", "5/4"], "task 5/4 is not one of 1/4 to 4/4"),
        ([*known, "--address", "auto"], "--address 'auto' needs --engine \"ray\""),
        ([*known, "--finish"], "1 of 1 units are missing"),
        ([*usual, "--tokenizer", f"{here}/empty"], "cannot load tokenizer"),
        ([*usual, "--train-tokenizer", f"{here}/data"], "its own directory"),
        ([*usual, "--train-tokenizer", f"{here}/t", "--vocab-size", "9"], "at least 258"),
        ([*usual, "--train-tokenizer", f"{here}/t"], "set --vocab-size to"),
        (["--dataset", f"{here}/set", *known[2:]], "has no column 'text'; it has body"),
        (["--dataset", f"{here}/broken-set", *known[2:]], "cannot read data set"),
        (["--dataset", f"{here}/nowhere", *known[2:]], "cannot load data set"),
    ]:
        try:
            code: Any = cli.main(arguments)
        except SystemExit as stop:
            code = stop.code
        told = capsys.readouterr().err.strip()
        assert code == 2, (arguments, told)
        assert named in told, arguments
        lines = [line for line in told.splitlines() if line.startswith("mosaic-prepare: ")]
        assert len(lines) == 1, told
        assert named in lines[0]
    assert (tmp_path / "foreign" / "precious.txt").read_bytes() == b"keep me"
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "data").exists()


def test_the_command_and_its_help(
    tmp_path: Path, tokenizer_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 0
    helped = capsys.readouterr().out
    said = " ".join(helped.split())
    for name in PrepareOptions.__dataclass_fields__:
        assert f"--{name.replace('_', '-')}" in helped, name
    assert "Shard size limit in bytes, before compression." in said

    lines = "".join(json.dumps({"a": f"text {i}", "b": "more"}) + "\n" for i in range(50))
    (tmp_path / "in.jsonl").write_text(lines)
    arguments = ["--input", str(tmp_path / "*.jsonl"), "--output", str(tmp_path / "out")]
    arguments += ["--tokenizer", tokenizer_dir, "--seq-len", "16", "--shard-bytes", "2kb"]
    arguments += ["--text-columns", "a", "b", "--column-separator", r"\n", "--processes", "2"]
    command = str(Path(sys.executable).with_name("mosaic-prepare"))
    done = subprocess.run(
        [command, *arguments, "--split-validation", "0.2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = tomllib.loads(done.stdout)
    assert printed["mosaic_dataloader"]["dataset"]["streams"]["out"]["split"] == "train"
    assert printed["mosaic_tokenizer"]["name"] == tokenizer_dir
    note = helpers.manifest(tmp_path / "out")
    assert note["options"]["column_separator"] == "\n"
    assert note["facts"]["documents"] == 50


LARGE = """
import json, resource, sys
import mosaic_prepare.shards
from mosaic_prepare import PrepareOptions, prepare

folder, *kinds = sys.argv[1:]
def run(name):
    prepare(PrepareOptions(input=f"{folder}/{name}", output=f"{folder}/out-{name}", form="text",
                           processes=1, shard_bytes=1 << 20))
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
for kind in kinds:
    run(f"small.{kind}")
before = peak()
for kind in kinds:
    run(f"large.{kind}")
print(json.dumps(peak() - before))
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 9 << 10
    line = json.dumps({"text": "0123456789abcdef" * 512}).encode() + b"\n"
    kinds = ["jsonl", "jsonl.gz", "parquet"]
    for name, count in (("small", 16), ("large", rows)):
        (tmp_path / f"{name}.jsonl").write_bytes(line * count)
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(line * count, 1))
        column = pa.array([f"{number:08192}" for number in range(count)], pa.large_string())
        # One row group.
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": column}), path, row_group_size=count)
    command = [sys.executable, "-c", LARGE, str(tmp_path), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    # MiB more than for 16 documents; each of the corpora has 72.
    assert json.loads(done.stdout.splitlines()[-1]) < 60
    for kind in kinds:
        assert helpers.manifest(tmp_path / f"out-large.{kind}")["facts"]["documents"] == rows


def test_progress_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    # Of a fast machine's rates, a narrow bar would be cut.
    monkeypatch.setenv("COLUMNS", "300")
    with Progress("tokenizing", total=2_000_000, initial=500_000) as progress:
        for _ in range(3):
            progress.advance(500_000, text=1_000_000, tokens=250_000)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert bar.startswith("tokenizing: 100%")
    assert "2.00M/2.00M [" in bar
    assert "MB/s" in bar
    assert "tokens/s" in bar
    with Progress("writing text", total=0) as progress:
        progress.advance(500_000, text=500_000, tokens=0)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert bar.startswith("writing text: 500k [")
    assert "tokens" not in bar


def test_progress_in_a_log_says_nothing_twice(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic_prepare.progress.SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level("INFO"), Progress("tokenizing", total=2_000_000) as progress:
        for _ in range(2):
            progress.advance(1_000_000, text=1_000_000, tokens=250_000)
    begins = [line.partition("MB")[0] for line in caplog.messages]
    assert begins == ["tokenizing: 1.00", "tokenizing: 2.00"]
    caplog.clear()
    with caplog.at_level("INFO"), pytest.raises(OSError), Progress("tokenizing", total=9):
        raise OSError
    assert caplog.messages == []


def test_a_directory_is_made_by_one_at_a_time_and_no_lock_file_stays(tmp_path: Path) -> None:
    """Although each removes the file that the others wait on."""
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(25):
            with output.directory_lock(tmp_path / "made"):
                inside.append(number)
                time.sleep(0.0005)
                most.append(len(inside))
                inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1] * 200
    assert list(tmp_path.iterdir()) == []


def test_a_format_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(piece: Piece, options: PrepareOptions) -> Iterator[str]:
        yield Path(piece.file.url).read_text().upper()

    loud = replace(FORMATS["text"], suffixes=(".loud",), read=read)
    monkeypatch.setitem(FORMATS, "loud", loud)
    (tmp_path / "a.loud").write_text("hey")
    prepare(PrepareOptions(input=str(tmp_path / "a.loud"), output=tmp_path / "out", form="text"))
    helpers.check(tmp_path / "out", "text", None, ["HEY"])
