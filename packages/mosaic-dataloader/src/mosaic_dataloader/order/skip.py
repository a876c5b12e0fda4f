"""Positions of a run that are left out of training.

A position counts what the order of the run gives: samples, or with packing rows. Left-out positions
count as positions, so that every number in ``skip`` keeps its meaning, whatever was left out before
it. They count in nothing that was trained on: not in rows, samples or tokens.

Worked example: ``skip = ["10:14"]`` and global batches of 4 rows. Each batch has 4 rows, those of
the next positions that are trained on::

    batch 0    0  1  2  3      then the run is at position  4, with  4 rows trained on
    batch 1    4  5  6  7                                   8        8
    batch 2    8  9 14 15                                  16       12
    batch 3   16 17 18 19                                  20       16

A run that is at position 10 has not left anything out yet: it is the same run with and without
``skip``. So the option may be added when a run resumes at or before position 10. One that resumes
at 12 leaves out 12 and 13 alone, and one that resumes at 14 or later nothing: it has trained on
these positions.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.stage_sequence import SampleSequence

# A first position, and the one after the last.
Range = tuple[int, int]
# 1200000, or in groups of digits as 1,200,000 and 1_200_000.
_NUMBER = r"\s*([0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)\s*"
_RANGE = re.compile(f"{_NUMBER}:{_NUMBER}")
# Far above any run, and far enough below 2**63 to calculate with.
_LONGEST = 1 << 48


@dataclass(frozen=True)
class Skip:
    """The positions that a run leaves out.

    Attributes:
        ranges: In ascending order; between two of them lies at least one other position.
    """

    ranges: tuple[Range, ...] = ()

    def before(self, position: int) -> int:
        """How many positions before a position are left out."""
        return sum(min(stop, position) - start for start, stop in self.ranges if start < position)

    def cut(self, position: int) -> tuple[Range, ...]:
        """The ranges before a position; one that it lies in ends there."""
        return tuple((a, min(b, position)) for a, b in self.ranges if a < position)

    def stretch(self, position: int) -> tuple[int, int]:
        """The first position to train on at or after a position, and how many follow it.

        Worked example: see the module; at position 10 these are 14 and all that follow.
        """
        for start, stop in self.ranges:
            if position < start:
                return position, start - position
            if position < stop:
                position = stop
        return position, _LONGEST

    def stretches(self, position: int, rows: int) -> list[Range]:
        """Where the next rows lie, at least one.

        Worked example: see the module; the 4 rows from position 8 on are [(8, 10), (14, 16)].
        """
        found: list[Range] = []
        while rows:
            start, free = self.stretch(position)
            position = start + min(rows, free)
            found.append((start, position))
            rows -= position - start
        return found

    def after(self, position: int, rows: int) -> int:
        """The position of a run that has trained on so many more rows."""
        return self.stretches(position, rows)[-1][1] if rows else position

    def moved(self, position: int, rows: int) -> int:
        """The position to train on that lies so many rows further, or, if negative, back.

        Worked example: see the module; 4 rows from position 8 lies 16, and -4 rows from 16 lies 8.
        """
        position += rows - self.before(position)
        for start, stop in self.ranges:
            if position < start:
                break
            position += stop - start
        return position


def skip_from(position: int, given: Sequence[Range], left_out: Iterable[Range] = ()) -> Skip:
    """What a run leaves out that begins or resumes at a position, and what it has left out so far.

    What the option, as `parse_skip` returns it, names before the position comes too late.
    """
    ahead = [(max(start, position), stop) for start, stop in given if stop > position]
    return Skip(_joined([*left_out, *ahead]))


def trained_draws(sequence: SampleSequence, skip: Skip, start: int, stop: int) -> Int64Array:
    """Samples of each stream, int64[streams], in ``[start, stop)``, without those left out."""
    drawn = sequence.draws(start, stop)
    for first, end in skip.cut(stop):
        if end > start:
            drawn = drawn - sequence.draws(max(start, first), end)
    return drawn


def parse_skip(given: Any) -> tuple[Range, ...]:
    """Check the option ``skip``.

    Args:
        given: A list such as ``["1200000:1250000"]``: the first position of each range, and the one
            after its last.

    Returns:
        The ranges, ascending; adjacent ones are joined.

    Raises:
        MosaicDataError: It is something else, or ranges overlap; the message says what to change.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise MosaicDataError(
            f'skip = {given!r} must be a list of ranges, as in ["1200000:1250000"]'
        )
    ranges: list[Range] = []
    for one in given:
        match = _RANGE.fullmatch(one) if isinstance(one, str) else None
        if match is None:
            raise MosaicDataError(
                f"skip has {one!r}; write the first position and the one after the last, as in "
                f'"1200000:1250000"'
            )
        start, stop = (int(re.sub("[_,]", "", number)) for number in match.groups())
        if start >= stop:
            raise MosaicDataError(
                f"skip has {one!r}, which holds no position: the second number is the position "
                f"after the last one, and must be larger than the first"
            )
        if stop > _LONGEST:
            raise MosaicDataError(f"skip has {one!r}, which lies beyond the end of any run")
        ranges.append((start, stop))
    ranges.sort()
    for (start, stop), (following, end) in pairwise(ranges):
        if following < stop:
            raise MosaicDataError(
                f'skip has "{start}:{stop}" and "{following}:{end}", which overlap; give each '
                f"position once"
            )
    return _joined(ranges)


def _joined(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """Ascending ranges, those that follow one another without a gap as one."""
    found: list[Range] = []
    for start, stop in ranges:
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, stop))
    return tuple(found)
