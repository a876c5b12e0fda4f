"""The tests' side of the rank server, and the configuration that ranks are given."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warm import TESTS

from integration_support.ledger import LEDGER, RankLedger

APP = TESTS.parent / "apps" / "train"
SEQ_LEN = 32
# Variables of a rank, were the tests to run in one, and of whoever runs the tests.
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "MASTER_", "MOSAIC_", "SLURM_", "TORCHELASTIC")

CONFIG = f"""
[job]
dump_folder = "out"
[model]
name = "tiny"
flavor = "tiny"
[experimental]
custom_import = "integration_support.recording"
[mosaic_dataloader.dataset]
shuffle = true
[training]
local_batch_size = 4
seq_len = {SEQ_LEN}
steps = 3
mixed_precision_param = "float32"
[lr_scheduler]
warmup_steps = 2
total_steps = 1000
[activation_checkpoint]
mode = "none"
[metrics]
log_freq = 1
disable_color_printing = true
[checkpoint]
interval = 100000
last_save_model_only = false
keep_latest_k = 0
[debug]
seed = 7
"""


def environment() -> dict[str, str]:
    """The environment of a process that runs ranks."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    path = [str(TESTS), str(APP), *kept.get("PYTHONPATH", "").split(os.pathsep)]
    return kept | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        # Several ranks share the cores: more threads would only wait for one another.
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


@dataclass(frozen=True)
class Outcome:
    """What became of a group of ranks."""

    folder: Path
    codes: list[int]

    def ledger(self, rank: int) -> RankLedger:
        """What one rank noted."""
        return RankLedger.read(self.folder, rank)

    @property
    def ledgers(self) -> list[RankLedger]:
        """What each rank noted, by rank."""
        return [self.ledger(rank) for rank in range(len(self.codes))]

    def log(self, rank: int) -> str:
        """What a rank printed."""
        return (self.folder / f"rank{rank}.log").read_text()

    def succeeded(self) -> "Outcome":
        """Itself, if all ranks ended well; else an error with the ends of their logs."""
        if any(self.codes):
            ends = [f"--- rank {r}\n{self.log(r)[-3000:]}" for r in range(len(self.codes))]
            raise AssertionError(f"exit codes {self.codes}\n" + "\n".join(ends))
        return self


@dataclass(frozen=True)
class Numbered:
    """A data set of rows that all say which they are.

    Attributes:
        local: Its directory.
        size: Its rows, numbered from `first`; each token of a row is its number.
        order: Row numbers in the order of an uninterrupted, unsharded run (`shuffle = true`).
    """

    local: str
    size: int
    order: list[int]


class RankServer:
    """Groups of ranks, each a new process; see `integration_support.server`.

    Args:
        process: Runs `integration_support.server`.
        folder: Where each group gets a folder for its ledger, logs and `out`.
    """

    def __init__(self, process: Any, folder: Path) -> None:
        self.folder = folder
        self._numbers = itertools.count()
        self._process = process

    def run(
        self,
        task: str,
        world: int = 1,
        *,
        folder: Path | None = None,
        env: dict[str, str] | None = None,
        **arguments: Any,
    ) -> Outcome:
        """Run a task of `integration_support.tasks` in so many new processes."""
        folder = folder or self.new_folder(task)
        for old in folder.glob("rank*"):
            old.unlink()
        job = {"task": task, "world": world, "folder": str(folder), "env": env or {}}
        self._process.stdin.write(json.dumps(job | {"arguments": arguments}).encode() + b"\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the rank server ended with code {self._process.wait(10)}"
        return Outcome(folder, json.loads(answer)["codes"])

    def train(
        self,
        world: int,
        *options: str,
        folder: Path | None = None,
        env: dict[str, str] | None = None,
        **arguments: Any,
    ) -> Outcome:
        """Run the app's ranks with `CONFIG` and further options of its command line."""
        folder = folder or self.new_folder("train")
        argv = command_line(folder, *options)
        return self.run("app", world, folder=folder, env=env, argv=argv, **arguments)

    def new_folder(self, name: str) -> Path:
        """A folder of its own for a group."""
        folder = self.folder / f"{next(self._numbers):03}-{name}"
        folder.mkdir(parents=True)
        return folder

    def close(self) -> None:
        """End the server, and whatever still runs in it."""
        self._process.stdin.close()
        self._process.wait(10)


def train_with_command(world: int, *options: str, folder: Path) -> Outcome:
    """Run the app as a user does, on the GPUs of this machine if it has any."""
    for old in folder.glob("rank*"):
        old.unlink()
    command = [sys.executable, str(APP), *command_line(folder, *options)]
    with open(folder / "output.log", "w") as log:
        result = subprocess.run(
            [*command, "--nproc-per-node", str(world)],
            env=environment() | {LEDGER: str(folder)},
            stdout=log,
            stderr=subprocess.STDOUT,
            timeout=400,
        )
    assert result.returncode == 0, (folder / "output.log").read_text()[-6000:]
    return Outcome(folder, [0] * world)


def command_line(folder: Path, *options: str) -> list[str]:
    """The app's command line for a folder of its own."""
    path = folder / "config.toml"
    path.write_text(CONFIG)
    return ["--config-path", str(path), "--job.dump_folder", str(folder / "out"), *options]


def stream(name: str, local: str, **options: Any) -> list[str]:
    """Command-line options that add a training stream."""
    place = f"--mosaic_dataloader.dataset.streams.{name}"
    more = [(f"{place}.{key}", str(value)) for key, value in options.items()]
    return [f"{place}.local", local, *(part for pair in more for part in pair)]
