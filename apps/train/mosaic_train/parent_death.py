"""Ranks must not outlive their launcher, however it dies."""

import ctypes
import os
import signal

#: Set by the launcher for its ranks: its process id.
LAUNCHER_PID = "MOSAIC_TRAIN_LAUNCHER_PID"

_PR_SET_PDEATHSIG = 1


def end_with_launcher() -> None:
    """In a rank that our launcher started: make the kernel end this process when the launcher dies.

    A launcher that gets SIGTERM ends its ranks itself; one that gets SIGKILL cannot, and ranks
    left over keep the GPUs, and may wait in a collective forever. The signal is SIGKILL, since a
    rank that hangs in a collective runs no Python handlers. Nothing is lost: a checkpoint counts
    only once its metadata, written last, is there. Under torchrun this is left to torchrun.
    """
    launcher = os.environ.get(LAUNCHER_PID)
    if launcher is None:
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have died before the call above.
    if os.getppid() != int(launcher):
        os.kill(os.getpid(), signal.SIGKILL)
