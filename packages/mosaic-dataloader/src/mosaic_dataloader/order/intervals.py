"""Which of many intervals end to end a number lies in."""

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
