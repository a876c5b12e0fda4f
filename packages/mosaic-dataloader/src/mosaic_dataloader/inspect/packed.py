"""Packed rows: read once, for the print and the picture."""

import sys
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mosaic_dataloader.inspect.previews import preview
from mosaic_dataloader.inspect.steps import Steps
from mosaic_dataloader.reading.origins import DocumentOrigin, PreviewRow

# For the picture, beyond the rows that are printed: steps, and tokens that are read for them. Where
# shards must be fetched, rows: their documents lie anywhere in the shuffle window.
_STEPS, _TOKENS, _FETCHED_ROWS = 100, 1 << 22, 16
# Seconds between two reports of the progress.
_PAUSE = 2.0


@dataclass(frozen=True)
class PackedLook:
    """What was read.

    Attributes:
        rows: The rows to print.
        read: How many rows were read, those included.
        lengths: Tokens of each document in these, by stream.
        shares: float[steps, streams], the streams' shares of the targets of each step, or of what
            was read of the first one.
    """

    rows: list[PreviewRow]
    read: int
    lengths: dict[str, list[int]]
    shares: Any


def look_at_packed(steps: Steps, step: int, position: int, rows: int) -> PackedLook:
    """Read rows from a position on, and all before it whose lanes lead there."""
    dataset = steps.loader.dataset
    wanted = min(_STEPS * steps.rows, _TOKENS // dataset.seq_len)
    if dataset.store.fetches:
        wanted = _FETCHED_ROWS
    kept = min(rows, steps.rows)
    count = max(kept, wanted)
    if count > steps.rows:
        count -= count % steps.rows
    names = [stream.name for stream in dataset.streams]
    lengths: dict[str, dict[int, int]] = {name: {} for name in names}
    shown: list[PreviewRow] = []
    targets = []
    ahead = preview(steps.loader, position, _Reporter(step))
    for row in islice(ahead, count):
        if len(shown) < kept:
            shown.append(row)
        targets.append(row.counts)
        for part in documents_of(row):
            # A long document is in several rows.
            lengths[part.stream][part.document] = part.length
    ahead.close()
    per_step = np.stack(targets).reshape(-1, min(count, steps.rows), len(names))
    sums = per_step.sum(axis=1)
    return PackedLook(
        rows=shown,
        read=count,
        lengths={name: list(own.values()) for name, own in lengths.items()},
        shares=sums / sums.sum(axis=1, keepdims=True),
    )


def documents_of(row: PreviewRow) -> list[DocumentOrigin]:
    """What a packed row is made of; nothing where rows are samples."""
    return [origin for origin in row.origins if isinstance(origin, DocumentOrigin)]


class _Reporter:
    """Reports the progress of the reading now and then, on stderr."""

    def __init__(self, step: int):
        self._step = step
        self._next = 0.0

    def __call__(self, read: int, whole: int) -> None:
        now = time.monotonic()
        if now >= self._next or read == whole:
            self._next = now + _PAUSE
            print(
                f"packing: read {read:,} of {whole:,} rows before step {self._step}",
                file=sys.stderr,
                flush=True,
            )
