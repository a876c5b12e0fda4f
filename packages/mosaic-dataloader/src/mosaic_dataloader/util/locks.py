"""Locks on byte ranges of one file, held by an open file and released by the kernel when it closes.

These are Linux "open file description" locks: unlike POSIX record locks they also exclude threads
and other loaders of the same process, and unlike lock files a killed holder leaves nothing behind.
See fcntl(2), "Open file description locks".

A process that is forked shares the open file, and would keep a dead parent's locks: it closes its
copies at once (see ``RangeLock.after_fork``).
"""

import errno
import fcntl
import logging
import os
import struct
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util import threads
from mosaic_dataloader.util.forks import reset_in_child, starting

logger = logging.getLogger(__name__)

# struct flock: l_type, l_whence, l_start, l_len, l_pid (0 for this kind of lock).
_FLOCK = "hhqqi4x"
# Seconds to wait for a lock that is held for moments only. A process that holds it longer is
# stopped, or its storage hangs.
LOCK_TIMEOUT = 60.0
# Seconds after which it is said, once, what is waited for.
_REPORT_SECONDS = 10.0
# The pauses between two tries grow from the first to the second, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.01


class LockTimeoutError(MosaicDataError):
    """Another holder kept a lock all the time.

    Attributes:
        holder: Who, as far as it can be known: ``process 1234 (stopped)`` or ``another process``.
        byte: Which byte of the lock file it holds.
    """

    def __init__(self, path: str, byte: int, holder: str, seconds: float):
        super().__init__(
            f"{holder} has held the lock {path} for {seconds:.0f} s; let that process continue, or "
            f"end it"
        )
        self.holder, self.byte = holder, byte


class RangeLock:
    """One open file on a lock file; what it locks belongs to it alone.

    Raises:
        FileNotFoundError: It is missing, and not to be made by ``create``.
    """

    def __init__(self, path: str, *, create: bool = True):
        self._path = path
        self._fd = -1
        self._open(create)

    def exclusive(self, byte: int, timeout: float | None = None) -> None:
        """Wait until no other holder has the byte, for ``LOCK_TIMEOUT`` by default; then hold it.

        Raises:
            LockTimeoutError: Another holder kept it all the time.
        """
        self._wait(fcntl.F_WRLCK, byte, timeout)

    def shared(self, byte: int, timeout: float | None = None) -> None:
        """Wait until nobody holds the byte alone, then hold it beside others; see ``exclusive``."""
        self._wait(fcntl.F_RDLCK, byte, timeout)

    def try_exclusive(self, byte: int) -> bool:
        """Hold the byte alone if that is possible at once."""
        return self._try(fcntl.F_WRLCK, byte)

    def unlock(self, byte: int) -> None:
        """Let the byte go."""
        self._call(fcntl.F_UNLCK, byte)

    def fileno(self) -> int:
        """The open file, for a child process to inherit."""
        return self._fd

    def hand_over_to_child(self) -> None:
        """Close the file here and let nothing go: a program that inherited it holds the locks."""
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Let everything go."""
        if self._fd < 0:
            return
        # Closing alone would not do where a library forked this process behind Python's back. What
        # cannot be unlocked was never locked: not every file system knows these locks.
        with suppress(OSError):
            self._call(fcntl.F_UNLCK, 0, 0)
        self.hand_over_to_child()

    def after_fork(self) -> None:
        """Let the parent's locks be the parent's alone; the child may lock again."""
        if self._fd >= 0:
            self.hand_over_to_child()

    def __del__(self) -> None:
        self.close()

    def _open(self, create: bool) -> None:
        make = os.O_CREAT if create else 0
        # No fork in between: the child would not know what to close.
        with starting:
            self._fd = os.open(self._path, os.O_RDWR | make | os.O_CLOEXEC, 0o666)
            reset_in_child(self)

    def _wait(self, kind: int, byte: int, timeout: float | None) -> None:
        # The kernel's own wait has no end, and a thread in it cannot be stopped.
        timeout = LOCK_TIMEOUT if timeout is None else timeout
        begun, pause, reported = time.monotonic(), _FIRST_PAUSE, False
        while not self._try(kind, byte):
            waited = time.monotonic() - begun
            if waited > timeout:
                raise LockTimeoutError(self._path, byte, holder_of(self._path, byte), timeout)
            if waited > _REPORT_SECONDS and not reported:
                reported = True
                holder = holder_of(self._path, byte)
                logger.warning("waiting for %s, which holds the lock %s", holder, self._path)
            threads.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _try(self, kind: int, byte: int) -> bool:
        try:
            self._call(kind, byte)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def _call(self, kind: int, byte: int, length: int = 1) -> None:
        if self._fd < 0:
            # In a child of the process that opened it.
            self._open(create=True)
        # A length of 0 means to the end, however far.
        flock = struct.pack(_FLOCK, kind, os.SEEK_SET, byte, length, 0)
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, flock)


@contextmanager
def locked(
    path: str, byte: int, timeout: float | None = None, *, shared: bool = False
) -> Iterator[None]:
    """Hold one byte of a lock file, through an open file of its own; see `RangeLock.exclusive`.

    With ``shared`` it is held beside others that hold it so.
    """
    with closing(RangeLock(path)) as lock:
        (lock.shared if shared else lock.exclusive)(byte, timeout)
        yield


def holder_of(path: str, byte: int) -> str:
    """Who holds a byte of a lock file, in words.

    The kernel does not tell for this kind of lock, but shows the locks of every open file to the
    user whose process has it open. Processes of other users and machines stay unknown.
    """
    for pid in filter(str.isdigit, os.listdir("/proc")):
        # Processes end, files are closed, and some are not for this user to look at.
        with suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                if _holds(pid, fd, path, byte):
                    return f"process {pid}{' (stopped)' if _is_stopped(pid) else ''}"
    return "another process"


def _holds(pid: str, fd: str, path: str, byte: int) -> bool:
    with suppress(OSError):
        if not os.path.samefile(f"/proc/{pid}/fd/{fd}", path):
            return False
        with open(f"/proc/{pid}/fdinfo/{fd}", encoding="ascii") as info:
            # "lock:\t1: OFDLCK ADVISORY  WRITE -1 fe:00:2146380 5 5", the end perhaps "EOF".
            ranges = [line.split()[-2:] for line in info if line.startswith("lock:")]
        return any(int(a) <= byte and (b == "EOF" or byte <= int(b)) for a, b in ranges)
    return False


def _is_stopped(pid: str) -> bool:
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        # "1234 (name) T …"; the name may hold anything.
        return file.read().rpartition(")")[2].split()[0] in ("T", "t")
