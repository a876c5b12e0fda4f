"""`--inspect-data`: no rank is started, and what is shown is what would be trained on."""

import logging
import re
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import MDSWriter

from mosaic_dataloader import MosaicParallelAwareDataloader
from mosaic_dataloader.inspect.text import real_tokens, row_lines
from mosaic_train import cli


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
    # The documents of a packed row, one of which begins with its last label.
    assert row_lines([2, 1, 3, 1, 4], [1, 3, 1, 4, 5], Letters(), [0, 2, 4, 5]) == [
        "  | ════════ document 1 ════════",
        "  | a",
        "  | ──────── EOS </s> ────────",
        "  |",
        "  | ════════ document 2 ════════",
        "  | b",
        "  | ──────── EOS </s> ────────",
        "  |",
        "  | ════════ document 3 ════════",
        "  | c",
    ]
    assert row_lines([2, 1, 3], [1, 3, -100], None, [0, 2]) == [
        "  | ════════ document 1 ════════",
        "  | 2 1",
        "  | ════════ document 2 ════════",
        "  | ⟦3⟧",
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
    options = ["--nproc-per-node", "2", "--training.global_batch_size", "8", "--nodes", "2"]
    output = shown(app, capfd, "--inspect-data", "8", "--at-step=2", *options)
    assert "2 canonical node(s)" in output
    assert "fetch: nothing: the data is read in place, or no step is left" in output

    words, weighed = re.findall(r"^ *(words .*)$", output, re.M)
    samples, noted = re.findall(r"\d[\d,]*", words)[:2]
    # Every token but the first one of the (only) unit of work is a target once.
    assert int(noted.replace(",", "")) == 32 * int(samples.replace(",", "")) + 1
    assert re.search(r"proportion 3 .* 7[45]\.\d%", weighed)
    assert re.search(r"^other .*unknown", output, re.M)
    assert re.search(r"^   other +proportion 1 +\d .* 2[45]\.\d%", output, re.M)
    assert re.search(r"^└─ epochs of [\d,]+ samples: steps 1 to 2, samples 0 to 15$", output, re.M)
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


def test_stages_of_the_command_line_are_a_tree_with_steps(
    app: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Two ranks of two rows; the first stage ends inside a step, the third after the run."""
    with MDSWriter(out=str(tmp_path), columns={"text": "str"}) as writer:
        for _ in range(8):
            writer.write({"text": "alpha beta\n" * 40})
    app.config(extra=f'[mosaic_dataloader.dataset.streams.other]\nlocal = "{tmp_path}"\n')
    stages = "--mosaic_dataloader.dataset.stages"
    whole = "[{samples = 10, weights = {words = 1}}, {samples = 9_000, weights = {words = 1}}]"
    given = [stages, whole, f"{stages}.2.weights.other", "3", f"{stages}.3.weights.other=1"]
    run = ["--training.steps", "12", "--nproc-per-node", "2"]
    output = shown(app, capfd, "--inspect-data", "1", "--at-step", "3", *run, *given)
    titles = re.findall(r"^[├└]─ (.*)$", output, re.M)
    assert titles == [
        "stage 1 of 3: steps 1 to 3, samples 0 to 9",
        "stage 2 of 3: steps 3 to 12, samples 10 to 47",
        "stage 3 of 3: begins at sample 9,010, after the end of the run",
        "the whole run: steps 1 to 12, samples 0 to 47",
    ]
    assert "run:   begins at sample 0 of the order, in stage 1 of 3; 12 steps end at" in output
    rows = [line.split() for line in output.splitlines() if line.startswith(("│  ", "   "))]
    first, second, other, _, whole_other = (
        row for row in (r[1:] if r[0] == "│" else r for r in rows) if row[0] in ("words", "other")
    )
    assert first[1:5] == ["1", "10", "100.0%", "320"]
    assert (second[1], other[1]) == ("0.25", "0.75")
    drawn = int(other[2])
    assert int(second[2]) == 38 - drawn
    # Each is cut to a row.
    assert int(other[4].replace(",", "")) == 32 * drawn
    assert other[-2:] == [f"{drawn / 8:.2f}", "times"]
    assert whole_other[1:3] == [f"{drawn}", f"{drawn / 48:.1%}"]
    (picture,) = re.findall(r"^picture: (.*)$", output, re.M)
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("tokens", [True, False])
def test_packed_rows_are_those_of_the_ranks(
    app: Any, capfd: pytest.CaptureFixture[str], tmp_path: Path, tokens: bool
) -> None:
    """As ids against what each rank's loader hands out; as text with its documents' borders."""
    from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

    names, lengths = ("low", "high"), {}
    for base, name in enumerate(names):
        columns = {"tokens": "ndarray:int32"} if tokens else {"text": "str"}
        lengths[name] = [1 + (7 * n + base) % 45 for n in range(50)]
        with MDSWriter(out=str(tmp_path / name), columns=columns, size_limit=2000) as writer:
            for number, length in enumerate(lengths[name]):
                row = 1000 * base + 10 * number + np.arange(length, dtype=np.int32)
                writer.write({"tokens": row} if tokens else {"text": f"d{number} " * length})
    changes = [
        ("shuffle = true", "shuffle = true\npacking = true\npacking_lanes = 8"),
        (f'words]\nlocal = "{app.data}/data"', f'low]\nlocal = "{tmp_path}/low"'),
    ]
    if tokens:
        changes.append((f'[mosaic_tokenizer]\nname = "{app.data}/tokenizer"\n', ""))
    app.config(
        *changes,
        extra=f'[mosaic_dataloader.dataset.streams.high]\nlocal = "{tmp_path}/high"\n'
        "[mosaic_dataloader]\nskip_samples = 20\n",
    )
    options = ["--nproc-per-node", "2", "--training.global_batch_size", "8"]
    capfd.readouterr()
    path = str(app.folder / "config.toml")
    assert cli.main(["--config-path", path, "--inspect-data", "8", "--at-step=3", *options]) == 0
    output, errors = capfd.readouterr()
    assert "packing: read 16 of 16 rows before step 3" in errors
    assert "random batches; 1 canonical node(s); 100 documents an epoch" in output
    assert "begins at row 0 of the run (20 documents skipped); 2 steps end at row 16 of" in output
    assert re.search(r"after about \d\.\d\d epochs", output)
    assert "step 3: 8 of its 8 rows, row 16 and on" in output
    header, *blocks = re.split(r"^row \d+: ", output, flags=re.M)
    assert len(blocks) == 8
    (picture,) = re.findall(r"^picture: (.*)$", header, re.M)
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    if not tokens:
        for block in blocks:
            documents = re.findall(r"^  document \d+: ", block, re.M)
            borders = re.findall(r"^  \| ═+ document \d+ ═+$", block, re.M)
            # One may begin with the last label of a row, which is not among its inputs.
            assert len(documents) - len(borders) in (0, 1)
            assert block.count("EOS </s>" if "</s>" in block else "EOS") >= len(borders) - 1
            assert re.search(r"^  \| .*d\d+ d\d+", block, re.M)
        return
    dataset = StreamingTextDataset(
        seq_len=32,
        streams={name: {"local": str(tmp_path / name)} for name in names},
        shuffle=True,
        packing=True,
        packing_lanes=8,
    )
    for rank in range(2):
        loader = MosaicParallelAwareDataloader(
            dataset, dp_rank=rank, dp_world_size=2, batch_size=2, skip_samples=20
        )
        for number, (inputs, labels) in enumerate(islice(iter(loader), 4, 6), 1):
            for row in range(2):
                where = f"micro-batch {number}, rank {rank}, row {row + 1}; lane "
                (block,) = [b for b in blocks if b.startswith(where)]
                assert "32 tokens, 32 targets, 0 labels ignored" in block
                shown = re.findall(r"^  \| (\d[\d ]*)$", block, re.M)
                assert [int(n) for n in " ".join(shown).split()] == inputs["input"][row].tolist()
                own = [*inputs["input"][row].tolist(), labels[row, -1].item()]
                place = 0
                for stream, sample, epoch, first, last, length, begin in re.findall(
                    r'^  document \d+: stream "(\w+)", shard\S+, place \d+ \(sample (\d+) of .*; '
                    r"epoch (\d+); its tokens (\d+) to (\d+) of (\d+), from token (\d+) of",
                    block,
                    re.M,
                ):
                    assert (int(begin) - 1, epoch) == (place, "0")
                    assert lengths[stream][int(sample)] == int(length)
                    base = 1000 * names.index(stream) + 10 * int(sample)
                    piece = [base + n for n in range(int(first) - 1, int(last))]
                    assert own[place : place + len(piece)] == piece
                    place += len(piece)
                assert place == 33
        loader.close()


def test_the_checks_of_a_run_alone_and_before_its_data(
    app: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--check` prints the plan, or every mistake; data is shown whatever else is wrong."""
    app.config()
    output = shown(app, capfd, "--check", "--nproc-per-node", "2", "--metrics.enable_tensorboard")
    assert re.search(r"INFO - checked llama3 debugmodel, .*: all is well", output)
    for line in (
        r"words +\d+ +\d[\d,]* ",
        r"step:  4 rows = 2 data-parallel rank\(s\) \* 2 rows \* 1 micro-batch",
        r"run:   begins at .*; 2 steps end at sample 8 of",
        r"model: llama3 debugmodel, \d,\d{3},\d{3} parameters$",
        r"ranks: 2 = FSDP 2$",
        rf"saves: {app.folder}/out/checkpoint, first after step 2, then every 1,000 steps and at",
        rf"logs:  every step, TensorBoard in {app.folder}/out/tb$",
    ):
        assert re.search(f"^{line}", output, re.M), (line, output)

    config = ["--config-path", str(app.folder / "config.toml")]
    # What is opened for the checks and for the plan is warned of once.
    with monkeypatch.context() as patch:
        warn = logging.getLogger("mosaic_dataloader.run").warning
        patch.setattr(MosaicParallelAwareDataloader, "check", lambda _: warn("a new stage begins"))
        output = shown(app, capfd, "--check")
    assert output.count("a new stage begins") == 1
    # The data can be read all the same.
    wrong = ["--training.seq_len", "31", "--lr_scheduler.warmup_steps", "-1"]
    for look, rows in (("--check", 0), ("--inspect-data", 2)):
        capfd.readouterr()
        assert cli.main([*config, look, *wrong]) == 2
        captured = capfd.readouterr()
        assert len(app.error_lines(captured.err)) == 2, captured.err
        assert len(re.findall(r"^row \d:", captured.out, re.M)) == rows


def test_mistakes(
    app: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    app.config()
    config = ["--config-path", str(app.folder / "config.toml")]
    for arguments, expected in [
        (["--inspect-data", "0"], "--inspect-data must be a number of rows"),
        (["--inspect-data", "--at-step", "x"], "--at-step must be the number of a step"),
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
