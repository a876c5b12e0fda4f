"""What there is to order: streams, their shards and how many samples an epoch takes from each."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Table entries for each interval; twice as many at the most.
_FINENESS = 4


class Intervals:
    """Finds intervals by a table and a comparison.

    A binary search over the shards of a large corpus takes 17 steps, most of them out of the
    processor's cache: with thousands of numbers in every batch it costs more than all else.

    Args:
        edges: int64[n + 1], ascending from 0: where each interval begins, and the end of all.
    """

    def __init__(self, edges: NDArray[np.int64]):
        self.edges = edges
        count, end = len(edges) - 1, int(edges[-1])
        self._shift = max(0, (end // (_FINENESS * count)).bit_length() - 1)
        # Where an interval begins within a bucket, the bucket's first number is not in it.
        first_bucket = -(-edges[1:-1] >> self._shift)
        begun = np.bincount(first_bucket, minlength=(end >> self._shift) + 1)
        self._first: NDArray[np.int32] = np.cumsum(begun).astype(np.int32)

    def find(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The interval, int64 of the same shape, that holds each number of ``[0, end)``."""
        found: NDArray[np.int64] = self._first[numbers >> self._shift].astype(np.int64)
        further = np.flatnonzero(numbers >= self.edges[found + 1])
        if len(further):
            flat = found.reshape(-1)
            beyond = numbers.reshape(-1)[further]
            flat[further] += 1
            # Several intervals may begin within one bucket.
            much = np.flatnonzero(beyond >= self.edges[flat[further] + 1])
            flat[further[much]] = np.searchsorted(self.edges, beyond[much], side="right") - 1
        return found


Int64Array = NDArray[np.int64]


class TokenMean(NamedTuple):
    """Target tokens that a sample of a stream gives, on average.

    Attributes:
        millitokens: Thousandths of tokens, at least 1.
        source: Where the figure comes from, in words.
        estimated: Whether it is a guess by sizes, good enough where nothing counts tokens.
    """

    millitokens: int
    source: str
    estimated: bool = False


@dataclass(frozen=True)
class StreamSize:
    """One stream as the order sees it.

    Attributes:
        name: How messages call the stream.
        samples_per_shard: int64[num_shards], samples in each shard.
        choose: Samples that one epoch draws from the stream (its weight, resolved).
    """

    name: str
    samples_per_shard: Int64Array
    choose: int

    @property
    def samples(self) -> int:
        """Samples in the stream."""
        return int(self.samples_per_shard.sum())


@dataclass(frozen=True)
class Mixture:
    """Streams side by side. Sample ids run through all shards of all streams, in order."""

    streams: Sequence[StreamSize]

    @cached_property
    def samples_per_shard(self) -> Int64Array:
        """int64[total shards], over all streams."""
        if len(self.streams) == 1:
            # Not a second time: there are many.
            return self.streams[0].samples_per_shard
        return np.concatenate([s.samples_per_shard for s in self.streams]).astype(np.int64)

    @cached_property
    def shard_offsets(self) -> Int64Array:
        """int64[total shards + 1], the id of each shard's first sample, and the total."""
        return np.concatenate([[0], np.cumsum(self.samples_per_shard)]).astype(np.int64)

    @cached_property
    def stream_shards(self) -> Int64Array:
        """int64[streams + 1], the number of each stream's first shard, and the total."""
        counts = [len(s.samples_per_shard) for s in self.streams]
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    @cached_property
    def stream_offsets(self) -> Int64Array:
        """int64[streams + 1], the id of each stream's first sample, and the total."""
        return self.shard_offsets[self.stream_shards]

    @property
    def num_samples(self) -> int:
        """Samples in all streams, each counted once."""
        return int(self.shard_offsets[-1])

    @property
    def epoch_samples(self) -> int:
        """Samples that one epoch draws from all streams together."""
        return sum(s.choose for s in self.streams)

    def locate(self, ids: Int64Array) -> tuple[Int64Array, Int64Array]:
        """Shard and place within it, both of the shape of ``ids``, of each sample id."""
        shards = np.searchsorted(self.shard_offsets, ids, side="right") - 1
        return shards, ids - self.shard_offsets[shards]

    def shard_in_stream(self, shard: int) -> tuple[int, int]:
        """The number of the stream that a shard belongs to, and the shard's number in it."""
        stream = int(self.stream_shards.searchsorted(shard, side="right")) - 1
        return stream, shard - int(self.stream_shards[stream])

    def stream_of(self, ids: Int64Array) -> Int64Array:
        """Stream number, of the shape of ``ids``, of each sample id."""
        return self._stream_intervals.find(ids)

    def count_per_stream(self, ids: Int64Array) -> Int64Array:
        """Samples of each stream, int64[batches, streams], among ids, int64[batches, B]."""
        if len(self.streams) == 1:
            return np.full((len(ids), 1), ids.shape[1], np.int64)
        return self.count_streams(self.stream_of(ids))

    def count_streams(self, numbers: Int64Array) -> Int64Array:
        """How often each stream occurs, int64[batches, streams], in numbers, int64[batches, B]."""
        batches, streams = len(numbers), len(self.streams)
        places = numbers + np.arange(batches)[:, None] * streams
        counts = np.bincount(places.ravel(), minlength=batches * streams)
        return counts.astype(np.int64).reshape(batches, streams)

    @cached_property
    def _stream_intervals(self) -> Intervals:
        return Intervals(self.stream_offsets)
