"""What the loader counts reaches the log and TensorBoard, through ranks and restarts."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from streaming import MDSWriter
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mosaic_dataloader.inspect.previews import origins
from mosaic_train import cli

# A spec with a metrics processor of its own, as somebody's project may have one; and a small model.
OWN = """
import dataclasses
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.models.llama3 import get_train_spec
from torchtitan.protocols.train_spec import register_train_spec
class Own(MetricsProcessor):
    def log(self, step, *args, extra_metrics=None, **more):
        super().log(step, *args, extra_metrics={**extra_metrics, "own/twice": 2 * step}, **more)
def build(job_config, parallel_dims, model_args=None, tag=None):
    return Own(job_config, parallel_dims, tag)
spec = get_train_spec()
small = dataclasses.replace(spec.model_args["debugmodel"], n_layers=1)
register_train_spec(
    "own",
    dataclasses.replace(
        spec, model_args={"debugmodel": small}, build_metrics_processor_fn=build
    ),
)
"""
SKIPPED, ROWS = 9, 4


def write_texts(folder: Path) -> None:
    """Documents shorter and longer than a row."""
    with MDSWriter(out=str(folder), columns={"text": "str"}, size_limit=4000) as writer:
        for number in range(40):
            writer.write({"text": "alpha beta gamma " * (1 + number % 9)})


# The second stage begins in step 3, with its second row.
STAGES = [
    {"samples": SKIPPED + 2 * ROWS + 1, "weights": {"words": 0.75, "texts": 0.25}},
    {"weights": {"words": 0.25, "texts": 0.75}},
]


def expected(app: Any, texts: Path, batches: int, logged: int) -> dict[str, Any]:
    """Counted from the rows themselves by a loader that knows of no other rank.

    Args:
        app: Has the data.
        texts: More data.
        batches: The step.
        logged: The step that was logged before, or that was resumed from.
    """
    from transformers import AutoTokenizer

    from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

    streams = {
        "words": {"local": f"{app.data}/data"},
        "texts": {"local": str(texts)},
    }
    tokenizer = AutoTokenizer.from_pretrained(f"{app.data}/tokenizer")
    dataset = StreamingTextDataset(
        tokenizer=tokenizer, seq_len=32, streams=streams, shuffle=True, stages=STAGES
    )
    loader = MosaicParallelAwareDataloader(
        dataset, dp_rank=0, dp_world_size=1, batch_size=ROWS, skip_samples=SKIPPED
    )
    samples: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    before: Counter[str] = Counter()
    for (_, labels), number in zip(loader, range(batches), strict=False):
        if number == logged:
            before = samples.copy()
        begin = SKIPPED + samples.total()
        for row, origin in zip(labels, origins(loader, begin), strict=True):
            samples[origin.stream] += 1
            tokens[origin.stream] += int((row != -100).sum())
    length = loader.epoch_samples
    loader.close()
    stage = int(SKIPPED + samples.total() > STAGES[0]["samples"])
    recent = samples - before
    return {
        "data/stage": 1 + stage,
        **{f"data/{name}/weight": STAGES[stage]["weights"][name] for name in streams},
        **{f"data/{name}/share": recent[name] / recent.total() for name in streams},
        "data/epoch": (SKIPPED + samples.total()) / length,
        "data/samples_seen": samples.total(),
        "data/tokens_seen": tokens.total(),
        **{f"data/{name}/samples": samples[name] for name in streams},
        **{f"data/{name}/tokens": tokens[name] for name in streams},
    }


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """What TensorBoard shows, by tag and step."""
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.rglob("events.out.*")):
        events = EventAccumulator(str(path)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, {}).update((e.step, e.value) for e in events.Scalars(tag))
    return found


@pytest.mark.slow
def test_counts_through_two_ranks_and_a_restart(
    app: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers are those of the rows, through two stages and an unlogged step's checkpoint."""
    texts = app.folder / "texts"
    write_texts(texts)
    (app.folder / "own.py").write_text(OWN)
    config = app.config(
        ("log_freq = 1", "log_freq = 2\nenable_tensorboard = true"),
        ('name = "llama3"', 'name = "own"'),
        extra=(
            f'[mosaic_dataloader.dataset.streams.texts]\nremote = "{texts}"\n'
            f'local = "{app.folder}/cache"\n'
            "[[mosaic_dataloader.dataset.stages]]\n"
            f"samples = {STAGES[0]['samples']}\nweights = {{ words = 0.75, texts = 0.25 }}\n"
            "[[mosaic_dataloader.dataset.stages]]\nweights = { words = 0.25, texts = 0.75 }\n"
            f"[mosaic_dataloader]\nskip_samples = {SKIPPED}\n"
            '[experimental]\ncustom_import = "own"\n'
        ),
    )
    options = ("--config-path", config, "--training.local_batch_size")
    path = {"PYTHONPATH": str(app.folder)}
    # Step 3 is saved and not logged.
    first = app.forked(*options, "2", "--nproc-per-node", "2", "--training.steps", "3", **path)
    assert first.returncode == 0, first.stdout + first.stderr
    begin = f"the run begins at sample {SKIPPED} of the order, in stage 1 of 2: "
    assert f"{begin}words 0.75, texts 0.25" in first.stdout
    assert first.stdout.count("stage 2 of 2 begins at step 3: words 0.25, texts 0.75") == 1

    # What is looked at now is what comes next.
    monkeypatch.syspath_prepend(str(app.folder))
    monkeypatch.setattr("mosaic_train.launch.ranks_on_this_machine", lambda wanted: wanted or 1)
    looked = [*map(str, options), str(ROWS), "--inspect-data", "2", "--training.steps", "6"]
    assert cli.main(looked) == 0
    shown = capfd.readouterr().out
    begin = SKIPPED + 3 * ROWS
    assert re.search(
        rf"resumes from .*step-3, step 3, at sample {begin} of the order, in sta", shown
    )
    assert f"step 4: 2 of its 4 rows, sample {begin} and on" in shown
    # A step that lies behind can be looked at too, but none before the order begins.
    assert cli.main([*looked, "--at-step", "1"]) == 0
    assert f"step 1: 2 of its 4 rows, sample {SKIPPED} and on" in capfd.readouterr().out

    second = app.forked(
        *options, str(ROWS), "--nproc-per-node", "1", "--training.steps", "6", **path
    )
    assert second.returncode == 0, second.stdout + second.stderr
    found = scalars(app.folder / "out" / "tb")
    for step, logged in ((1, 0), (2, 1), (4, 3), (6, 4)):
        for tag, value in expected(app, texts, step, logged).items():
            assert found[tag][step] == pytest.approx(value, rel=1e-6), (tag, step)
        assert found["own/twice"][step] == 2 * step
        assert "loss_metrics/global_avg_loss" in found
    # Two ranks of one machine fetched what lies in its cache, and the second run found it there.
    cached = [path.stat().st_size for path in (app.folder / "cache").glob("*.mds")]
    for name, total in (("shards", len(cached)), ("bytes", sum(cached))):
        loaded = found[f"loading/texts/{name}_fetched"]
        assert sum(loaded.values()) == total > 0
        assert loaded[6] == loaded[4] == 0
    assert sum(found["loading/cache_hits"].values()) > 0
    assert found["loading/texts_per_second"][1] > 0
    for step in (1, 2, 4, 6):
        assert 0 <= found["loading/wait_per_step(s)"][step] < 60
        assert 0 <= found["loading/batches_ready"][step] <= 16
    assert re.search(r"data wait: [\d.,]+ ms/step  ready: \d+  .*texts/s: ", second.stdout)
    assert "fetched: " in first.stdout and "(texts " in first.stdout
    padded = found["data/samples_seen"][6] * 32 - found["data/tokens_seen"][6]
    assert padded > 0, "no row was short"
    lines = [line for line in second.stdout.splitlines() if "step:  6" in line]
    assert len(lines) == 1
    assert re.search(
        r"loss: .*mfu: .*stage: 2  epoch: 0\.\d+  samples: 24 \(words \d+, texts \d+\)", lines[0]
    )
    assert f"resumes at sample {begin} of the order, in stage 2 of 2: words" in second.stdout
    assert "begins at step" not in second.stdout
    assert "has no effect" in second.stdout


