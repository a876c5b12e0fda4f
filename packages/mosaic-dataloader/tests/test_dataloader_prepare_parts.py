"""Parts of the preparation: blocks and shards wherever they end, which files, the command."""

import gzip
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Self

import prepare_helpers as helpers
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deadly_block import Deadly
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare import PrepareOptions, cli, dataset, journal, publish
from mosaic_dataloader.prepare.corpus import jsonl, parquet, text
from mosaic_dataloader.prepare.corpus.corpus import open_corpus
from mosaic_dataloader.prepare.corpus.listing import list_files
from mosaic_dataloader.prepare.encode import BlockEncoder, EncoderSpec, Result
from mosaic_dataloader.prepare.pool import Pool, Task
from mosaic_dataloader.prepare.progress import Progress
from mosaic_dataloader.prepare.targets import LocalTarget

SEPARATOR = "\n\n"


class InProcess:
    """Stands for the pool of processes."""

    def __init__(self, spec: EncoderSpec, processes: int):
        self._encoder = BlockEncoder(spec)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def map(self, tasks: Iterable[Task]) -> Iterator[Result]:
        for block, splits in tasks:
            yield self._encoder.encode(block, splits)


class Stopped(BaseException):
    """As if the process had ended there."""


# Separators, whole and halved, line ends, and characters of one to four bytes.
pieces = st.sampled_from(
    ["a", "b c", "\n", "\n\n", "\r\n", "é", "北", "🙂", "<|end_of_text|>", "x" * 40]
)
documents = st.lists(pieces, max_size=8).map("".join)
files = st.lists(
    st.tuples(
        st.sampled_from(["jsonl", "jsonl.gz", "txt", "txt.gz"]),
        st.lists(documents, max_size=12),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


def write(folder: Path, given_files: Any, limit: int) -> list[str]:
    """Write the files; the documents that are to be found in them."""
    expected: list[str] = []
    for number, (kind, texts, ends) in enumerate(given_files):
        if kind.startswith("jsonl"):
            lines = [json.dumps({"text": one}, ensure_ascii=False) for one in texts]
            expected += [
                one
                for one, line in zip(texts, lines, strict=True)
                if one and len(line.encode()) <= limit
            ]
            data = "\n".join(lines) + ("\n" if ends else "")
        else:
            data = SEPARATOR.join(texts)
            # What the separator makes of them; documents may hold it.
            expected += [one for one in data.split(SEPARATOR) if 0 < len(one.encode()) <= limit]
        packed = gzip.compress(data.encode()) if kind.endswith(".gz") else data.encode()
        (folder / f"{number}.{kind}").write_bytes(packed)
    return expected


def border(kind: str, texts: list[str], block_bytes: int) -> Any:
    """A case that chance seldom finds."""
    return example(
        given_files=[(kind, texts, True)],
        form="text",
        split=0.0,
        block_bytes=block_bytes,
        shard_bytes=1024,
        limit=70,
        interruptions=[1],
    )


# Lines that end where blocks do; a separator cut in two after a document that is left out; a line
# that goes on behind what is looked at ahead.
@border("jsonl", ["a"] * 6, 14)
@border("txt", ["x" * 120, "after"] * 2, 121)
@border("jsonl", ["a", "y" * 200_000, "b"], 90)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    given_files=files,
    form=st.sampled_from(["rows", "documents", "text"]),
    split=st.sampled_from([0.0, 0.3]),
    block_bytes=st.integers(1, 90),
    shard_bytes=st.sampled_from([1024, 1100, 1 << 20]),
    limit=st.sampled_from([70, 1 << 20]),
    interruptions=st.lists(st.integers(1, 4), max_size=3),
)
def test_wherever_blocks_and_shards_end_and_runs_stop(
    tokenizer_dir: str,
    given_files: Any,
    form: str,
    split: float,
    block_bytes: int,
    shard_bytes: int,
    limit: int,
    interruptions: list[int],
) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        (folder / "in").mkdir()
        expected = write(folder / "in", given_files, limit)
        patch.setattr(dataset, "Pool", InProcess)
        # What is on disk after a power cut is not looked at here.
        patch.setattr(os, "fsync", lambda descriptor: None)
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)

        def run(output: str, bytes_in_block: int, dies_after: int | None) -> None:
            for module in (jsonl, text, parquet):
                patch.setattr(module, "BLOCK_BYTES", bytes_in_block)
            changes: dict[str, Any] = {
                "input": str(folder / "in" / "*"),
                "document_separator": SEPARATOR if has_text else None,
                "output": folder / output,
                "form": form,
                "split_validation": split,
                # Rows are small, so that a shard of them is.
                "shard_bytes": shard_bytes // 3 if form == "rows" else shard_bytes,
                "seq_len": 3,
                "max_document_bytes": limit,
                "bad_input": "skip",
            }
            options = helpers.options(folder, tokenizer_dir, **changes)
            spec = EncoderSpec(
                form=form,
                definition=definition,
                eos_id=tokenizer.eos_token_id,
                dtype="uint16",
                split_validation=split,
            )
            target = LocalTarget(folder / output)
            left = dies_after
            real = journal.Journal.append

            def append(self: Any, entry: Any) -> None:
                nonlocal left
                real(self, entry)
                if left is not None:
                    left -= 1
                    if not left:
                        raise Stopped

            with patch.context() as inner, target.lock():
                inner.setattr(journal.Journal, "append", append)
                dataset.write_dataset(target, open_corpus(options), options, {}, spec, None)

        has_text = any(kind.startswith("txt") for kind, _, _ in given_files)
        definition = Tokenizer.from_file(f"{tokenizer_dir}/tokenizer.json").to_str()
        try:
            run("whole", 1 << 20, None)
        except MosaicDataError as error:
            # Nothing there, or nothing on one side.
            assert split or len(expected) < 2, error
            return
        for dies_after in interruptions:
            try:
                run("killed", block_bytes, dies_after)
            except Stopped:
                continue
            break
        if not (folder / "killed").exists():
            run("killed", block_bytes, None)
        assert helpers.contents(folder / "killed") == helpers.contents(folder / "whole")
        if not split:
            helpers.check(folder / "killed", form, tokenizer, expected, seq_len=3)


