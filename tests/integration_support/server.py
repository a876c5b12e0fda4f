"""Starts groups of ranks as forks of one process that has imported everything.

A rank's imports take about ten seconds; forked from here it has them at once, and is as new a
process as any. Nothing of torch is used in this process before the fork but its modules.
"""

import faulthandler
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from integration_support.ledger import LEDGER

#: What a rank imports on its way, the slow ones.
MODULES = (
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.pipelining",
    "torch.distributed.tensor.parallel",
    "torch.utils.tensorboard",
    "torchtitan.train",
    "integration_support.recording",
    "integration_support.tasks",
    "mosaic_config",
    "mosaic_train.cli",
    "mosaic_train.rank",
    "mosaic_dataloader.builders",
)
#: Seconds that the other ranks have to end when one has failed.
GRACE = 5.0
#: Seconds for the whole group.
LIMIT = 150.0


def main() -> None:
    """Serve the jobs that come as lines of JSON on stdin; one line answers each."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not end up among the answers
    from mosaic_train.parent_death import end_with_launcher

    end_with_launcher()
    for name in MODULES:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in {"tensorboard"}:
                raise
    parse_options_once()
    # Else a collection in a rank would look at, and so copy, all that is imported.
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps({"codes": run(**json.loads(line))}), file=answers, flush=True)
    os._exit(0)  # taking everything down again takes seconds


def parse_options_once() -> None:
    """What is read for this, every section's docstrings above all, the ranks then have."""
    from mosaic_config import MosaicConfigManager

    MosaicConfigManager().parse_args(["--mosaic_dataloader.dataset.local", os.curdir])


def run(task: str, world: int, folder: str, env: dict[str, str], arguments: Any) -> list[int]:
    """Run a task of `integration_support.tasks` in so many ranks; their exit codes."""
    port = free_port()
    ranks: dict[int, int] = {}
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            variables = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world),
                "LOCAL_WORLD_SIZE": str(world),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                LEDGER: folder,
            }
            os._exit(be_rank(task, Path(folder, f"rank{rank}.log"), variables | env, arguments))
        ranks[pid] = rank
    return wait(ranks)


def be_rank(task: str, log: Path, variables: dict[str, str], arguments: Any) -> int:
    """In a fork: run the task; the exit code."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    os.environ.update(variables)
    random.seed()
    try:
        tasks = importlib.import_module("integration_support.tasks")
        code = getattr(tasks, task)(**arguments)
    except BaseException:  # whatever it is belongs into this rank's log
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code or 0


def wait(ranks: dict[int, int]) -> list[int]:
    """Wait for all; end the others soon after one has failed, as a launcher does."""
    codes: dict[int, int] = {}
    end = time.monotonic() + LIMIT
    while ranks:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            codes[ranks.pop(pid)] = os.waitstatus_to_exitcode(status)
            if any(codes.values()):
                end = min(end, time.monotonic() + GRACE)
        elif time.monotonic() < end:
            time.sleep(0.01)
        else:
            for left in ranks:
                os.kill(left, signal.SIGUSR1)  # its stacks into its log
            time.sleep(0.5)
            for left in ranks:
                os.kill(left, signal.SIGKILL)
            end = time.monotonic() + LIMIT
    return [codes[rank] for rank in sorted(codes)]


def free_port() -> int:
    """A port that nothing listens on, below those that the kernel gives out by itself."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


if __name__ == "__main__":
    main()
