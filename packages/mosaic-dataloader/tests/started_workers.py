"""Reads with a worker that is started by the method given: ``METHOD REMOTE LOCAL``."""

import multiprocessing
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from dataloader_helpers import loader

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    one = loader(
        {"s": {"remote": sys.argv[2], "local": sys.argv[3]}}, num_workers=1, prefetch_factor=1
    )
    batches = iter(one)
    for _ in range(3):
        next(batches)
    workers = [child.pid for child in multiprocessing.active_children()]
    print(*workers, flush=True)
    while True:
        next(batches)
