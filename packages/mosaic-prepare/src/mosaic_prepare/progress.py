"""Progress of a long step: a bar for people, lines now and then for log files."""

import logging
import sys
import time
from typing import Any, Self

from tqdm import tqdm

logger = logging.getLogger("mosaic_prepare")

SECONDS_BETWEEN_LINES = 10.0
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
_BAR_WITHOUT_END = "{desc}: {n_fmt} [{elapsed}{postfix}]"
_LINE = "{desc}: {n_fmt}B of {total_fmt}B, {elapsed} so far, about {remaining} left{postfix}"
_LINE_WITHOUT_END = "{desc}: {n_fmt}B, {elapsed} so far{postfix}"


class _LogLines:
    """What tqdm writes to where nobody watches: each state of the bar becomes a line of the log."""

    _last = ""

    def write(self, text: str) -> None:
        # tqdm writes the last state once more when it is closed.
        line = text.strip()
        if line and line != self._last:
            self._last = line
            logger.info("%s", line)

    def flush(self) -> None:
        pass


class Progress:
    """Counts input, text and tokens, with rates and time left."""

    def __init__(self, title: str, total: int, initial: int = 0) -> None:
        self._start = time.monotonic()
        self._text = self._tokens = 0
        common: dict[str, Any] = {"total": total or None, "initial": initial, "desc": title}
        common["unit_scale"] = True
        if sys.stderr.isatty():
            self._bar = tqdm(
                **common, dynamic_ncols=True, bar_format=_BAR if total else _BAR_WITHOUT_END
            )
        else:
            self._bar = tqdm(
                **common,
                file=_LogLines(),
                mininterval=SECONDS_BETWEEN_LINES,
                miniters=1,
                delay=1e-9,  # no line before there is anything to say
                bar_format=_LINE if total else _LINE_WITHOUT_END,
            )

    def __enter__(self) -> Self:
        """Start counting."""
        return self

    def __exit__(self, *_: object) -> None:
        """Write the last state; nothing where an error came before anything was counted."""
        self._bar.leave = self._bar.n > self._bar.initial
        self._bar.close()

    def advance(self, amount: int, text: int, tokens: int) -> None:
        """Count bytes of input, and the bytes of text and the tokens that came of them."""
        self._text += text
        self._tokens += tokens
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rates = f"{self._text / elapsed / 1e6:.2f} MB/s"
        if self._tokens:
            rates += f", {self._tokens / elapsed:,.0f} tokens/s"
        self._bar.set_postfix_str(rates, refresh=False)
        self._bar.update(amount)