def test_which_files_in_which_order(tmp_path: Path) -> None:
    for name in ["b.txt", "a/z.txt", "a/b/c.txt", "a/skip.md", "b.jsonl"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"{}")
    (tmp_path / "directory.txt").mkdir()
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for name in ("two.txt", "one.txt"):
            archive.writestr(name, name)

    def names(*patterns: str) -> list[str]:
        return [file.name.removeprefix(f"{tmp_path}/") for file in list_files(patterns)]

    under = str(tmp_path / "**" / "*.txt")
    assert names(under) == ["a/b/c.txt", "a/z.txt", "b.txt"]
    # By pattern, each file once.
    assert names(str(tmp_path / "*.jsonl"), under)[:2] == ["b.jsonl", "a/b/c.txt"]
    assert len(names(under, under, f"file://{under}")) == 3
    archived = names(f"zip://*.txt::file://{tmp_path}/some.zip")
    assert [name.split("::")[0] for name in archived] == ["zip://one.txt", "zip://two.txt"]

    library = [file.name for file in list_files(["python-stdlib"])]
    assert library == sorted(set(library))
    assert {"abc.py", "asyncio/base_events.py", "json/decoder.py"} <= set(library)
    parts = {part for name in library for part in Path(name).parts[:-1]}
    assert not parts & {"test", "tests", "idle_test", "site-packages", "__pycache__"}


