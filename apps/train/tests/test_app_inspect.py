"""`--inspect-data`: no rank is started, and what is shown is what would be trained on."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import MDSWriter

from mosaic_train import cli
from mosaic_train.inspect.rows import real_tokens, row_lines


@pytest.fixture(autouse=True)
def no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        pytest.fail("a rank would have been started")

    monkeypatch.setattr("mosaic_train.launch.launch", refuse)
    monkeypatch.setattr("mosaic_train.launch.ranks_on_this_machine", lambda wanted: wanted or 1)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)


def shown(app: Any, capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    capfd.readouterr()
    code = cli.main(["--config-path", str(app.folder / "config.toml"), *arguments])
    captured = capfd.readouterr()
    assert code == 0, captured.err
    return captured.out


class Letters:
    """A tokenizer of letters: 0 begins a document, 1 ends one."""

    bos_id, eos_id = 0, 1

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join({0: "<s>", 1: "</s>"}.get(i, chr(95 + i)) for i in ids)


def test_a_row_as_text() -> None:
    inputs = [0, 2, 3, 1, 0, 4, 1, 1]
    labels = [2, 3, 1, -100, 4, 1, -100, -100]
    assert real_tokens(labels) == 7
    assert row_lines(inputs, labels, Letters()) == [
        "  | ──────── BOS <s> ────────",
        "  | ab",
        "  | ──────── EOS ⟦</s>⟧ ────────",
        "  |",
        "  | ──────── BOS <s> ────────",
        "  | c",
        "  | ──────── EOS ⟦</s>⟧ ────────",
        "  |",
        "  | ⟦1 positions of padding⟧",
    ]
    assert row_lines(inputs, labels, None) == [
        "  | 0 2 3 ⟦1⟧ 0 4 ⟦1⟧",
        "  | ⟦1 positions of padding⟧",
    ]
    # A row that is full, one of a single token, and one that needs several lines.
    assert real_tokens([5] * 8) == real_tokens([*[5] * 7, -100]) == 8
    assert real_tokens([-100] * 8) == 1
    assert len(row_lines([5] * 250, [5] * 250, Letters())) == 3


@pytest.mark.parametrize("method", ["random", "stratified", "per_stream", "device_per_stream"])
def test_streams_rows_and_picture(
    app: Any, capfd: pytest.CaptureFixture[str], method: str, tmp_path: Path
) -> None:
    """Tokens and text, two ranks and two micro-batches, with and without a tokenizer."""
    tokens = method in ("random", "per_stream")
    other = tmp_path / "other"
    columns = {"tokens": "ndarray:int32"} if tokens else {"text": "str"}
    with MDSWriter(out=str(other), columns=columns) as writer:
        for number in range(64):
            row = np.full(1 + number % 33, number + 1, np.int32)
            writer.write({"tokens": row} if tokens else {"text": "alpha beta\n" * (number % 9 + 1)})
    stream = f'[mosaic_dataloader.dataset.streams.other]\nlocal = "{other}"\nproportion = 1\n'
    changes = [
        ("shuffle = true", f'shuffle = true\nbatching_method = "{method}"'),
        (f'local = "{app.data}/data"', f'local = "{app.data}/data"\nproportion = 3.0'),
    ]
    if tokens:
        changes.append((f'[mosaic_tokenizer]\nname = "{app.data}/tokenizer"\n', ""))
    app.config(*changes, extra=stream)
    options = ["--nproc-per-node", "2", "--training.global_batch_size", "8"]
    output = shown(app, capfd, "--inspect-data", "8", "--at-step=2", *options)

    (words,) = re.findall(r"^words .*$", output, re.M)
    samples, noted = re.findall(r"\d[\d,]*", words)[:2]
    assert int(noted.replace(",", "")) == 32 * int(samples.replace(",", ""))
    assert re.search(r"proportion 3 .* 7[45]\.\d%", words)
    assert re.search(r"^other .*unknown.*proportion 1 .* 2[45]\.\d%", output, re.M)
    assert f"{method} batches" in output
    assert "8 rows = 2 data-parallel rank(s) * 2 rows * 2 micro-batch(es)" in output
    assert "step 2: 8 of its 8 rows, sample 8 and on" in output
    rows = re.findall(
        r"^row (\d): micro-batch (\d), rank (\d), row (\d); stream \"(\w+)\", (\S+), place",
        output,
        re.M,
    )
    assert [row[:4] for row in rows] == [
        (str(4 * m + 2 * r + i + 1), str(m + 1), str(r), str(i + 1))
        for m in range(2)
        for r in range(2)
        for i in range(2)
    ]
    names = [row[4] for row in rows]
    if method == "per_stream":
        assert len(set(names[:4])) == len(set(names[4:])) == 1
    elif method == "device_per_stream":
        assert all(names[n] == names[n + 1] for n in range(0, 8, 2))
    elif method == "stratified":
        assert names[:4].count("words") == names[4:].count("words") == 3
    if not tokens:
        assert re.search(r"^  \| .*(alpha|beta)", output, re.M)
    else:
        assert re.search(r"^  \| \d+ \d+", output, re.M)
    (picture,) = re.findall(r"^picture: (.*)$", output, re.M)
    assert Path(picture) == app.folder / "out" / "inspect-data-step-2.png"
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert not app.processes()


def test_mistakes(
    app: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config()
    config = ["--config-path", str(app.folder / "config.toml")]
    for arguments, expected in [
        (["--inspect-data", "0"], "--inspect-data must be a number of rows"),
        (["--inspect-data", "--at-step", "x"], "--at-step must be the number of a step"),
        (["--inspect-data", "--mosaic_dataloader.dataset.packing"], "packing false"),
        (["--at-step", "3"], "--at-step belongs to --inspect-data"),
        (["--inspect-data", "--inspect-data"], "given twice"),
        (["--inspect-data", "--mosaic_dataloader.skip_samples", "-1"], "skip_samples"),
        (["--inspect-data", "--job.dump_folder", "/proc/none"], "/proc/none.*job.dump_folder"),
    ]:
        capfd.readouterr()
        assert cli.main([*config, *arguments]) == 2, arguments
        lines = capfd.readouterr().err.splitlines()
        assert len([line for line in lines if line.startswith("error: ")]) == 1
        assert re.search(expected, lines[-1]), lines
    for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert cli.main([*config, "--inspect-data"]) == 2
    assert "without torchrun" in capfd.readouterr().err
