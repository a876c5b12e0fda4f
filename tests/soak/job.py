"""The job that is killed: its configuration, its lives, its processes."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration_support.fork_client import ForkServer

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "apps" / "train"
# Variables of a rank, were the tests to run in one, and of whoever runs the tests.
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "MOSAIC_TRAIN", "SLURM_", "TORCHELASTIC")
SEQ_LEN = 16

CONFIG = """
[job]
dump_folder = "{folder}/out"
[mosaic_dataloader.dataset]
shuffle = true
shuffle_block_size = {block}
num_canonical_nodes = {canonical}
cache_limit = {cache_limit}
[mosaic_dataloader.dataset.streams.rows]
remote = "{remote}"
local = "{folder}/cache"
[model]
name = "llama3"
flavor = "soak"
[training]
seq_len = {seq_len}
steps = 1000000
mixed_precision_param = "float32"
[lr_scheduler]
warmup_steps = 2
total_steps = 100000
[activation_checkpoint]
mode = "none"
[metrics]
log_freq = 100
disable_color_printing = true
[checkpoint]
enable = true
interval = {interval}
keep_latest_k = 3
last_save_model_only = false
[experimental]
custom_import = "soak_ledger"
[debug]
seed = 7
"""


class Job:
    """One training job over all its lives.

    Args:
        folder: Everything that the job writes goes below it, temporary files too.
        options: Values for the places in `CONFIG`.
        seconds_per_shard: How long the store takes for a shard.
    """

    def __init__(self, folder: Path, *, seconds_per_shard: float, **options: Any):
        self.folder = folder
        self.cache = folder / "cache"
        self.checkpoints = folder / "out" / "checkpoint"
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.ledger = folder / "ledger"
        self.config = folder / "config.toml"
        self.config.write_text(CONFIG.format(folder=folder, seq_len=SEQ_LEN, **options))
        self.mark = f"SOAK_JOB={uuid.uuid4().hex}"
        self.seen: set[int] = set()
        name, _, value = self.mark.partition("=")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
        self.environment = kept | {
            name: value,
            "SOAK_LEDGER": str(self.ledger),
            "SOAK_SECONDS_PER_SHARD": str(seconds_per_shard),
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(APP)]),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
        }
        # An interpreter of its own, whose environment shows in /proc.
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "integration_support" / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=open(folder / "fork_server.log", "wb"),  # noqa: SIM115
            env=self.environment,
            # Its end is the end of all that it forked, and of nobody else.
            start_new_session=True,
        )
        self._server = ForkServer(server)

    def start(self, number: int, arguments: list[str], *, forked: bool) -> "LifeProcesses":
        """Start the job: forked from the server, or as a user does."""
        log = self.folder / f"life-{number}.log"
        env = {"SOAK_LIFE": str(number)}
        arguments = ["--config-path", str(self.config), *arguments]
        if not forked:
            with open(log, "ab") as out:
                process = subprocess.Popen(
                    [sys.executable, str(APP), *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    env=self.environment | env,
                )
            return LifeProcesses(self, process.pid, log, process.poll)
        pid = self._server.start(arguments, log, env=env)

        def code() -> int | None:
            self._server.listen(0)
            return self._server.codes.get(pid)

        return LifeProcesses(self, pid, log, code)

    def processes(self) -> dict[int, int]:
        """All live processes of the job but the fork server, with their parents."""
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if self.mark.encode() not in (path / "environ").read_bytes():
                    continue
                state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z" and int(path.name) != self._server.pid:
                found[int(path.name)] = int(parent)
        self.seen |= set(found)
        return found

    def complete_step(self) -> int:
        """Step of the last complete checkpoint, 0 if there is none."""
        done = [int(p.parent.name[5:]) for p in self.checkpoints.glob("step-*/.metadata")]
        return max(done, default=0)

    def writes_checkpoint(self) -> bool:
        """Whether a checkpoint is begun and not complete, beyond those of earlier lives."""
        last = self.complete_step()
        return any(
            int(p.name[5:]) > last and not (p / ".metadata").exists() and any(p.iterdir())
            for p in self.checkpoints.glob("step-*")
        )

    def downloads(self) -> bool:
        """Whether a shard is on its way into the cache."""
        return any(self.cache.glob(".mosaic/staging/*/*"))

    def shards(self) -> set[str]:
        """Shards that are in the cache."""
        return {p.name for p in self.cache.glob("*.mds")}

    def close(self) -> None:
        """End everything."""
        self._server.close()


class LifeProcesses:
    """The processes of one life.

    Args:
        job: The job.
        launcher: Process id of the launcher.
        log: What they print.
        code: The launcher's exit code, None while it runs.
    """

    def __init__(self, job: Job, launcher: int, log: Path, code: Callable[[], int | None]):
        self.job = job
        self.launcher = launcher
        self.log = log
        self.code = code

    def ranks(self) -> list[int]:
        """Children of the launcher."""
        return [p for p, parent in self.job.processes().items() if parent == self.launcher]

    def workers(self) -> list[int]:
        """Children of the ranks."""
        processes = self.job.processes()
        ranks = {p for p, parent in processes.items() if parent == self.launcher}
        return [p for p, parent in processes.items() if parent in ranks]

    def first_step(self) -> int | None:
        """The step that training began with, once it says so."""
        found = re.search(r"Training starts at step (\d+)", self.log.read_text())
        return int(found[1]) if found else None

    def wait_for(self, moment: Callable[[], bool], seconds: float) -> bool:
        """Wait until a moment has come; False if it did not."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if moment():
                return True
            self.require_alive()
            time.sleep(0.004)
        return False

    def require_alive(self) -> None:
        """Nobody may end a life but the test."""
        code = self.code()
        assert code is None, f"ended by itself with {code}:\n{self.log.read_text()[-6000:]}"

    def wait(self, seconds: float) -> int:
        """The launcher's exit code, when it and its ranks are gone."""
        deadline = time.monotonic() + seconds
        while (code := self.code()) is None or self._survivors():
            assert time.monotonic() < deadline, (
                f"{self.log.read_text()[-6000:]}\nstill there: {self._survivors()}"
            )
            time.sleep(0.05)
        return code

    def _survivors(self) -> list[int]:
        return [p for p in self._known_ranks if Path(f"/proc/{p}").exists() and not _zombie(p)]

    _known_ranks: tuple[int, ...] = ()

    def kill(self, victims: list[int]) -> None:
        """SIGKILL."""
        self._known_ranks = tuple(self.ranks())
        for pid in victims:
            os.kill(pid, signal.SIGKILL)


def _zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
