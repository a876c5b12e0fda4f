"""Ends while the store of three loaders hangs: ``REMOTE FOLDER``. Prints a line before it ends."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from dataloader_helpers import loader
from streaming.base.storage.download import LocalDownloader

whole = LocalDownloader._download_file_impl


def stuck(self: LocalDownloader, remote: str, local: str, timeout: float) -> None:
    if remote.endswith(".mds"):
        time.sleep(1000)
    whole(self, remote, local, timeout)


LocalDownloader._download_file_impl = stuck  # type: ignore[method-assign]
loaders = [
    loader(
        {"s": {"remote": sys.argv[1], "local": f"{sys.argv[2]}/{number}"}},
        num_workers=number % 2,
        download_timeout=900,
    )
    for number in range(3)
]
iterators = [iter(one) for one in loaders]
time.sleep(1)
print("ends", flush=True)
