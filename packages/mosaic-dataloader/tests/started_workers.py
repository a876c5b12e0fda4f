"""Starts a worker by the method given, and says which it is: ``METHOD REMOTE LOCAL``."""

import multiprocessing
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from dataloader_helpers import loader

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    one = loader({"s": {"remote": sys.argv[2], "local": sys.argv[3]}}, num_workers=1)
    batches = iter(one)
    # It will import for seconds from here on.
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    time.sleep(1000)
