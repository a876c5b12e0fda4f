"""Which documents a lane takes, and which rank reads it: formulas, nothing is stored."""

from math import gcd, lcm

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.assign import node_starts
from mosaic_dataloader.order.mixture import Int64Array

# Divisible by most numbers of ranks that people use: 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, …
_MULTIPLE = 960
# Lanes of a rank, so that the run may continue with more ranks.
_SPARE = 4
# No other number of ranks is proposed that is so many times as large.
_FARTHEST = 1000


def default_lanes(dp_world_size: int) -> int:
    """Lanes of a run that begins with so many ranks and names no number."""
    return _MULTIPLE * -(-_SPARE * dp_world_size // _MULTIPLE)


def check_lanes(lanes: int, dp_world_size: int, *, saved: bool = False) -> None:
    """See that the lanes can be shared out; of a run that was ``saved`` they are given.

    Raises:
        MosaicDataError: The ranks do not divide them; the message names numbers that do.
    """
    if lanes % dp_world_size == 0:
        return
    below = next(n for n in range(min(lanes, dp_world_size - 1), 0, -1) if lanes % n == 0)
    # Lanes that a state names may be any number.
    most = min(lanes, _FARTHEST * dp_world_size)
    above = next((n for n in range(dp_world_size + 1, most + 1) if lanes % n == 0), below)
    near = f"{below} or {above}" if above > below else f"{below}"
    advice = (
        f"the run began with {lanes} lanes and keeps them: continue it with {near} ranks"
        if saved
        else f"use {near} ranks, or begin a run with packing_lanes = {lcm(lanes, dp_world_size)}"
    )
    raise MosaicDataError(
        f"{dp_world_size} data-parallel ranks do not divide {lanes} packing lanes; {advice}"
    )


def residue_of_rank(rank: int, dp_world_size: int, nodes: int | None) -> int:
    """What the lanes of a rank are congruent to, modulo the ranks: all that are, are its own.

    Ranks of a machine are consecutive and are to read the same canonical nodes. These follow from a
    lane's number modulo themselves, so that the ranks of one out of h machines should have residues
    that agree modulo h. Where the canonical nodes are given, h is what they have in common with the
    ranks. Otherwise the digits of the rank are reversed, which makes every h that divides the ranks
    into a power of two each right.

    It must not depend on what a checkpoint holds: torch asks for the lanes of a rank before that
    is loaded. Nor on the machines that a rank believes there are, for two ranks that believe
    different numbers would read the same lanes.

    For example 8 ranks, whose digits are bits. Ranks 0 to 7 have the residues
    ``0 4 2 6 1 5 3 7``: on two machines of four ranks those of the first are even and those of the
    second odd, and on four machines of two they agree modulo 4. With 4 canonical nodes given, so
    that h = 4, they are ``0 4 1 5 2 6 3 7``: each pair of ranks reads one canonical node.
    """
    common = gcd(nodes, dp_world_size) if nodes else 1
    block, within = divmod(rank, dp_world_size // common)
    reversed_digits, weight, rest = 0, 1, dp_world_size // common
    for radix in _prime_factors(rest):
        rest //= radix
        digit, within = divmod(within, rest)
        reversed_digits += digit * weight
        weight *= radix
    return block + common * reversed_digits


def _prime_factors(number: int) -> list[int]:
    """Descending: an odd factor is more likely to count machines than the ranks of one."""
    found, factor = [], 2
    while number > 1:
        while number % factor == 0:
            found.append(factor)
            number //= factor
        factor += 1
    return found[::-1]


class Lanes:
    """The lanes of a run.

    A document of a lane has a number, counted within its lane from 0 through all epochs, and a
    position, counted in the order from its beginning.

    Canonical nodes and lanes that are congruent modulo ``gcd(lanes, nodes)`` form a group. The
    documents of a group go to its lanes one each, over and over; each epoch continues with the lane
    that follows. For example 4 lanes, epochs of 7 documents and 2 canonical nodes, to which the
    positions of an epoch belong as ``0 1 0 1 0 1 1``::

        group 0: positions 0 2 4  7 9 11  14 16 18 …    lane 0: 0 4 9 14 18 …    lane 2: 2 7 11 16 …
        group 1: positions 1 3 5 6  8 10 12 13  15 …    lane 1: 1 5 8 12 15 …    lane 3: 3 6 10 13 …

    Args:
        count: Lanes, S.
        epoch_samples: Documents in an epoch, at least as many as canonical nodes.
        nodes: Canonical nodes.
    """

    def __init__(self, count: int, epoch_samples: int, nodes: int):
        self.count = count
        self._length = epoch_samples
        # Canonical nodes c and lanes l belong together where c and l agree modulo this.
        self._groups = gcd(count, nodes)
        self._group_lanes = count // self._groups
        rounds = epoch_samples // nodes
        self._body = rounds * nodes
        # After the whole rounds, the nodes with one sample more have one each (see `interleave`).
        longer = np.flatnonzero(np.diff(node_starts(epoch_samples, nodes)) > rounds)
        groups = longer % self._groups
        self._tail = self._body + np.argsort(groups, kind="stable").astype(np.int64)
        counts = np.bincount(groups, minlength=self._groups)
        self._tail_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        # Documents of each group in one epoch.
        self._sizes = self._body // self._groups + counts.astype(np.int64)

    def positions(self, lanes: Int64Array, documents: Int64Array) -> Int64Array:
        """Positions in the order of documents given by lane and number; all are int64[n]."""
        group, phase = lanes % self._groups, lanes // self._groups
        epoch, index = np.divmod(phase + documents * self._group_lanes, self._sizes[group])
        places = group + self._groups * index
        past = index - self._body // self._groups
        late = np.flatnonzero(past >= 0)
        places[late] = self._tail[self._tail_starts[group[late]] + past[late]]
        found: Int64Array = epoch * self._length + places
        return found

    def document(self, lane: int, position: int) -> int:
        """The number in its lane of the document at a position.

        Raises:
            MosaicDataError: The lane does not take that position.
        """
        epoch, place = divmod(position, self._length)
        group, phase = lane % self._groups, lane // self._groups
        if place < self._body:
            index = place // self._groups
        else:
            tail = self._tail[self._tail_starts[group] : self._tail_starts[group + 1]]
            index = self._body // self._groups + int(np.searchsorted(tail, place))
        number = (epoch * int(self._sizes[group]) + index - phase) // self._group_lanes
        own = self.positions(np.array([lane], np.int64), np.array([number], np.int64))
        if number < 0 or int(own[0]) != position:
            raise MosaicDataError(
                f"position {position} does not belong to lane {lane}; the saved lane belongs to "
                f"another run"
            )
        return number

    def first_from(self, lane: int, position: int) -> int:
        """The number of a lane's first document at a position of the order or after it."""
        epoch, place = divmod(position, self._length)
        group, phase = lane % self._groups, lane // self._groups
        # Documents of the group that lie before it in this epoch.
        before = -(-(min(place, self._body) - group) // self._groups)
        if place > self._body:
            tail = self._tail[self._tail_starts[group] : self._tail_starts[group + 1]]
            before += int(np.searchsorted(tail, place))
        index = epoch * int(self._sizes[group]) + max(0, before)
        return max(0, -(-(index - phase) // self._group_lanes))
