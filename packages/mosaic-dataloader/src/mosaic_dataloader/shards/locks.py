"""Locks on byte ranges of one file, held by an open file and released by the kernel when it closes.

These are Linux "open file description" locks: unlike POSIX record locks they also exclude threads
and other loaders of the same process, and unlike lock files a killed holder leaves nothing behind.
See fcntl(2), "Open file description locks".
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager

# struct flock: l_type, l_whence, l_start, l_len, l_pid (0 for this kind of lock).
_FLOCK = "hhqqi4x"


class RangeLock:
    """One open file on a lock file; what it locks belongs to it alone.

    Args:
        path: The lock file.
        create: Make it if it is missing.

    Raises:
        FileNotFoundError: It is missing and not to be made.
    """

    def __init__(self, path: str, *, create: bool = True):
        make = os.O_CREAT if create else 0
        self._fd = -1
        self._fd = os.open(path, os.O_RDWR | make | os.O_CLOEXEC, 0o666)
        self._owner = os.getpid()

    def exclusive(self, byte: int) -> None:
        """Wait until no other holder has the byte, then hold it alone."""
        self._call(fcntl.F_OFD_SETLKW, fcntl.F_WRLCK, byte)

    def shared(self, byte: int) -> None:
        """Wait until nobody holds the byte alone, then hold it beside others."""
        self._call(fcntl.F_OFD_SETLKW, fcntl.F_RDLCK, byte)

    def try_exclusive(self, byte: int) -> bool:
        """Hold the byte alone if that is possible at once."""
        try:
            self._call(fcntl.F_OFD_SETLK, fcntl.F_WRLCK, byte)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def unlock(self, byte: int) -> None:
        """Let the byte go."""
        self._call(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, byte)

    def fileno(self) -> int:
        """The open file, for a child process to inherit."""
        return self._fd

    def leave(self) -> None:
        """Close the file here and let nothing go: a child that inherited it holds the locks."""
        os.close(self._fd)
        self._fd = -1

    def close(self) -> None:
        """Let everything go."""
        if self._fd >= 0:
            # Closing alone would not do: a process forked meanwhile holds the same open file. And
            # that process must not unlock what still belongs to this one.
            if self._owner == os.getpid():
                self._call(fcntl.F_OFD_SETLK, fcntl.F_UNLCK, 0, 0)
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def _call(self, command: int, kind: int, byte: int, length: int = 1) -> None:
        # A length of 0 means to the end, however far.
        fcntl.fcntl(self._fd, command, struct.pack(_FLOCK, kind, os.SEEK_SET, byte, length, 0))


@contextmanager
def locked(path: str, byte: int, patience: float | None = None) -> Iterator[RangeLock]:
    """Hold one byte of a lock file alone, through an open file of its own.

    Args:
        path: The lock file.
        byte: Which byte.
        patience: Seconds to wait for it; None waits in the kernel for as long as it takes.

    Raises:
        TimeoutError: Somebody else held it all the time.
    """
    lock = RangeLock(path)
    try:
        if patience is None:
            lock.exclusive(byte)
        else:
            # The kernel's wait has no end of its own, and a thread in it cannot be stopped.
            deadline = time.monotonic() + patience
            while not lock.try_exclusive(byte):
                if time.monotonic() > deadline:
                    raise TimeoutError
                time.sleep(0.01)
        yield lock
    finally:
        lock.close()
