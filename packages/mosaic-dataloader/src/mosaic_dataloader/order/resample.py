"""Drawing and shuffling an epoch's samples, bit for bit as mosaicml-streaming does it.

The rules are those of ``streaming.base.sampling.get_sampling`` and
``StreamingDataset.resample_streams`` (mosaicml-streaming 0.13); the loop over single picks is a
cumulative sum here.
"""

import warnings
from collections.abc import Iterable

import numpy as np

from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.order.resolved import ResolvedOrder


def choose_per_shard(samples: Int64Array, choose: int, granularity: int, seed: int) -> Int64Array:
    """Split an epoch's samples of a stream over its shards.

    Whole repeats of the stream take every shard; the rest is picked ``granularity`` samples at a
    time, in a shuffled order of picks.

    Args:
        samples: int64[shards], samples in each shard.
        choose: Samples in all.
        granularity: Samples taken from the same shard at a time.
        seed: Seed of the order of picks.

    Returns:
        int64[shards], samples from each shard; they add up to ``choose``.
    """
    total = int(samples.sum())
    whole, rest = divmod(choose, total)
    if not rest:
        return samples * whole
    picks = -(-samples // granularity)
    pick_shards = np.repeat(np.arange(len(samples)), picks)
    pick_sizes = np.full(len(pick_shards), granularity, np.int64)
    pick_sizes[np.cumsum(picks) - 1] = samples - (picks - 1) * granularity
    order = np.random.default_rng(seed).permutation(len(pick_shards))
    taken = np.cumsum(pick_sizes[order])
    # Picks are taken until ``rest`` is reached; the last one gives only what is still missing.
    last = int(np.searchsorted(taken, rest))
    used = order[: last + 1]
    sizes = pick_sizes[used]
    sizes[-1] -= taken[last] - rest
    extra = np.bincount(pick_shards[used], weights=sizes, minlength=len(samples))
    return samples * whole + extra.astype(np.int64)


def resample(
    mixture: Mixture, options: ResolvedOrder, epoch: int, streams: Iterable[int]
) -> tuple[Int64Array, Int64Array]:
    """Draw an epoch's samples of some streams, in the order of their shards.

    Returns:
        ``sizes``, int64[segments]: samples in each segment that the shuffle treats like a shard (a
        shard drawn two and a half times is three of them), and ``ids``, int64[samples]: the sample
        ids of these segments, one segment after another.
    """
    seed = options.shuffle_seed
    rng = np.random.default_rng(seed + epoch if options.sampling_method == "balanced" else seed)
    pick_seed = seed + epoch if options.seed_changes_with_epoch else seed
    sizes: list[int] = []
    ids: list[Int64Array] = []
    for number in streams:
        stream = mixture.streams[number]
        draws = choose_per_shard(
            stream.samples_per_shard, stream.choose, options.sampling_granularity, pick_seed
        )
        first_shard = int(mixture.stream_shards[number])
        for place, (size, drawn) in enumerate(
            zip(stream.samples_per_shard.tolist(), draws.tolist(), strict=True)
        ):
            offset = int(mixture.shard_offsets[first_shard + place])
            whole, rest = divmod(drawn, size) if size else (0, 0)
            sizes += [size] * whole
            ids += [np.arange(offset, offset + size)] * whole
            if rest:
                sizes.append(rest)
                ids.append(offset + np.sort(rng.choice(size, rest, replace=False)))
    if not sizes:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.array(sizes, np.int64), np.concatenate(ids).astype(np.int64)


def shuffled_by_streaming(
    sizes: Int64Array, options: ResolvedOrder, epoch: int, block: int
) -> Int64Array:
    """Indexes into a resampled list, int64[samples], in mosaicml-streaming's shuffled order.

    ``sizes``, int64[segments], are from `resample`; ``block`` is the samples in a shuffle block.
    """
    # Imported late: importing streaming costs more than importing torch.
    from streaming.base.shuffle import get_shuffle

    with warnings.catch_warnings():
        # A block smaller than a shard only mixes less; the loader says so once, with numbers.
        warnings.filterwarnings("ignore", message="Shuffle block size was smaller")
        order = get_shuffle(
            options.shuffle_algo,
            sizes,
            options.num_canonical_nodes,
            options.shuffle_seed,
            epoch,
            block,
        )
    return np.asarray(order, np.int64)
