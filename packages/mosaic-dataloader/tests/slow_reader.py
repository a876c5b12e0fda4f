"""A process that reads a data set through a slow store and prints what it gets.

Run as: slow_reader.py JSON, with remote, local, seconds per shard, cache_limit, batches, workers.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from dataloader_helpers import loader, numbers
from streaming.base.storage.download import LocalDownloader

JOB = json.loads(sys.argv[1])


def slow_copy(self: Any, remote: str, local: str, timeout: float) -> None:
    """Copy in four parts, so that a kill can hit half a file; note each shard fetched."""
    data = Path(remote).read_bytes()
    with open(local, "wb", 0) as out:
        for part in range(4):
            out.write(data[part * len(data) // 4 : (part + 1) * len(data) // 4])
            time.sleep(JOB["seconds"] / 4)
    if "log" in JOB:
        with open(JOB["log"], "a") as log:
            log.write(os.path.basename(remote) + "\n")


LocalDownloader._download_file_impl = slow_copy

one = loader(
    {"slow": {"remote": JOB["remote"], "local": JOB["local"]}},
    cache_limit=JOB.get("cache_limit"),
    num_workers=JOB.get("workers", 0),
    shuffle_block_size=100,
    batch_size=JOB.get("batch_size", 8),
)
state = Path(JOB["state"]) if "state" in JOB else None
if state and state.exists():
    one.load_state_dict({"mosaic": state.read_text()})
print("ready", flush=True)
for _, batch in zip(range(JOB["batches"]), one, strict=False):
    # The line is the ledger, so the position is saved after it, in one step.
    print(*numbers(batch), flush=True)
    if state:
        partial = state.with_suffix(".partial")
        partial.write_text(one.state_dict()["mosaic"])
        partial.rename(state)
print("done", flush=True)
one.close()