# Documents' tokens tell their stream, and the last one of each that it ends.
BASES, END, PACKED_SKIP, LANES = {"low": 0, "high": 200}, 99, 16, 8


def write_documents(folder: Path, base: int) -> int:
    """Documents shorter than a row, so that a run has epochs' ends in it; returns their number."""
    with MDSWriter(out=str(folder), columns={"tokens": "ndarray:int32"}) as writer:
        for number in range(24):
            row = np.arange(1 + (5 * number + base) % 14, dtype=np.int32)
            writer.write({"tokens": np.append(row, END).astype(np.int32) + base})
    return 24


def packed_rows(streams: dict[str, Any], count: int) -> list[tuple[list[int], list[int]]]:
    """Inputs and labels of the run's first rows, by a single rank that counts nothing."""
    from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

    dataset = StreamingTextDataset(
        seq_len=32, streams=streams, shuffle=True, packing=True, packing_lanes=LANES
    )
    loader = MosaicParallelAwareDataloader(
        dataset, dp_rank=0, dp_world_size=1, batch_size=1, skip_samples=PACKED_SKIP
    )
    found = [
        (inputs["input"][0].tolist(), labels[0].tolist())
        for (inputs, labels), _ in zip(loader, range(count), strict=False)
    ]
    loader.close()
    return found


