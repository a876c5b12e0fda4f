"""`mosaic-inspect`: any MDS data set, without a trainer."""

import os
import re
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from streaming import MDSWriter

import mosaic_dataloader.storage.index as stored_index
from mosaic_dataloader import run_log
from mosaic_dataloader.inspect import Steps, cli
from mosaic_dataloader.inspect.cli import main
from mosaic_dataloader.inspect.run import _print_rows, readable_output
from mosaic_dataloader.reading.origins import DocumentOrigin, PreviewRow

LENGTHS = [10 + n for n in range(100)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two streams of the same lengths, one in a folder of a folder."""
    for name, encoding in (("web", "ndarray:int32"), ("more/books", "bytes")):
        columns = {"tokens": encoding}
        with MDSWriter(out=str(tmp_path / "data" / name), columns=columns, size_limit=4000) as out:
            for number, length in enumerate(LENGTHS):
                row = np.full(length, 1000 + number, np.int32 if name == "web" else np.int64)
                out.write({"tokens": row if name == "web" else row.tobytes()})
    return tmp_path / "data"


def test_streams_lengths_rows_and_picture(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "new" / "lengths.png"
    assert main([str(data), "--rows", "2", "--picture", str(picture)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    header, web, books, *_ = out.splitlines()
    assert header.split()[:4] == ["stream", "shards", "samples", "tokens"]
    for line, name in ((web, "web"), (books, "more/books")):
        words = line.split()
        assert words[0] == name
        assert words[2] == "100"
        assert f"about {sum(LENGTHS):,}" in line
        assert words[-3:] == ["60", "100", "109"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert re.findall(r'^stream "(.*)", sample (\d): (\d+) tokens$', out, re.M) == [
        *(("web", "0", "10"), ("web", "1", "11")),
        *(("more/books", "0", "10"), ("more/books", "1", "11")),
    ]
    assert "  | " + " ".join(["1001"] * 11) in out


def test_the_mixture_with_and_without_a_plan(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def tree(*arguments: str) -> list[str]:
        assert main([str(data), "--rows", "0", *arguments]) == 0
        out, _ = capsys.readouterr()
        return out[out.index("mixture, ") :].splitlines()

    title, place, header, *rows = tree()
    assert title == "mixture, weights in samples:"
    assert place == "└─ epochs of 200 samples: samples 0 to 199"
    assert header.split() == ["stream", "weight", "samples", "share", "tokens", "share", "seen"]
    for row, name in zip(rows, ("web", "more/books"), strict=True):
        line = rf"   {name} +all of it +100  50.0% +([\d,]+)  \d+.\d%  1.00 times"
        (tokens,) = re.findall(line, row)
        # By the sizes of the shards, which hold more than tokens.
        assert sum(LENGTHS) <= int(tokens.replace(",", "")) < 1.2 * sum(LENGTHS)
    stages = "[{samples = 80, weights = {web = 3, 'more/books' = 1}}, {weights = {web = 1}}]"
    *first, second, header, last = tree("--stages", stages)
    assert first[1] == "├─ stage 1 of 2: samples 0 to 79"
    assert first[3].split()[:3] == ["│", "web", "0.75"]
    assert second == "└─ stage 2 of 2: samples 80 and on"
    assert header.split() == ["stream", "weight", "samples", "share", "tokens", "share", "seen"]
    assert last.split() == ["web", "1", "…", "100.0%", "…", "100.0%", "…"]
    counted = tree("--stages", stages, "--weights-in=tokens", "--steps", "50", "--step-rows", "4")
    assert counted[0] == "mixture, weights in tokens:"
    assert counted[5] == "├─ stage 2 of 2: steps 21 to 50, samples 80 to 199"
    assert counted[8] == "└─ the whole run: steps 1 to 50, samples 0 to 199"
    drawn = [int(line.split()[-6]) for line in counted[-2:]]
    assert sum(drawn) == 200
    for line, own in zip(counted[-2:], drawn, strict=True):
        assert line.endswith(f"{own / 100:.2f} times")


def test_one_stream_read_from_elsewhere_fetches_what_it_shows(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mosaic_dataloader.inspect.cli._FETCHED_BYTES", 1)
    cache = tmp_path / "cache"
    place = (data / "web").as_uri()
    assert main([place, "--rows", "1", "--cache-dir", str(cache)]) == 0
    out, _ = capsys.readouterr()
    assert out.splitlines()[1].split()[0] == "web"
    assert len(list(cache.rglob("shard.*.mds"))) == 1


def test_the_plan_of_a_run(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards = list((data / "web").glob("*.mds"))
    size = sum(path.stat().st_size for path in shards)
    cache = tmp_path / "cache"
    place = (data / "web").as_uri()
    options = ["--plan", "--batch-size", "4", "--cache-dir", str(cache)]
    assert main([place, *options, "--step-time", "0.5", "--bandwidth", "10kb"]) == 0
    fetch, held, start = capsys.readouterr().out.splitlines()
    assert fetch == (
        f"fetch: {size / 25e3:.1f} KB a step by the machine; {len(shards)} shards, "
        f"{size / 1000:.1f} KB, in the 25 steps; {size / 25 * 7200 / 1e6:.1f} MB an hour at 0.5 s "
        f"a step"
    )
    assert re.fullmatch(r"cache: .* on the machine, so that no shard is fetched twice", held)
    # All of it is in use at once, and comes in the first steps.
    first, seconds, waits = re.fullmatch(
        r"start: (\d+) shards, [\d.]+ KB, for the first step, in ([\d.]+) s at 10\.2 KB/s; with an "
        r"empty cache the 25 steps wait ([\d.]+) s for data",
        start,
    ).groups()  # type: ignore[union-attr]
    assert 1 < int(first) <= 4
    assert 0 < float(seconds) <= float(waits) < size / 10_240
    assert not list(cache.rglob("*.mds")), "a plan needs the index only"
    # Of two machines, each reads half; packed documents are estimated.
    assert main([str(data / "web"), *options, "--ranks", "2", "--nodes", "2", "--pack", "50"]) == 0
    fetch, _, _ = capsys.readouterr().out.splitlines()
    found = re.search(
        r"a step by each of 2 machines; about (\d+) shards, .* in the (\d+) steps", fetch
    )
    # One shard lies on the border.
    assert found and len(shards) / 2 <= int(found[1]) <= len(shards) / 2 + 2
    assert int(found[2]) == pytest.approx(sum(LENGTHS) / 50 / 8, rel=0.1)


def test_text_is_encoded_and_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(("[UNK]", "alpha", "beta"))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    name = str(tmp_path / "tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(name)
    with MDSWriter(out=str(tmp_path / "text"), columns={"text": "str"}) as out:
        out.write({"text": "alpha beta alpha"})
        out.write({"text": "beta " * 600})
    assert main([str(tmp_path / "text")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        'mosaic-inspect: error: stream "text" holds text: give --tokenizer NAME, or its directory'
    ]
    assert main([str(tmp_path / "text"), "--tokenizer", name, "--rows", "2"]) == 0
    out = capsys.readouterr().out
    assert "  | alpha beta alpha" in out
    # A document may be as long as a book.
    assert out.endswith("\n  … and 88 tokens more\n")
    assert out.count("beta") == 1 + 512


def test_mistakes_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "index.json").write_text("{")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for arguments, expected in [
        ([str(tmp_path / "none")], "is not a directory, nor an address"),
        ([str(tmp_path / "empty")], "has no index.json, nor has any directory in it"),
        ([str(tmp_path / "broken")], "broken"),
        ([(tmp_path / "none").as_uri()], "none"),
        ([str(data / "web"), "--tokenizer", str(tmp_path / "none")], "--tokenizer .* cannot be"),
        ([str(data / "web"), "--token-encoding-type", "int3"], "--token-encoding-type 'int3'"),
        ([str(data / "web"), "--plan", "--ranks", "3", "--nodes", "2"], "--ranks 3 cannot be"),
        ([str(data / "web"), "--plan", "--bandwidth", "fast"], "--bandwidth 'fast' is not a size"),
        ([str(data / "web"), "--plan", "--step-time", "0"], "--step-time 0 must be above 0"),
        ([str(data / "web"), "--picture", str(tmp_path / "x.png")], "mosaic-dataloader.inspect."),
        ([str(data / "web"), "--stages", "[{"], "--stages '\\[{' is not TOML"),
        ([str(data / "web"), "--stages", "[{weights = {a = 1}}]"], "weight for 'a', and there is"),
        ([str(data / "web"), "--steps", "9"], "--steps and --step-rows belong together"),
    ]:
        assert main(arguments) == 2, arguments
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(f"^mosaic-inspect: error: .*{expected}", line), line
    for more, expected in [
        (["--rows", "x"], "argument --rows: "),
        (["--rosw", "3"], "there is no option --rosw; did you mean --rows?"),
        # Nor is it accepted in short.
        (["--row", "3"], "there is no option --row; did you mean --rows?"),
    ]:
        with pytest.raises(SystemExit) as ended:
            main([str(data), *more])
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"mosaic-inspect: error: {expected}"), line


def test_packed_rows_are_of_consecutive_micro_batches_where_some_are_left_out(
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = SimpleNamespace(loader=SimpleNamespace(batch_size=1, dp_world_size=1))
    ids = torch.arange(4)
    rows = []
    for position in (959, 1920):
        part = DocumentOrigin(position, 0, 0, 0, "web", 0, "shard", 0, 0, 0, 0, 0, 5, 5)
        counts = np.array([4])
        rows.append(PreviewRow(position, 0, 0, (part,), counts, lambda: (ids, ids), lane=959))
    _print_rows(cast(Steps, steps), rows, None)
    assert "row 1: micro-batch 1, rank 0" in (out := capsys.readouterr().out)
    assert "row 2: micro-batch 2, rank 0" in out


def test_the_command(data: Path) -> None:
    """In a process of its own, whose reader soon has enough."""
    (shown, out), (told, err) = os.pipe(), os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            for end, fd in ((out, 1), (err, 2)):
                os.dup2(end, fd)
            for end in (shown, told, out, err):
                os.close(end)
            sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))  # noqa: SIM115
            sys.argv = ["mosaic-inspect", str(data), "--rows", "100"]
            try:
                cli.command()
            except SystemExit as ended:
                code = int(ended.code or 0)
            # As an interpreter does that ends.
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(out)
    os.close(err)
    with open(shown) as stdout:
        assert stdout.readline().startswith("stream ")
    with open(told) as stderr:
        assert stderr.read() == ""
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_reader_that_has_left_before_the_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    with open(write, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with readable_output():
            print("still in the buffer")
            os.close(read)


def test_the_command_warns_of_a_store_and_not_of_training(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a cached copy is not taken for what a store that does not answer holds."""
    for name in ("mosaic_dataloader", "mosaic_dataloader.storage"):
        caplog.set_level("INFO", name)  # restored in the end

    def warns() -> int:
        for module in (stored_index, run_log):
            module.logger.warning("from %s", module.__name__)
        return 0

    monkeypatch.setattr(cli, "main", warns)
    with pytest.raises(SystemExit):
        cli.command()
    assert caplog.messages == ["from mosaic_dataloader.storage.index"]
