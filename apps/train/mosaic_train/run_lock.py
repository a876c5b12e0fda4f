"""A dump folder belongs to one run at a time."""

import errno
import fcntl
import os
import socket
import time
from pathlib import Path
from typing import IO

from mosaic_train.errors import TrainError

_LOCK = ".mosaic-train.lock"
# Seconds to wait for a run that is about to end, such as one that was interrupted.
_TIMEOUT = 3.0


def lock_folder(folder: str) -> IO[str]:
    """Hold a dump folder for this run, until the process ends or the lock is closed.

    Rank 0 holds it, whatever machine it is on, so that a run of many machines is one. It is a
    POSIX lock: it works over NFS, and children do not inherit it.

    Args:
        folder: The dump folder; made if it is missing.

    Returns:
        The locked file; closing it releases the folder.

    Raises:
        TrainError: Another run holds it, or it cannot be made or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        file = open(Path(folder, _LOCK), "a+", encoding="utf-8")  # noqa: SIM115
        deadline = time.monotonic() + _TIMEOUT
        while not _locked(file, folder):
            if time.monotonic() > deadline:
                file.seek(0)
                holder = file.read(1000).strip() or "not identified yet"
                file.close()
                raise TrainError(
                    f"job.dump_folder {folder} is in use by another run ({holder}), whose "
                    "checkpoints and logs this one would mix with its own: wait for it to end, or "
                    "choose another --job.dump_folder"
                )
            time.sleep(0.1)
        file.truncate(0)
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {started}\n")
        file.flush()
    except OSError as error:
        raise TrainError(
            f"job.dump_folder {folder}: it cannot be made or written to ({error.strerror}): choose "
            "another --job.dump_folder"
        ) from error
    return file


def _locked(file: IO[str], folder: str) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise TrainError(
            f"job.dump_folder {folder}: its file system cannot lock files ({error.strerror}), so "
            "that two runs could mix their files: choose another --job.dump_folder"
        ) from error
    return True
