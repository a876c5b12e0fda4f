"""What the app's tests share: a small data set, a configuration for it, and the command.

It all hangs on one fixture, `app`, since test folders are not import paths here.
"""

import fcntl
import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Test modules are imported by path (importmode importlib), which leaves folders out.
sys.path.append(str(Path(__file__).resolve().parents[3] / "tests"))

from warm import SERVERS, start_if_wanted

from tests.integration_support.fork_client import ForkServer

# Before torch is imported: ranks, which share the cores, are forks of this process.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
APP = Path(__file__).resolve().parent.parent
LOSS = re.compile(r"step:\s*(\d+).*?loss:\s*([-\w.]+)")
# Variables of a rank, were the tests to run in one, and of whoever runs the tests.
FOREIGN = ("RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "MOSAIC_TRAIN", "SLURM_", "TORCHELASTIC")

CONFIG = """
[job]
dump_folder = "{folder}/out"
[mosaic_tokenizer]
name = "{data}/tokenizer"
[mosaic_dataloader.dataset]
shuffle = true
[mosaic_dataloader.dataset.streams.words]
local = "{data}/data"
[model]
name = "llama3"
flavor = "debugmodel"
[training]
local_batch_size = 2
seq_len = 32
steps = 2
mixed_precision_param = "float32"
[lr_scheduler]
warmup_steps = 2
total_steps = 100
[activation_checkpoint]
mode = "none"
[metrics]
log_freq = 1
disable_color_printing = true
[checkpoint]
enable = true
interval = 1000
last_save_model_only = false
[debug]
seed = 7
"""


def environment() -> dict[str, str]:
    """The environment of the command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    # Several tests run at once: more threads than cores would only wait for one another.
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class ForkedRun:
    """A launcher that was forked, and the files that hold its output and its errors."""

    pid: int
    out: Path
    errors: Path


class Launchers:
    """Runs of the app without the seconds that imports take: launcher and ranks are forks.

    Args:
        server: Forks them.
        folder: For what they print.
    """

    def __init__(self, server: ForkServer, folder: Path) -> None:
        self._server, self._folder = server, folder
        self._numbers = itertools.count()
        self.processes = server.processes

    def start(
        self, arguments: list[str], cwd: Path, env: dict[str, str], *, torchrun: bool = False
    ) -> "ForkedRun":
        """Start the app with these arguments; with `torchrun`, they are that command's."""
        out, errors = (self._folder / f"{next(self._numbers)}-{n}" for n in ("out", "errors"))
        for path in (out, errors):
            path.touch()
        request = {"errors": str(errors), "cwd": str(cwd), "env": env, "torchrun": torchrun}
        return ForkedRun(self._server.start(arguments, out, **request), out, errors)

    def wait(self, run: "ForkedRun") -> "subprocess.CompletedProcess[str]":
        """Wait for the end of a run."""
        code = self._server.wait(run.pid)
        return subprocess.CompletedProcess([], code, run.out.read_text(), run.errors.read_text())


@dataclass(frozen=True)
class App:
    """The app as a command.

    Attributes:
        folder: Where a test may write.
        data: A folder with `data` (rows of 33 tokens), `tokenizer` (280 entries) and `texts`.
        request: Of the test, for the server.
    """

    folder: Path
    data: Path
    request: pytest.FixtureRequest

    def config(self, *replacements: tuple[str, str], extra: str = "") -> Path:
        """Write the configuration, with texts in it replaced and some added."""
        text = CONFIG.format(folder=self.folder, data=self.data)
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new)
        path = self.folder / "config.toml"
        path.write_text(text + extra)
        return path

    def packing(self) -> list[str]:
        """Options that pack the same tokens, from a copy that does not say that rows are full."""
        documents = self.folder / "documents"
        if not documents.exists():
            shutil.copytree(
                self.data / "data", documents, ignore=shutil.ignore_patterns("manifest.json")
            )
        local = ["--mosaic_dataloader.dataset.streams.words.local", str(documents)]
        return ["--mosaic_dataloader.dataset.packing", *local]

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the command."""
        return environment()

    @property
    def server(self) -> Launchers:
        """Imports what it needs when a test first asks for it."""
        server: Launchers = self.request.getfixturevalue("launchers")
        return server

    def forked(
        self, *arguments: str | Path, cwd: Path | None = None, **env: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run the app to its end, as forks of a process that has imported everything."""
        return self.server.wait(self.start_forked(*arguments, cwd=cwd, **env))

    def start_forked(
        self, *arguments: str | Path, cwd: Path | None = None, **env: str
    ) -> ForkedRun:
        """Start the app in the same way; `server.wait` waits for it."""
        return self.server.start([str(each) for each in arguments], cwd or Path.cwd(), env)

    def command(self, *arguments: str | Path) -> list[str]:
        """The command line."""
        return [sys.executable, str(APP), *map(str, arguments)]

    def torchrun(self, count: int, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
        """Run the app to its end under torchrun, in forks as well."""
        given = ["--standalone", f"--nproc-per-node={count}", APP / "__main__.py", *arguments]
        started = self.server.start([str(each) for each in given], Path.cwd(), {}, torchrun=True)
        return self.server.wait(started)

    def processes(self) -> list[int]:
        """Processes that were started with this test's configuration."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                line = path.read_bytes()
                state = (path.parent / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if str(self.folder).encode() in line and state != "Z":
                found.append(int(path.parent.name))
        return found

    @staticmethod
    def losses(output: str) -> dict[int, float]:
        """Loss by step, from the log."""
        return {int(match[1]): float(match[2]) for match in LOSS.finditer(output)}

    @staticmethod
    def error_lines(output: str) -> list[str]:
        """What a user is told on stderr; warnings of libraries apart."""
        return [line for line in output.splitlines() if line.startswith("error: ")]


def _make_data(folder: Path) -> None:
    from mosaic_prepare import PrepareOptions, prepare

    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    texts = folder / "texts"
    texts.mkdir(parents=True)
    for number in range(20):
        (texts / f"{number}.txt").write_text(" ".join(rng.choice(words, size=300)))
    options: dict[str, Any] = {"train_tokenizer": folder / "tokenizer", "vocab_size": 280}
    prepare(
        PrepareOptions(input=str(texts / "*.txt"), output=folder / "data", seq_len=32, **options)
    )


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared data, made once however many test processes there are."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "train-app"
    with open(f"{shared}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "data").exists():
            _make_data(shared)
    return shared


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[None]:
    server, imports = "tests.integration_support.fork_server", ("streaming", "torchtitan.train")
    start_if_wanted(session, "app", server, environment(), *imports)
    return (yield)


@pytest.fixture(scope="session")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launchers]:
    """For `App.forked`."""
    server = ForkServer(SERVERS["app"])
    yield Launchers(server, tmp_path_factory.mktemp("forked"))
    server.close()


@pytest.fixture
def app(tmp_path: Path, data: Path, request: pytest.FixtureRequest) -> App:
    """The app, with a folder of the test's own."""
    return App(folder=tmp_path, data=data, request=request)