def of_stream(tokens: list[int], name: str) -> list[int]:
    """Those of a stream, as it writes them."""
    return [token - BASES[name] for token in tokens if 0 <= token - BASES[name] <= END]


@pytest.mark.slow
def test_counts_of_packed_documents_through_two_ranks_and_a_restart(
    app: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for packed rows, of which each rank knows only its own documents."""
    streams = {name: {"local": str(app.folder / name)} for name in BASES}
    documents = sum(write_documents(app.folder / name, base) for name, base in BASES.items())
    config = app.config(
        (f'[mosaic_tokenizer]\nname = "{app.data}/tokenizer"\n', ""),
        ("shuffle = true", f"shuffle = true\npacking = true\npacking_lanes = {LANES}"),
        (f'words]\nlocal = "{app.data}/data"', f'low]\nlocal = "{app.folder}/low"'),
        ("log_freq = 1", "log_freq = 2\nenable_tensorboard = true"),
        ('name = "llama3"', 'name = "own"'),
        extra=(
            '[experimental]\ncustom_import = "own"\n'
            f'[mosaic_dataloader.dataset.streams.high]\nlocal = "{app.folder}/high"\n'
            f"[mosaic_dataloader]\nskip_samples = {PACKED_SKIP}\n"
        ),
    )
    options = ("--config-path", config, "--training.local_batch_size")
    (app.folder / "own.py").write_text(OWN)
    path = {"PYTHONPATH": str(app.folder)}
    # Step 5 is saved and not logged.
    first = app.forked(*options, "2", "--nproc-per-node", "2", "--training.steps", "5", **path)
    assert first.returncode == 0, first.stdout + first.stderr

    # What is looked at now is what comes next; the saved lanes are where it goes on.
    monkeypatch.syspath_prepend(str(app.folder))
    monkeypatch.setattr("mosaic_train.launch.ranks_on_this_machine", lambda wanted: wanted or 1)
    looked = [*map(str, options), str(ROWS), "--inspect-data", "4", "--training.steps", "8"]
    rows = packed_rows(streams, 8 * ROWS)
    for arguments, begin, read in [
        ([], 5 * ROWS, None),
        (["--at-step", "7"], 6 * ROWS, ROWS),
        (["--at-step", "2"], ROWS, ROWS),
    ]:
        capfd.readouterr()
        assert cli.main([*looked, *arguments]) == 0
        shown, errors = capfd.readouterr()
        assert re.search(r"resumes from .*step-5, step 5, at row 20 of the run", shown)
        found = re.findall(r"^  \| (\d[\d ]*)$", shown, re.M)
        expected_ids = [token for inputs, _ in rows[begin : begin + ROWS] for token in inputs]
        assert [int(n) for n in " ".join(found).split()] == expected_ids
        progress = re.findall(r"packing: read (\d+) of (\d+) rows", errors)
        assert progress == ([] if read is None else [(str(read), str(read))])

    second = app.forked(
        *options, str(ROWS), "--nproc-per-node", "1", "--training.steps", "8", **path
    )
    assert second.returncode == 0, second.stdout + second.stderr
    found_scalars = scalars(app.folder / "out" / "tb")
    for step, world_size in ((1, 2), (2, 2), (4, 2), (6, 1), (8, 1)):
        seen = rows[: step * ROWS]
        # Rank 0 logs, and reads every other lane where there are two.
        own = [inputs for number, (inputs, _) in enumerate(seen) if number % world_size == 0]
        behind = sum(of_stream(row, name).count(END) for row in own for name in BASES)
        share = 1 / world_size
        expected_values = {
            "data/epoch": (behind + share * PACKED_SKIP) / (share * documents),
            "data/samples_seen": step * ROWS,
            "data/tokens_seen": step * ROWS * 32,
        }
        for name in BASES:
            expected_values[f"data/{name}/samples"] = sum(
                of_stream(inputs, name).count(END) for inputs, _ in seen
            )
            expected_values[f"data/{name}/tokens"] = sum(
                len(of_stream(labels, name)) for _, labels in seen
            )
        for tag, value in expected_values.items():
            assert found_scalars[tag][step] == pytest.approx(value, rel=1e-6), (tag, step)
    assert found_scalars["data/epoch"][8] > 2, "the run crossed no epoch's end"
    (line,) = [line for line in second.stdout.splitlines() if "step:  8" in line]
    assert re.search(r"epoch: 2\.\d+  rows: 32  documents: \d+ \(low \d+, high \d+\)", line)
