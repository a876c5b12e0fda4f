"""What a file system holds, as everybody on the machine can see."""

import os
import threading
import time
from pathlib import Path


class DiskWatch:
    """Notes what a file system holds, as statvfs tells it."""

    # Files take whole pages: the index and a handful of small ones, and the end of each shard.
    SLACK = 20 * 4096

    def __init__(self, place: Path):
        self.seen: list[int] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(place,))

    def _watch(self, place: Path) -> None:
        while not self._stop.is_set():
            info = os.statvfs(place)
            self.seen.append((info.f_blocks - info.f_bfree) * info.f_frsize)
            time.sleep(0.001)

    def __enter__(self) -> "DiskWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
