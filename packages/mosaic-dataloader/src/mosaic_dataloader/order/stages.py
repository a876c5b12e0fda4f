"""Stages: a mixture that changes during the run, at any position without a replay.

**Blocks.** Position p belongs to canonical node ``p mod J``. A stage begins at a multiple of J and
is cut into blocks of ``BLOCK`` positions per node. In a block, each node draws a fixed number of
times from each stream: the stream's weight, as a whole number of the ``BLOCK`` draws. Which draw
stands where is a keyed permutation for each node and block. So every stream's share is exact in
every block, and what was drawn before a block is a product.

**A stream's own order** is its epochs one after another, each interleaved over the J nodes as the
epochs order interleaves them: node j owns every J-th place. Node j takes the samples that it owns,
one after another, for as long as there are some; when its own are used up before the epoch is, it
takes those of nodes that are behind. Only when all are used up, the next epoch begins. So no sample
is seen again before every other of its stream was, and machines keep reading their own shards.

**Random access.** What each node has taken of a stream's epoch grows by the same number with every
block, except in blocks in which an epoch begins or a node runs out. The block in which the present
epoch began follows from a division; it and at most two others have to be looked into.

Worked example: 1 node, streams A of 3 samples and B of 100, a block of 8 positions (`BLOCK` is
65,536; 8 makes it short), weights 0.25 and 0.75. Each block draws A twice and B 6 times. Before
block 5, A was drawn 10 times: it is in epoch ``10 // 3 = 3`` and has given ``10 - 3 * 3 = 1``
sample of it. If the permutation puts the draws of A at places 2 and 7 of block 5, then positions 42
and 47 are the second and the third sample of A's epoch 3, and B's draws are numbers 30 to 35 of its
epoch 0. If a second stage with equal weights begins at position 44, A has been drawn 11 times and B
33 times before it, and both continue from there.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.assign import node_starts
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.permute import Permutations, keys

T = TypeVar("T")

# Positions of a block, for each canonical node.
BLOCK = 1 << 16
# Streams of fewer samples per node than this are handed out in turn, whoever owns them: they lie in
# a few shards, and an epoch of theirs may end many times in a block.
_LEAST_OWNED = 512
# Blocks held ready at least: those of two neighboring batches.
_KEPT = 3
# So that keys for different purposes never agree.
_PURPOSE = 5


@dataclass(frozen=True)
class Stage:
    """A part of the run with one mixture.

    Attributes:
        start: Position at which it begins, a multiple of the canonical nodes.
        counts: Draws from each stream in a block of one node; they add up to the block's length.
    """

    start: int
    counts: tuple[int, ...]


def draws_per_block(weights: Sequence[float], block: int = BLOCK) -> tuple[int, ...]:
    """Turn weights into whole numbers of draws that add up to a block (largest remainder).

    Every stream with a positive weight gets one draw at least.

    Worked example, for a block of 8: weights 0.5, 0.3 and 0.2 want 4, 2.4 and 1.6 draws. Rounded
    down these are 7; the eighth goes to the largest remainder, 0.6: 4, 2 and 2.

    Raises:
        MosaicDataError: No weight is positive, or more are than a block has positions.
    """
    wanted = np.asarray(weights, np.float64)
    positive = wanted > 0
    if not positive.any():
        raise MosaicDataError("a stage's weights are all 0; give at least one stream more than 0")
    if positive.sum() > block:
        raise MosaicDataError(f"a stage mixes {positive.sum():,} streams; the most is {block:,}")
    wanted = wanted / wanted.sum() * block
    draws = np.floor(wanted).astype(np.int64)
    by_remainder = np.argsort(draws - wanted, kind="stable")
    draws[by_remainder[: block - int(draws.sum())]] += 1
    for stream in np.flatnonzero(positive & (draws == 0)):
        draws[draws.argmax()] -= 1
        draws[stream] = 1
    return tuple(draws.tolist())


class Draws(NamedTuple):
    """What positions draw; all arrays are of one length.

    Attributes:
        streams: uint16[n], the stream.
        epochs: int64[n], the stream's own epoch, from 0.
        places: int64[n], the place in the order of that epoch.
    """

    streams: NDArray[np.uint16]
    epochs: Int64Array
    places: Int64Array


class _Taken(NamedTuple):
    """What was taken of a stream.

    Attributes:
        epoch: The epoch that the next sample belongs to.
        owned: int64[J], how many of each node's own samples of that epoch were taken. For a stream
            that is handed out in turn: int64[1], how many samples of it.
    """

    epoch: int
    owned: Int64Array


class StageOrder:
    """Which sample of which stream each position draws, through any number of stages.

    A pure function of its arguments.

    Args:
        samples: Samples of each stream, at least 1; streams that no stage draws from may be there.
        nodes: Canonical nodes, J.
        seed: Seed of where a stream's draws stand in a block.
        stages: The stages; the first begins at 0, and each of the others after the one before.
        block: Positions of a block, for each node.
        kept: Positions whose blocks are held ready: as many as lie between the first and the last
            that are looked up in turns. Each takes about 14 bytes.

    Raises:
        MosaicDataError: A stage does not begin at a multiple of the nodes, after the one before it.
    """

    def __init__(
        self,
        samples: Sequence[int],
        nodes: int,
        seed: int,
        stages: Sequence[Stage],
        block: int = BLOCK,
        kept: int = 0,
    ):
        self._samples = samples
        self._nodes = nodes
        self._seed = seed
        self._block = block
        self.stages = tuple(stages)
        self._starts = np.array([stage.start for stage in stages], np.int64)
        if self._starts[0] or (np.diff(self._starts) <= 0).any() or (self._starts % nodes).any():
            raise MosaicDataError(
                f"stages begin at {self._starts.tolist()}: the first must begin at 0, and each "
                f"of the others later, at a multiple of the {nodes} canonical nodes"
            )
        # Samples that each node owns in an epoch of each stream.
        self._owned = [
            np.diff(node_starts(count, nodes if self.in_parts(number) else 1))
            for number, count in enumerate(samples)
        ]
        self._place_type = np.min_scalar_type(max(samples))
        self._kept = max(_KEPT, kept // (nodes * block))
        self._at_start: list[list[_Taken]] = []
        self._placed: OrderedDict[tuple[int, int], _Placed] = OrderedDict()
        self._found: OrderedDict[tuple[int, int], tuple[Draws, list[_Taken]]] = OrderedDict()

    def in_parts(self, stream: int) -> bool:
        """Whether each canonical node draws from its own part of a stream."""
        return self._samples[stream] >= _LEAST_OWNED * self._nodes

    def stage_at(self, position: int) -> int:
        """The number of the stage that a position lies in."""
        return int(np.searchsorted(self._starts, position, side="right")) - 1

    def streams(self, start: int, stop: int) -> NDArray[np.uint16]:
        """The stream, uint16[stop - start], that each of the positions ``[start, stop)`` draws."""
        parts = []
        while start < stop:
            stage, number, first, after = self._block_of(start)
            after = min(after, stop)
            parts.append(self._placement(stage, number).streams[start - first : after - first])
            start = after
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def draws(self, positions: Int64Array) -> Draws:
        """What each of some positions draws; int64[n], in any order."""
        streams = np.empty(len(positions), np.uint16)
        epochs, places = np.empty_like(positions), np.empty_like(positions)
        left = np.arange(len(positions))
        while len(left):
            stage, number, first, after = self._block_of(int(positions[left[0]]))
            within = (positions[left] >= first) & (positions[left] < after)
            own, left = left[within], left[~within]
            found, offset = self._draws_of(stage, number)[0], positions[own] - first
            streams[own] = found.streams[offset]
            epochs[own] = found.epochs[offset]
            places[own] = found.places[offset]
        return Draws(streams, epochs, places)

    def taken(self, position: int) -> Int64Array:
        """Draws from each stream, int64[streams], at the positions before a multiple of the nodes.

        Worked example: see the module; before position 44 these are 11 and 33.
        """
        stage = self.stage_at(position)
        number, rest = divmod(position - self.stages[stage].start, self._block * self._nodes)
        placed = self._placement(stage, number)
        counts = np.array(self.stages[stage].counts, np.int64)
        in_block = np.bincount(placed.streams[:rest], minlength=len(counts))
        since = counts * self._nodes * number + in_block
        return self._total(stage) + since

    def _total(self, stage: int) -> Int64Array:
        """Draws from each stream, int64[streams], before a stage."""
        taken = self._taken_before_stage(stage)
        return np.array(
            [t.epoch * n + int(t.owned.sum()) for t, n in zip(taken, self._samples, strict=True)],
            np.int64,
        )

    def _block_of(self, position: int) -> tuple[int, int, int, int]:
        """Stage and block number of a position, and where that block begins and ends."""
        stage = self.stage_at(position)
        start, size = self.stages[stage].start, self._block * self._nodes
        number = (position - start) // size
        first = start + number * size
        ends = self._starts[stage + 1 : stage + 2].tolist()
        return stage, number, first, min([first + size, *ends])

    def _draws_of(self, stage: int, number: int) -> tuple[Draws, list[_Taken]]:
        """What a whole block draws, and what is taken after it; the last ones are kept."""
        if (stage, number) not in self._found:
            before = self._found.get((stage, number - 1))
            taken = before[1] if before else self._taken_before(stage, number)
            self._found[stage, number] = self._draw_block(stage, number, taken)
        return _latest(self._found, (stage, number), self._kept)

    def _draw_block(
        self, stage: int, number: int, taken: list[_Taken]
    ) -> tuple[Draws, list[_Taken]]:
        placed = self._placement(stage, number)
        epochs = np.empty(len(placed.streams), np.int64)
        places = np.empty(len(placed.streams), self._place_type)
        after = list(taken)
        for stream, count in enumerate(self.stages[stage].counts):
            if count:
                at = placed.positions_of(stream)
                epochs[at], owners, indices = self._hand_out(stream, at, taken[stream])
                places[at] = self._places(stream, owners, indices)
                after[stream] = self._taken_after(stream, taken[stream], epochs[at], owners)
        return Draws(placed.streams, epochs, places), after

    def _hand_out(
        self, stream: int, at: Int64Array, taken: _Taken
    ) -> tuple[Int64Array, Int64Array, Int64Array]:
        """Hand out a stream's samples to the draws of a block at some places in it, ascending.

        Returns, int64[n] each, the epoch, the node that owns the sample, and its number among the
        samples of that epoch that the node owns.
        """
        owned = self._owned[stream]
        if len(owned) == 1:
            numbers = int(taken.owned[0]) + np.arange(len(at), dtype=np.int64)
            epochs, indices = np.divmod(numbers, self._samples[stream])
            return taken.epoch + epochs, np.zeros_like(indices), indices
        nodes = at % self._nodes
        epochs, owners, indices = (np.empty_like(at) for _ in range(3))
        epoch, used, begin = taken.epoch, taken.owned, 0
        while begin < len(at):
            left = owned - used
            part = slice(begin, min(len(at), begin + int(left.sum())))
            epochs[part] = epoch
            owners[part] = _owners(nodes[part], left)
            indices[part] = used[owners[part]] + _occurrences(owners[part], self._nodes)
            epoch, used, begin = epoch + 1, np.zeros_like(used), part.stop
        return epochs, owners, indices

    def _taken_after(
        self, stream: int, before: _Taken, epochs: Int64Array, owners: Int64Array
    ) -> _Taken:
        """What is taken of a stream after some of its draws, in the order of their positions."""
        if not len(epochs):
            return before
        epoch, owned = int(epochs[-1]), self._owned[stream]
        used = np.bincount(owners[epochs == epoch], minlength=len(owned))
        if epoch == before.epoch:
            used += before.owned
        if (used == owned).all():
            return _Taken(epoch + 1, np.zeros_like(used))
        return _Taken(epoch, used)

    def _places(self, stream: int, owners: Int64Array, indices: Int64Array) -> Int64Array:
        """Places, int64[n], in a stream's epoch of samples given by their owner and number."""
        owned = self._owned[stream]
        if len(owned) == 1:
            return indices
        rounds = self._samples[stream] // self._nodes
        places = indices * self._nodes + owners
        last = np.flatnonzero(indices >= rounds)
        # The nodes that own one sample more have it at the epoch's end, one after another.
        places[last] = rounds * self._nodes + np.cumsum(owned > rounds)[owners[last]] - 1
        return places

    def _taken_before_stage(self, stage: int) -> list[_Taken]:
        while len(self._at_start) <= stage:
            self._at_start.append(self._next_start(len(self._at_start)))
        return self._at_start[stage]

    def _next_start(self, stage: int) -> list[_Taken]:
        """What was taken before a stage, from what was before the one that it follows."""
        if not stage:
            return [_Taken(0, np.zeros_like(owned)) for owned in self._owned]
        last = self.stages[stage - 1]
        length = self.stages[stage].start - last.start
        number, rest = divmod(length, self._block * self._nodes)
        taken = self._taken_before(stage - 1, number)
        if not rest:
            return taken
        placed = self._placement(stage - 1, number)
        for stream, count in enumerate(last.counts):
            if count:
                # Handed out as if the stage continued: nobody knew where it would end.
                at = placed.positions_of(stream)
                epochs, owners, _ = self._hand_out(stream, at, taken[stream])
                cut = int(np.searchsorted(at, rest))
                taken[stream] = self._taken_after(stream, taken[stream], epochs[:cut], owners[:cut])
        return taken

    def _taken_before(self, stage: int, number: int) -> list[_Taken]:
        """What was taken of each stream before a block."""
        return [
            self._taken_of(stage, number, stream, count, start)
            for stream, (count, start) in enumerate(
                zip(self.stages[stage].counts, self._taken_before_stage(stage), strict=True)
            )
        ]

    def _taken_of(self, stage: int, number: int, stream: int, count: int, start: _Taken) -> _Taken:
        samples, owned = self._samples[stream], self._owned[stream]
        before = start.epoch * samples + int(start.owned.sum())
        total = before + number * count * self._nodes
        epoch = total // samples
        if len(owned) == 1:
            return _Taken(epoch, np.array([total - epoch * samples]))
        if not count or not number:
            return start
        used, done = start.owned, 0
        if epoch != start.epoch:
            # The block in which this epoch begins, and the draw of it.
            done, first = divmod(epoch * samples - before, count * self._nodes)
            used = np.zeros_like(owned)
            if done < number:
                at = self._placement(stage, done).positions_of(stream)[first:]
                owners = _owners(at % self._nodes, owned)
                used = np.bincount(owners, minlength=len(owned))
                done += 1
        while done < number:
            # As many blocks as find samples of its own for every node.
            plain = min(number - done, int(((owned - used) // count).min()))
            if plain:
                used = used + count * plain
                done += plain
                continue
            at = self._placement(stage, done).positions_of(stream)
            used = used + np.bincount(_owners(at % self._nodes, owned - used), minlength=len(owned))
            done += 1
        return _Taken(epoch, used)

    def _placement(self, stage: int, number: int) -> "_Placed":
        """Where in a block the streams' draws stand; the last ones are kept."""
        if (stage, number) not in self._placed:
            start, counts = self.stages[stage].start, self.stages[stage].counts
            nodes = np.arange(self._nodes)
            key = keys(_PURPOSE, self._seed, start, number, nodes)
            block = Permutations(np.full(self._nodes, self._block, np.int64), key)
            which = np.tile(nodes, self._block)
            index = np.repeat(np.arange(self._block, dtype=np.int64), self._nodes)
            table = np.repeat(np.arange(len(counts), dtype=np.uint16), counts)
            self._placed[stage, number] = _Placed(table[block.at(which, index)], len(counts))
        return _latest(self._placed, (stage, number), _KEPT)


class _Placed:
    """A block's draws: uint16[J * block], the stream of each position."""

    def __init__(self, streams: NDArray[np.uint16], count: int):
        self.streams = streams
        self._count = count

    @cached_property
    def _sorted(self) -> tuple[Int64Array, Int64Array]:
        by_stream = np.argsort(self.streams, kind="stable")
        ends = np.cumsum(np.bincount(self.streams, minlength=self._count))
        return by_stream, np.concatenate([[0], ends])

    def positions_of(self, stream: int) -> Int64Array:
        """Places, int64[n], of a stream's draws within the block, ascending."""
        by_stream, bounds = self._sorted
        return by_stream[bounds[stream] : bounds[stream + 1]]


def _latest(cache: "OrderedDict[tuple[int, int], T]", key: tuple[int, int], most: int) -> T:
    """An entry of a cache of so many, now the last one to be dropped."""
    cache.move_to_end(key)
    while len(cache) > most:
        cache.popitem(last=False)
    return cache[key]


def _owners(nodes: Int64Array, left: Int64Array) -> Int64Array:
    """The node whose sample each draw takes.

    Args:
        nodes: int64[n], the node of each draw, in the order of positions.
        left: int64[J], samples that each node still owns in this epoch; at least n together.

    Returns:
        int64[n]: the draw's own node while it owns some; for draws beyond that, a node that owns
        more than it draws itself.
    """
    wanted = np.bincount(nodes, minlength=len(left))
    if (wanted <= left).all():
        return nodes
    beyond = _occurrences(nodes, len(left)) >= left[nodes]
    spare = np.repeat(np.arange(len(left)), np.maximum(left - wanted, 0))
    owners = nodes.copy()
    owners[beyond] = spare[: int(beyond.sum())]
    return owners


def _occurrences(labels: Int64Array, count: int) -> Int64Array:
    """How often each label stands before it in the list, int64[n]; labels are below ``count``."""
    order = np.argsort(labels, kind="stable")
    begins = np.cumsum(np.bincount(labels, minlength=count)) - np.bincount(labels, minlength=count)
    occurrences = np.empty_like(labels)
    occurrences[order] = np.arange(len(labels)) - begins[labels[order]]
    return occurrences
