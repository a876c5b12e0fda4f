"""How many samples an epoch of the ``feistel`` order draws from each shard.

Counts only: which of a shard's samples they are is decided by a keyed permutation, index by index.
"""

import numpy as np

from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.order.permute import keys


def extra_draws(samples: Int64Array, rest: int, granularity: int, key: int) -> Int64Array:
    """Split draws that take no shard more than once over the shards of a stream.

    Every shard gives the same share of its samples, rounded up or down to whole multiples of the
    granularity; which way is random. With a granularity of a shard's size, whole shards are drawn
    or left out.

    Args:
        samples: int64[shards], samples in each shard.
        rest: Draws in all, fewer than there are samples.
        granularity: Samples taken from the same shard at a time.
        key: Decides which shards are rounded up.

    Returns:
        int64[shards], draws from each shard, none above its samples; they add up to ``rest``.
    """
    total = int(samples.sum())
    draws = np.zeros(len(samples), np.int64)
    if not rest:
        return draws
    turn = np.argsort(keys(key, np.arange(len(samples))), kind="stable")
    ends = np.cumsum(samples[turn])
    # Python integers: the product leaves 64 bits behind where both are beyond billions.
    share = rest / total
    if granularity == 1:
        upto = np.minimum(np.floor(ends * share), rest).astype(np.int64)
        upto[-1] = rest
        draws[turn] = np.diff(upto, prepend=0)
        # Rounding of the product may ask one draw too many of a shard drawn nearly whole.
        if (draws <= samples).all():
            return draws
        draws[:] = 0
    _diffuse(draws, samples, turn, rest, granularity, share)
    return draws


def _diffuse(
    draws: Int64Array,
    samples: Int64Array,
    turn: Int64Array,
    rest: int,
    granularity: int,
    share: float,
) -> None:
    """Draw shard by shard in whole multiples, carrying on what is too little or too much."""
    sizes = samples.tolist()
    owed = 0.0
    left = rest
    for shard in turn.tolist():
        owed += sizes[shard] * share
        picks = int(owed / granularity + 0.5)
        taken = max(0, min(picks * granularity, sizes[shard], left))
        draws[shard] = taken
        owed -= taken
        left -= taken
    # What rounding left over: at most about one multiple.
    for shard in turn.tolist():
        if not left:
            return
        more = min(sizes[shard] - int(draws[shard]), left)
        draws[shard] += more
        left -= more
