"""How long batches are waited for, and what is reported when one takes long."""

import faulthandler
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Callable

logger = logging.getLogger(__name__)

# What makes batches, in a process without workers as in one with them.
BATCH_THREAD = "mosaic-batches"
# Seconds between two reports of the same wait.
_AGAIN_SECONDS = 60.0
_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class WaitWatch:
    """Counts the seconds that a step waits for batches, and reports what a long wait is for.

    It has no thread: the thread that waits for a batch looks at the clock now and then.

    Args:
        report_after: Seconds that a batch may take before the wait is reported. It is reported
            again each minute, until the batch comes.
        held_up_by: Says what is waited for, one entry for each; none if that is not known.

    Attributes:
        seconds: What all waits together took.
    """

    def __init__(self, report_after: float, held_up_by: Callable[[], list[str]]):
        self.seconds = 0.0
        self._report_after = self._next = report_after
        self._held_up_by = held_up_by

    def look(self, waited: float) -> None:
        """Called now and then during a wait, with the seconds that it has taken so far."""
        if waited < self._next:
            return
        self._next = waited + _AGAIN_SECONDS
        causes = self._held_up_by() or _places()
        logger.warning("no batch for %.0f s; waiting for %s", waited, "; ".join(causes))
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("threads of this process:\n%s", _thread_dump())

    def came(self, waited: float) -> None:
        """Called when a wait is over, with the seconds that it took."""
        self.seconds += waited
        if self._next > self._report_after:
            self._next = self._report_after
            logger.warning("the batch came after %.0f s", waited)


def _places() -> list[str]:
    """Where in this package the threads that make batches are."""
    frames = sys._current_frames()
    found = []
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0) if thread.name == BATCH_THREAD else None
        while frame is not None and not frame.f_code.co_filename.startswith(_PACKAGE):
            frame = frame.f_back
        if frame is not None:
            code = frame.f_code
            file = os.path.relpath(code.co_filename, _PACKAGE)
            found.append(f"{code.co_name} ({file}, line {frame.f_lineno})")
    return found or ["a thread that has ended"]


def _thread_dump() -> str:
    """The stacks of all threads."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="backslashreplace") as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        return file.read()
