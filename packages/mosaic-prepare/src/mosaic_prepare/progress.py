"""Progress of a long step: a bar for people, lines now and then for log files."""

import logging
import sys
import time
from typing import Self

from tqdm import tqdm

logger = logging.getLogger("mosaic_prepare")

SECONDS_BETWEEN_LINES = 10.0
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
_BAR_WITHOUT_END = "{desc}: {n_fmt} [{elapsed}{postfix}]"


class Progress:
    """Counts input, text and tokens, with rates and time left."""

    def __init__(self, title: str, total: int | None, initial: int = 0) -> None:
        self._title, self._total = title, total
        self._start = self._last_line = time.monotonic()
        self._done = self._initial = initial
        self._text = self._tokens = 0
        self._bar = (
            tqdm(
                total=total,
                initial=initial,
                desc=title,
                unit="B",
                unit_scale=True,
                dynamic_ncols=True,
                bar_format=_BAR if total else _BAR_WITHOUT_END,
            )
            if sys.stderr.isatty()
            else None
        )

    def __enter__(self) -> Self:
        """Start counting."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the bar, or say how long it took."""
        if self._bar is not None:
            self._bar.close()
        elif kind is None:
            self._line()

    def advance(self, amount: int, text: int, tokens: int) -> None:
        """Count on."""
        self._done += amount
        self._text += text
        self._tokens += tokens
        if self._bar is not None:
            self._bar.set_postfix_str(self._rates(time.monotonic()), refresh=False)
            self._bar.update(amount)
        elif time.monotonic() - self._last_line >= SECONDS_BETWEEN_LINES:
            self._line()

    def _rates(self, now: float) -> str:
        elapsed = max(now - self._start, 1e-9)
        rates = f"{self._text / elapsed / 1e6:.2f} MB/s"
        return f"{rates}, {self._tokens / elapsed:,.0f} tokens/s" if self._tokens else rates

    def _line(self) -> None:
        now = self._last_line = time.monotonic()
        elapsed = now - self._start
        whole, left = "", ""
        if self._total:
            whole = f" of {self._total / 1e6:.1f}"
            fresh = self._done - self._initial
            if fresh:
                seconds = max(self._total - self._done, 0) * elapsed / fresh
                left = f", about {seconds:.0f} s left"
        logger.info(
            "%s: %.1f%s MB, %s, %.0f s so far%s",
            self._title,
            self._done / 1e6,
            whole,
            self._rates(now),
            elapsed,
            left,
        )
