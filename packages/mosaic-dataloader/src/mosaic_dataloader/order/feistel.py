"""The ``feistel`` order: any position of an epoch without the epoch in memory.

An epoch is a list of segments, each a whole shard or a part of one. The segments lie in a random
order that is fixed for the run, so that each canonical node keeps its shards; every epoch permutes
them again within their canonical node. Neighbouring segments form windows of about
``shuffle_block_size`` samples, and within a window the samples are permuted by a keyed permutation,
so that only the shards of one window are in use at a time. Memory grows with the shards, not with
the samples.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.order.assign import node_of, node_starts
from mosaic_dataloader.order.mixture import Int64Array, Intervals, Mixture
from mosaic_dataloader.order.permute import Permutations, keys, permuted
from mosaic_dataloader.order.resolved import ResolvedOrder


def extra_samples(samples: Int64Array, rest: int, granularity: int, key: int) -> Int64Array:
    """Split samples over the shards of a stream, none of which is taken more than once.

    Every shard gives the same share of its samples, rounded up or down to whole multiples of the
    granularity; which way is random. With a granularity of a shard's size, whole shards are drawn
    or left out.

    Args:
        samples: int64[shards], samples in each shard.
        rest: Samples in all, fewer than there are.
        granularity: Samples taken from the same shard at a time.
        key: Decides which shards are rounded up.

    Returns:
        int64[shards], samples of each shard to take; they add up to ``rest``.
    """
    if not rest:
        return np.zeros(len(samples), np.int64)
    by_key = np.argsort(keys(key, np.arange(len(samples))), kind="stable")
    # Python integers: the product exceeds 64 bits where both are beyond billions.
    share = rest / int(samples.sum())
    if granularity == 1:
        upto = np.minimum(np.floor(np.cumsum(samples[by_key]) * share), rest).astype(np.int64)
        upto[-1] = rest
        per_shard = np.empty(len(samples), np.int64)
        per_shard[by_key] = np.diff(upto, prepend=0)
        # Rounding of the product may ask one sample too many of a shard taken nearly whole.
        if (per_shard <= samples).all():
            return per_shard
    # Take whole multiples shard by shard, carrying over what is too little or too much.
    sizes, taken = samples.tolist(), np.zeros(len(samples), np.int64)
    owed, left = 0.0, rest
    for shard in by_key.tolist():
        owed += sizes[shard] * share
        picks = int(owed / granularity + 0.5)
        taken[shard] = size = max(0, min(picks * granularity, sizes[shard], left))
        owed -= size
        left -= size
    # What rounding left over: at most about one multiple.
    for shard in by_key.tolist():
        more = min(sizes[shard] - int(taken[shard]), left)
        taken[shard] += more
        left -= more
    return taken


# So that keys for different purposes never agree.
_COUNTS, _MEMBERS, _RUN, _EPOCH, _WINDOW = range(5)


class FeistelOrder:
    """One epoch; has the interface of ``ListedEpoch``.

    ``streams`` are all by default, and ``block``, the samples in a window, is the options'
    ``shuffle_block_size``.
    """

    def __init__(
        self,
        mixture: Mixture,
        options: ResolvedOrder,
        epoch: int,
        streams: range | None = None,
        block: int | None = None,
    ):
        seed = options.shuffle_seed
        # The samples drawn stay the same from epoch to epoch if the method says so.
        self._drawn = (seed, epoch if options.sampling_method == "balanced" else 0)
        self._key = (seed, epoch)
        self._nodes = options.num_canonical_nodes
        self._mixture = mixture
        segments = self._draw(mixture, options, streams or range(len(mixture.streams)))
        self._lay_out(*segments, block or options.shuffle_block_size)

    def __len__(self) -> int:
        """Samples in the epoch."""
        return self._length

    def rows(self, start: int, stop: int) -> tuple[Int64Array, Int64Array]:
        """Sample ids and their canonical nodes, both int64[stop - start], at ``[start, stop)``."""
        return self.listed(self._places(start, stop)), self.canonical_nodes(start, stop)

    def canonical_nodes(self, start: int, stop: int) -> Int64Array:
        """Canonical nodes, int64[stop - start], of the positions ``[start, stop)``."""
        return node_of(np.arange(start, stop, dtype=np.int64), self._length, self._nodes)

    def ids_at(self, positions: Int64Array) -> Int64Array:
        """Sample ids, int64[n], at positions of the epoch, int64[n]."""
        nodes = node_of(positions, self._length, self._nodes)
        return self.listed(self._node_starts[nodes] + positions // self._nodes)

    def streams(self, start: int, stop: int) -> Int64Array:
        """Stream numbers, int64[stop - start], of the positions ``[start, stop)``.

        Takes much less than finding the samples: which of a shard's are drawn does not matter.
        """
        span = self._spans.find(self._mixed(self._places(start, stop)))
        numbers: Int64Array = self._stream[span].astype(np.int64)
        return numbers

    def listed(self, places: Int64Array) -> Int64Array:
        """Sample ids, int64[n], at places of the epoch's list as it lies node after node."""
        places = self._mixed(places)
        span = self._spans.find(places)
        within = self._first[span] + places - self._spans.edges[span]
        shard, drawn = self._shard[span], self._drawn_of[span]
        samples = self._mixture.samples_per_shard[shard]
        # A shard drawn whole needs no choice; the window's permutation mixes it.
        part = np.flatnonzero(drawn < samples)
        if len(part):
            which = keys(_MEMBERS, *self._drawn, shard[part])
            within[part] = permuted(within[part], samples[part], which)
        ids: Int64Array = self._mixture.shard_offsets[shard] + within
        return ids

    def _places(self, start: int, stop: int) -> Int64Array:
        """Places in the list, int64[stop - start], of the positions ``[start, stop)``."""
        first, last = start // self._nodes, -(-stop // self._nodes)
        if last > self._length // self._nodes:
            positions = np.arange(start, stop, dtype=np.int64)
            nodes = node_of(positions, self._length, self._nodes)
            return self._node_starts[nodes] + positions // self._nodes
        # In whole rounds the nodes follow one another: no division.
        rounds = np.arange(first, last, dtype=np.int64)[:, None] + self._node_starts[:-1]
        return rounds.ravel()[start - first * self._nodes : stop - first * self._nodes]

    def _mixed(self, places: Int64Array) -> Int64Array:
        """Where in the list, int64[n], the windows' permutations send places of it."""
        window = self._windows.find(places)
        begin = self._windows.edges[window]
        return begin + self._in_window.at(window, places - begin)

    def _draw(
        self, mixture: Mixture, options: ResolvedOrder, streams: range
    ) -> tuple[Int64Array, Int64Array, Int64Array]:
        """The segments that the epoch draws, int64[segments] each.

        Which shard each is of, how many times the epoch has held the whole shard before it, and its
        samples.
        """
        shards: list[Int64Array] = []
        copies: list[Int64Array] = []
        sizes: list[Int64Array] = []
        for number in streams:
            stream = mixture.streams[number]
            samples = stream.samples_per_shard
            own = int(mixture.stream_shards[number]) + np.arange(len(samples))
            whole, rest = divmod(stream.choose, stream.samples)
            key = int(keys(_COUNTS, *self._drawn, number)[0])
            extra = extra_samples(samples, rest, options.sampling_granularity, key)
            for copy, drawn in [*((c, samples) for c in range(whole)), (whole, extra)]:
                used = np.flatnonzero(drawn)
                shards.append(own[used])
                copies.append(np.full(len(used), copy, np.int64))
                sizes.append(drawn[used])
        return np.concatenate(shards), np.concatenate(copies), np.concatenate(sizes)

    def _lay_out(
        self, shards: Int64Array, copies: Int64Array, drawn: Int64Array, block: int
    ) -> None:
        """Cut the segments at the canonical nodes' bounds, order them, and group them into windows.

        Three shards of 4 samples each (0 to 3, 4 to 7, 8 to 11), two canonical nodes, blocks of 4,
        seed 9176. The run's own order of the segments is shards 0, 1, 2; node 0 has the first 6 of
        these 12 samples and node 1 the rest, so that shard 1 is cut in two. In epoch 0

        - the keys order the spans as ``[4 5] [0 1 2 3] | [8 9 10 11] [6 7]``, node after node, and
          in epoch 1 as ``[4 5] [0 1 2 3] | [6 7] [8 9 10 11]``;
        - each node of 6 samples has round(6 / 4) = 2 windows, or rather stretches of 3: a window
          is made of the spans that begin in one. Node 0's begin at 0 and 2, both in the first
          stretch: one window of 6. Node 1's begin at 0 and 4: windows of 4 and 2;
        - the windows' permutations make the list ``2 1 3 0 5 4 | 8 10 9 11, 7 6`` of it;
        - interleaved over the nodes, the positions of the epoch hold ``2 8 1 10 3 9 0 11 5 7 4 6``.
        """
        seed, epoch = self._key
        order = np.argsort(keys(_RUN, seed, shards, copies), kind="stable")
        ends = np.cumsum(drawn[order])
        self._length = int(ends[-1])
        self._node_starts = node_starts(self._length, self._nodes)
        # Every segment begins a span, and so does every canonical node.
        begins = np.union1d(ends - drawn[order], self._node_starts[:-1])
        segment = np.searchsorted(ends, begins, side="right")
        first = begins - (ends - drawn[order])[segment]
        segment = order[segment]
        sizes = np.diff(begins, append=self._length)
        node = np.searchsorted(self._node_starts, begins, side="right") - 1
        epoch_keys = keys(_EPOCH, seed, epoch, shards[segment], copies[segment], first)
        by_node = np.lexsort((epoch_keys, node))
        self._shard = _narrow(shards[segment][by_node])
        self._drawn_of = _narrow(drawn[segment][by_node])
        self._first = _narrow(first[by_node])
        self._stream = _narrow(
            np.searchsorted(self._mixture.stream_shards, self._shard, side="right") - 1
        )
        spans = np.concatenate([[0], np.cumsum(sizes[by_node])]).astype(np.int64)
        self._spans = Intervals(spans)
        # Each canonical node has equal windows; one begins with the first span that begins in it.
        node = node[by_node]
        lengths = np.diff(self._node_starts)
        counts = np.maximum(1, np.rint(lengths / block).astype(np.int64))
        stretch = (spans[:-1] - self._node_starts[node]) * counts[node] // lengths[node]
        fresh = np.flatnonzero(np.diff(stretch, prepend=-1) | np.diff(node, prepend=-1))
        windows = np.append(spans[fresh], self._length)
        self._windows = Intervals(windows)
        key = keys(_WINDOW, seed, epoch, np.arange(len(windows) - 1))
        self._in_window = Permutations(np.diff(windows), key)


def _narrow(values: Int64Array) -> NDArray[np.integer[Any]]:
    """The same numbers, none negative, in half the bytes if these hold them: there are many."""
    return values.astype(np.uint32) if int(values.max()) < 1 << 32 else values
