"""Progress of a long step: a bar for people, lines now and then for log files."""

import logging
import sys
import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

logger = logging.getLogger("mosaic_dataloader.prepare")

SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts bytes of text, with rate and time left.

    Args:
        title: What is being done.
        total: Bytes in all.
    """

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total = title, total
        self._start = self._last_line = time.monotonic()
        self._done = 0
        self._bar = (
            tqdm(total=total, desc=title, unit="B", unit_scale=True, dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Self:
        """Start counting."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the bar, or say how long it took."""
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line()

    def advance(self, amount: int) -> None:
        """Count `amount` more bytes."""
        self._done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        elapsed = max(self._last_line - self._start, 1e-9)
        rate = self._done / elapsed
        left = (self._total - self._done) / rate if rate else float("inf")
        logger.info(
            "%s: %.1f of %.1f MB, %.2f MB/s, %.0f s so far, about %.0f s left",
            self._title,
            self._done / 1e6,
            self._total / 1e6,
            rate / 1e6,
            elapsed,
            max(left, 0.0),
        )
