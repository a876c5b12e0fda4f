"""Processes that read a data set through a slow store and print what they get.

One process imports everything and forks a reader for each job that it is told on standard input, as
a line of JSON: importing costs more than most jobs. The readers are real processes, and killed as
such. A job has remote and local, or streams; out (the file to print to), batches, and perhaps
seconds (per shard of a remote directory), workers, worker_start_seconds (that each worker's start
takes), batch_size, rank, ranks, state (a file that keeps the position), hold (stay after the last
batch, to be killed), log (of shards fetched), options (of the data set), environment, mounts
(arguments of mount(8), in a mount namespace of its own), and start_method (of the workers, whose
process ids are printed). An error is printed as a line, and ends the job.
"""

import ctypes
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from dataloader_helpers import loader, numbers
from streaming.base.storage.download import LocalDownloader

from mosaic_dataloader import MosaicDataError


def read(job: dict[str, Any]) -> None:
    """Read as told."""

    def slow_copy(self: Any, remote: str, local: str, timeout: float) -> None:
        # In four parts, so that a kill can hit half a file.
        data = Path(remote).read_bytes()
        with open(local, "wb", 0) as out:
            for part in range(4):
                out.write(data[part * len(data) // 4 : (part + 1) * len(data) // 4])
                time.sleep(job.get("seconds", 0.0) / 4)
        if "log" in job:
            with open(job["log"], "a") as log:
                log.write(os.path.basename(remote) + "\n")

    LocalDownloader._download_file_impl = slow_copy
    if "worker_start_seconds" in job:
        # One of the first things that a worker does, before torch's own watchdog knows its parent.
        torch.set_num_threads = lambda number: time.sleep(job["worker_start_seconds"])
    os.environ.update(job.get("environment", {}))
    if "start_method" in job:
        multiprocessing.set_start_method(job["start_method"])
    _mount(job.get("mounts", []))
    options = {"cache_limit": job.get("cache_limit"), **job.get("options", {})}
    one = loader(
        job.get("streams") or {"slow": {"remote": job["remote"], "local": job["local"]}},
        num_workers=job.get("workers", 0),
        shuffle_block_size=100,
        batch_size=job.get("batch_size", 8),
        dp_rank=job.get("rank", 0),
        dp_world_size=job.get("ranks", 1),
        **options,
    )
    state = Path(job["state"]) if "state" in job else None
    if state and state.exists():
        one.load_state_dict({"mosaic": state.read_text()})
    print("ready", flush=True)
    batches = iter(one)
    if "start_method" in job:
        # They will import for seconds from here on.
        print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    for _, batch in zip(range(job["batches"]), batches, strict=False):
        # The line is the ledger, so the position is saved after it, in one step.
        print(*numbers(batch), flush=True)
        if state:
            partial = state.with_suffix(".partial")
            partial.write_text(one.state_dict()["mosaic"])
            partial.rename(state)
    while job.get("hold"):
        time.sleep(1)
    one.close()
    one.dataset.close()
    print("done", flush=True)


def _mount(mounts: list[list[str]]) -> None:
    """Mount what only this process and its children see."""
    if not mounts:
        return
    new_namespace = 0x00020000
    if ctypes.CDLL(None, use_errno=True).unshare(new_namespace):
        raise OSError(ctypes.get_errno(), "unshare")
    for arguments in (["--make-rprivate", "/"], *mounts):
        subprocess.run(["mount", *arguments], check=True)


def main() -> None:
    """Fork a reader per line, and tell its process id."""
    # What workers that are started by "spawn" import.
    sys.modules["__main__"] = sys.modules[__name__]
    # Readers that end leave no zombie: /proc tells whether one lives.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    # Else a collection in a reader would look at, and so copy, all that is imported.
    gc.freeze()
    for line in sys.stdin:
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        job = json.loads(line)
        with open(job["out"], "w") as out:
            os.dup2(out.fileno(), 1)
        try:
            read(job)
        except MosaicDataError as error:
            print(f"error: {error}", flush=True)
        finally:
            sys.stdout.flush()
            # The parent's state is not this process's to tear down.
            os._exit(0)
