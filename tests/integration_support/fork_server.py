"""A process that has imported everything and forks launchers of the app, or torchruns.

Importing takes far longer than most runs. Launcher, ranks and workers are processes of their own
all the same, started by the app's own code: only where torch's elastic launcher would start a new
interpreter per rank, it forks instead.

Reads one line of JSON per run, `{"arguments": [...], "env": {...}, "log": path}`, perhaps with
`errors` (a path for stderr, which otherwise goes to the log), `cwd`, `torchrun` (true: the
arguments are torchrun's) and `namespace` (the name of a network namespace to run in); writes
`started PID` and, when a launcher has ended, `ended PID CODE`. Ends its whole process group when
its input ends, so start it in a session of its own. `fork_client` is the tests' side.
"""

import ctypes
import gc
import json
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "apps" / "train"))

import torch.distributed.checkpoint
import torch.distributed.elastic.multiprocessing
import torch.distributed.fsdp
import torch.distributed.launcher.api as launcher
import torch.distributed.pipelining
import torch.distributed.run as torchrun
import torch.distributed.tensor.parallel  # noqa: F401
import torchtitan.models.llama3
import torchtitan.train  # noqa: F401
from streaming.base import compression, shuffle  # noqa: F401
from streaming.base.storage import download  # noqa: F401

import mosaic_dataloader.builders  # noqa: F401
import mosaic_train.rank
import mosaic_train.setup  # noqa: F401
import mosaic_trainspec.torchtitan_patches  # noqa: F401
from mosaic_config import MosaicConfigManager
from mosaic_train.cli import main as run_app

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
elastic_launch = launcher.elastic_launch


def run_rank(arguments: list[str]) -> int:
    """What a new interpreter would do for one rank."""
    for number in SIGNALS:
        # The launcher's handlers would survive the fork, not the start of an interpreter.
        signal.signal(number, signal.SIG_DFL)
    code = run_app(arguments)
    if code:
        os._exit(code)
    return code


def forking_launch(config: Any, entrypoint: str) -> Any:
    """In place of torch's: ranks are forked from the launcher."""
    config.start_method = "fork"

    def start(unbuffered: str, entry_point: str, *arguments: str) -> Any:
        return elastic_launch(config, run_rank)(list(arguments))

    return start


def become_launcher(request: dict[str, Any]) -> None:
    """In a fork: run the app as the command does."""
    errors = request.get("errors", request["log"])
    for stream, path in ((1, request["log"]), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Ranks are started unbuffered; what one prints before `os._exit` must arrive.
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.environ.update(request["env"])
    sys.path[1:1] = filter(None, request["env"].get("PYTHONPATH", "").split(os.pathsep))
    os.chdir(request.get("cwd", os.curdir))
    launcher.elastic_launch = torchrun.elastic_launch = forking_launch
    code = 1
    try:
        if "namespace" in request:
            enter_network(request["namespace"])
        start = torchrun.main if request.get("torchrun") else run_app
        code = start(request["arguments"]) or 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def enter_network(namespace: str) -> None:
    """What `ip netns exec` does before it starts a program."""
    new_network = 0x40000000
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), new_network):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def report(*words: object) -> None:
    """Write a line to whoever started this server."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def serve() -> None:
    """Fork a launcher for each line until the input ends."""
    # What is read for this, every section's docstrings above all, the forks then have.
    MosaicConfigManager().parse_args(["--mosaic_dataloader.dataset.local", os.curdir])
    # Else a collection in a fork would look at, and so copy, all that is imported.
    gc.freeze()
    alive: set[int] = set()
    pending = b""
    while True:
        if select.select([0], [], [], 0.02)[0]:
            data = os.read(0, 65536)
            if not data:
                return
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                pid = os.fork()
                if not pid:
                    become_launcher(json.loads(line))
                alive.add(pid)
                report("started", pid)
        for pid in list(alive):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                alive.remove(pid)
                report("ended", pid, os.waitstatus_to_exitcode(status))


def main() -> None:
    """Serve, and leave nothing running."""
    serve()
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    # As with `python apps/train`, only the app's own folder is an import path, not this script's.
    sys.path.remove(str(Path(__file__).resolve().parent))
    main()
