"""A process that has imported everything and forks the soak job's launchers.

Importing takes far longer than a life of the job. Launcher, ranks and workers are processes of
their own all the same, started by the app's own code: only the place where torch's elastic launcher
would start a new interpreter per rank, it forks instead.

Reads `{"arguments": [...], "env": {...}, "log": path}` per line; writes `started PID` and, when a
launcher has ended, `ended PID CODE`. Ends its whole process group when its input ends.
"""

import json
import os
import select
import signal
import sys
import traceback
from typing import Any

import torch.distributed.elastic.multiprocessing  # noqa: F401
import torch.distributed.launcher.api as launcher
import torchtitan.models.llama3
import torchtitan.train  # noqa: F401
from streaming.base import compression, shuffle  # noqa: F401
from streaming.base.storage import download  # noqa: F401

import mosaic_dataloader.builders  # noqa: F401
import mosaic_train.torchtitan_patches  # noqa: F401
from mosaic_train.cli import main

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
elastic_launch = launcher.elastic_launch


def run_rank(arguments: list[str]) -> int:
    """What a new interpreter would do for one rank."""
    for number in SIGNALS:
        # The launcher's handlers would survive the fork, not the start of an interpreter.
        signal.signal(number, signal.SIG_DFL)
    code = main(arguments)
    if code:
        os._exit(code)
    return code


def forking_launch(config: Any, executable: str) -> Any:
    """In place of torch's: ranks are forked from the launcher."""
    config.start_method = "fork"

    def start(unbuffered: str, entry_point: str, *arguments: str) -> Any:
        return elastic_launch(config, run_rank)(list(arguments))

    return start


def become_launcher(request: dict[str, Any]) -> None:
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(request["env"])
    launcher.elastic_launch = forking_launch
    code = 1
    try:
        code = main(request["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def tell(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def serve() -> None:
    tell("ready")
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
                tell("started", pid)
        for pid in list(alive):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                alive.remove(pid)
                tell("ended", pid, os.waitstatus_to_exitcode(status))


serve()
os.killpg(os.getpgrp(), signal.SIGKILL)
