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


class RunLock:
    """Holds a dump folder for this run, until the process ends or `release` is called.

    Rank 0 holds it, whatever machine it is on, so that a run of many machines is one. It is a
    POSIX lock: it works over NFS, and children do not inherit it.

    Args:
        folder: The dump folder; made if it is missing.

    Raises:
        TrainError: Another run holds it, or it cannot be made or written to.
    """

    def __init__(self, folder: str):
        path = Path(folder, _LOCK)
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise _cannot_write(folder, error) from error
        deadline = time.monotonic() + _TIMEOUT
        while not self._locked(folder):
            if time.monotonic() > deadline:
                self._file.seek(0)
                holder = self._file.read(1000).strip() or "which has not said yet who it is"
                self._file.close()
                raise TrainError(
                    f"job.dump_folder {folder} is in use by another run ({holder}), whose "
                    "checkpoints and logs this one would mix with its own: wait for it to end, or "
                    "choose another --job.dump_folder"
                )
            time.sleep(0.1)
        try:
            self._file.truncate(0)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            self._file.write(f"process {os.getpid()} on {socket.gethostname()} since {started}\n")
            self._file.flush()
        except OSError as error:
            raise _cannot_write(folder, error) from error

    def _locked(self, folder: str) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise TrainError(
                f"job.dump_folder {folder}: its file system cannot lock files "
                f"({error.strerror}), so that two runs could mix their files: choose another "
                "--job.dump_folder"
            ) from error
        return True

    def release(self) -> None:
        """Release the folder."""
        self._file.close()


def _cannot_write(folder: str, error: OSError) -> TrainError:
    return TrainError(
        f"job.dump_folder {folder}: it cannot be made or written to ({error.strerror}): choose "
        "another --job.dump_folder"
    )