def test_mistakes_end_in_one_line(
    tmp_path: Path, tokenizer_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in [
        ("good.txt", b"some text"),
        ("empty/a.txt", b""),
        ("foreign/precious.txt", b"keep me"),
        ("bad/a.jsonl", b'{"body": "text"}\n'),
        ("bad/b.jsonl.gz", gzip.compress(b'{"text": "text"}\n' * 99)[:-20]),
        ("bad/c.parquet", b"no parquet"),
        ("bad/d.parquet.gz", b""),
        ("set/train.jsonl", b'{"body": "text"}\n'),
        ("broken/manifest.json", b"{"),
        ("old/manifest.json", b'{"version": 1}'),
    ]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    here = str(tmp_path)
    # Later options replace earlier ones.
    usual = ["--input", f"{here}/good.txt", "--output", f"{here}/data", "--seq-len", "8"]
    known = [*usual, "--tokenizer", tokenizer_dir, "--processes", "1"]
    without = [word for word in usual if word not in ("--seq-len", "8")]
    textual = [*without, "--form", "text"]
    for arguments, named in [
        (usual, "exactly one tokenizer"),
        (usual[2:], "one of the arguments --input --dataset is required"),
        ([*known, "--colour", "red"], "unrecognized arguments: --colour red"),
        ([*known, "--form", "rhyme"], "invalid choice: 'rhyme'"),
        ([*without, "--tokenizer", tokenizer_dir], "needs seq_len"),
        ([*known, "--seq-len", "0"], "seq_len must be at least 1"),
        ([*known, "--form", "documents"], "seq_len is not taken"),
        ([*textual, "--add-bos"], "leave out"),
        ([*known, "--input", f"{here}/none*"], "matches no file"),
        ([*known, "--input", f"{here}/empty"], "for a directory give a glob"),
        ([*known, "--input", f"{here}/empty/*"], "no text to train on"),
        ([*known, "--input", f"{here}/bad/a.jsonl"], "a.jsonl, line 1: has no column 'text'"),
        ([*known, "--input", f"{here}/bad/b*"], "cannot read"),
        ([*known, "--input", f"{here}/bad/c*"], "cannot read"),
        ([*known, "--input", f"{here}/bad/d*"], "compressed Parquet"),
        ([*known, "--input", "s3://bucket/*.jsonl"], "s3fs"),
        ([*known, "--input", "memory://x/*"], "memory of one process"),
        ([*known, "--text-columns", "body"], "all input is plain text"),
        ([*known, "--document-separator", ""], "document_separator is empty"),
        ([*known, "--output", f"{here}/foreign"], "not written by prepare"),
        ([*known, "--output", f"{here}/broken"], "cannot read the manifest.json"),
        ([*known, "--output", f"{here}/old"], "format 1"),
        ([*known, "--output", f"{here}/good.txt/data"], "(Not a directory)"),
        ([*known, "--compression", "zip"], "compression = 'zip' is not one of"),
        ([*known, "--hashes", "crc"], "'crc' is not one of"),
        ([*known, "--shard-bytes", "many"], "shard_bytes = 'many' is no size"),
        ([*known, "--shard-bytes", "100"], "must be at least 576"),
        ([*known, "--split-validation", "1.5"], "must be a share"),
        ([*known, "--split-validation", "0.5"], "leaves nothing for"),
        ([*known, "--tokenizer-kwargs", "x"], "is no JSON object"),
        ([*known, "--vocab-size", "300"], "give train_tokenizer"),
        ([*usual, "--tokenizer", f"{here}/empty"], "cannot load tokenizer"),
        ([*usual, "--train-tokenizer", f"{here}/data"], "its own directory"),
        ([*usual, "--train-tokenizer", f"{here}/t", "--vocab-size", "9"], "at least 258"),
        ([*usual, "--train-tokenizer", f"{here}/t"], "set vocab_size to"),
        (["--dataset", f"{here}/set", *known[2:]], "has no column 'text'; it has body"),
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
    assert not list(tmp_path.glob(".*.partial"))
    assert not (tmp_path / "data").exists()


def test_the_command_and_its_help(tmp_path: Path, tokenizer_dir: str) -> None:
    command = [str(Path(sys.executable).with_name("mosaic-prepare"))]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, check=True)
    fields = set(PrepareOptions.__dataclass_fields__) - {"input_format"}
    for name in fields:
        assert f"--{name.replace('_', '-')}" in helped.stdout, name

    lines = "".join(json.dumps({"a": f"text {i}", "b": "more"}) + "\n" for i in range(50))
    (tmp_path / "in.jsonl").write_text(lines)
    arguments = ["--input", str(tmp_path / "*.jsonl"), "--output", str(tmp_path / "out")]
    arguments += ["--tokenizer", tokenizer_dir, "--seq-len", "16", "--shard-bytes", "2kb"]
    arguments += ["--text-columns", "a", "b", "--column-separator", r"\n", "--processes", "2"]
    done = subprocess.run(
        [*command, *arguments, "--split-validation", "0.2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # What is printed is a configuration that reads the data.
    assert 'split = "train"' in done.stdout
    assert f'name = "{tokenizer_dir}"' in done.stdout
    note = helpers.manifest(tmp_path / "out")
    assert note["options"]["column_separator"] == "\n"
    assert note["facts"]["documents"] == 50


LARGE = """
import json, resource, sys
import pyarrow.parquet
from mosaic_dataloader.prepare import PrepareOptions, prepare

def peaks():
    both = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
    return [resource.getrusage(who).ru_maxrss >> 10 for who in both]

folder, *kinds = sys.argv[1:]
def run(name):
    prepare(PrepareOptions(input=f"{folder}/{name}", output=f"{folder}/out-{name}", form="text",
                           processes=2, shard_bytes=1 << 20))
for kind in kinds:
    run(f"small.{kind}")
before = peaks()
for kind in kinds:
    run(f"large.{kind}")
print(json.dumps([a - b for a, b in zip(peaks(), before)]))
"""


def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    rows = 96 << 10
    line = json.dumps({"text": "0123456789abcdef" * 64}).encode() + b"\n"
    kinds = ["jsonl", "jsonl.gz", "parquet"]
    for name, count in (("small", 16), ("large", rows)):
        (tmp_path / f"{name}.jsonl").write_bytes(line * count)
        (tmp_path / f"{name}.jsonl.gz").write_bytes(gzip.compress(line * count, 1))
        column = pa.array([f"{number:01024}" for number in range(count)], pa.large_string())
        # One row group, larger than what a worker may hold.
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": column}), path, row_group_size=count)
    command = [sys.executable, "-c", LARGE, str(tmp_path), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    here, workers = json.loads(done.stdout.splitlines()[-1])
    # MiB more than for 16 documents; each of the corpora has 96.
    assert here < 60, "the process that writes"
    assert workers < 60, "the processes that encode"
    for kind in kinds:
        assert helpers.manifest(tmp_path / f"out-large.{kind}")["facts"]["documents"] == rows


def test_progress_for_people(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    # A second at every look: of a fast machine's rates, a narrow bar would be cut.
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr("mosaic_dataloader.prepare.progress.time", clock)
    with Progress("tokenizing", total=2_000_000, initial=500_000) as progress:
        for _ in range(3):
            progress.advance(500_000, text=1_000_000, tokens=250_000)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert bar.startswith("tokenizing: 100%")
    assert "2.00M/2.00M [" in bar
    assert "MB/s" in bar
    assert "tokens/s" in bar
    with Progress("writing text", total=None) as progress:
        progress.advance(500_000, text=500_000, tokens=0)
    bar = capsys.readouterr().err.split("\r")[-1]
    assert bar.startswith("writing text: 500k [")
    assert "tokens" not in bar


@pytest.mark.parametrize("kills", [True, False])
def test_a_worker_that_dies_is_told_of(kills: bool) -> None:
    spec = EncoderSpec(form="text")
    found: list[int] = []
    error = MosaicDataError if kills else RuntimeError
    with (
        pytest.raises(error, match=r"exit code -9.*fewer processes|a fault of the program"),
        Pool(spec, 2) as pool,
    ):
        for result in pool.map((Deadly(number, kills), ("",)) for number in range(5)):
            found.append(result.position[0])
    assert found == [0, 1]
    assert all(worker._process.returncode is not None for worker in pool._workers)


def test_a_directory_is_made_by_one_at_a_time_and_no_lock_file_stays(tmp_path: Path) -> None:
    """Although each removes the file that the others wait on."""
    inside: list[int] = []
    most: list[int] = []

    def work(number: int) -> None:
        for _ in range(25):
            with publish.directory_lock(tmp_path / "made"):
                inside.append(number)
                time.sleep(0.0005)
                most.append(len(inside))
                inside.remove(number)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1] * 200
    assert list(tmp_path.iterdir()) == []


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
