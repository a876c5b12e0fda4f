"""Each example learns, and goes on after a kill with the very next batch."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STEPS, SAVE_EVERY, KILLED_AFTER = 24, 5, 13
# A start imports torch and a trainer in every process.
PATIENCE = 240


def command(name: str, out: Path, ranks: int) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(ranks)]
    options = ["--out", str(out), "--steps", str(STEPS), "--save-every", str(SAVE_EVERY)]
    return [*launcher, "--standalone", "-m", f"examples.{name}.train", *options]


def start(name: str, out: Path, ranks: int) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    out.mkdir(parents=True, exist_ok=True)
    with (out / "output.txt").open("ab") as output:
        return subprocess.Popen(
            command(name, out, ranks),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def finish(process: "subprocess.Popen[bytes]", out: Path) -> None:
    try:
        code = process.wait(PATIENCE)
    finally:
        kill(process)
    assert code == 0, (out / "output.txt").read_text()[-4000:]


def kill(process: "subprocess.Popen[bytes]") -> None:
    """End the launcher and all ranks at once, as a machine does that fails."""
    # Ranks are in sessions of their own where the launcher puts them there; ask the kernel.
    family, queue = [process.pid], [process.pid]
    while queue:
        children = Path(f"/proc/{queue.pop()}/task").glob("*/children")
        found = [int(pid) for file in children for pid in file.read_text().split()]
        family += found
        queue += found
    for pid in family:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def log_of(out: Path) -> list[dict[str, Any]]:
    """The lines that all ranks have written, whole ones."""
    lines = [
        line
        for file in sorted(out.glob("rank*.jsonl"))
        for line in file.read_text().splitlines(keepends=True)
    ]
    return [json.loads(line) for line in lines if line.endswith("\n")]


def kill_in_the_middle(process: "subprocess.Popen[bytes]", out: Path) -> None:
    """Kill a run between two checkpoints."""
    end = time.monotonic() + PATIENCE
    while max((line["step"] for line in log_of(out)), default=0) < KILLED_AFTER:
        assert process.poll() is None and time.monotonic() < end, (out / "output.txt").read_text()
        time.sleep(0.01)
    kill(process)


def batches(lines: list[dict[str, Any]]) -> dict[int, list[int]]:
    """The rows of each step, of all ranks together."""
    rows = defaultdict(list)
    for line in lines:
        rows[line["step"]] += line["rows"]
    return {step: sorted(found) for step, found in rows.items()}


def losses(lines: list[dict[str, Any]]) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in lines}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The log of a run that nothing interrupts: the same for every trainer and number of ranks."""
    out = tmp_path_factory.mktemp("straight")
    finish(start("fsdp2", out, 1), out)
    lines = log_of(out)
    assert sorted(batches(lines)) == list(range(1, STEPS + 1))
    return lines


# Ranks before and after the kill.
@pytest.mark.parametrize("ranks", [(1, 1), (2, 2), (2, 1)], ids=lambda r: f"{r[0]}-then-{r[1]}")
@pytest.mark.parametrize("name", ["fsdp2", "lightning", "accelerate"])
def test_an_example_learns_and_goes_on_exactly_after_a_kill(
    name: str, ranks: tuple[int, int], straight: Any, tmp_path: Path
) -> None:
    kill_in_the_middle(start(name, tmp_path, ranks[0]), tmp_path)
    before = log_of(tmp_path)
    for file in tmp_path.glob("rank*.jsonl"):
        file.unlink()
    finish(start(name, tmp_path, ranks[1]), tmp_path)
    after = log_of(tmp_path)

    last_saved = min(batches(after)) - 1
    assert last_saved % SAVE_EVERY == 0 and last_saved >= KILLED_AFTER - SAVE_EVERY
    assert max(batches(after)) == STEPS
    expected, expected_losses = batches(straight), losses(straight)
    # The steps after the last checkpoint are done twice, with the same rows.
    whole = {step for step, rows in batches(before).items() if len(rows) == len(expected[step])}
    assert len(whole) >= KILLED_AFTER - 1
    assert {step: batches(before)[step] for step in whole} == {s: expected[s] for s in whole}
    assert batches(after) == {s: expected[s] for s in range(last_saved + 1, STEPS + 1)}
    for lines in (before, after):
        for step, loss in losses(lines).items():
            assert loss == pytest.approx(expected_losses[step], rel=1e-3), step
    falling = [expected_losses[step] for step in sorted(expected_losses)]
    assert sum(falling[-4:]) < 0.9 * sum(falling[:4])


@pytest.mark.parametrize("name", ["lightning", "accelerate"])
def test_the_trainer_fetches_ahead_so_that_counting_what_it_was_handed_skips_a_batch(
    name: str, straight: Any, tmp_path: Path
) -> None:
    """What the examples are careful about is real: without it a resume is not exact."""
    careless = f"""
import sys
from mosaic_dataloader import MosaicParallelAwareDataloader as Loader
made = Loader.__init__
Loader.__init__ = lambda self, *a, confirm_batches, **k: made(self, *a, **k)
Loader.confirm = lambda self, batches=1: None
import examples.{name}.train as example
example.main()
"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for steps in (SAVE_EVERY, STEPS):
        options = ["--out", str(tmp_path), "--steps", str(steps), "--save-every", str(SAVE_EVERY)]
        run = [sys.executable, "-c", careless, *options]
        subprocess.run(run, cwd=ROOT, env=environment, check=True, timeout=PATIENCE)
    expected, found = batches(straight), batches(log_of(tmp_path))
    assert all(found[step] == expected[step] for step in range(1, SAVE_EVERY + 1))
    assert found[SAVE_EVERY + 1] == expected[SAVE_EVERY + 2]
