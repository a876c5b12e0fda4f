"""The order holds, batch by batch, what mosaicml-streaming's own partition holds."""

import itertools
import warnings
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import Stream
from streaming.base.dataset import StreamingDataset
from streaming.base.partition import get_partitions
from streaming.base.sampling import get_sampling
from streaming.base.shuffle import get_shuffle

from mosaic_dataloader.order.mixture import Mixture, StreamSize
from mosaic_dataloader.order.options import OrderOptions
from mosaic_dataloader.order.resample import choose_per_shard, resample
from mosaic_dataloader.order.sequence import EpochSequence

SEED = 9176


def shards_of(samples: int, size: int) -> np.ndarray:
    """Shard sizes that add up to ``samples``; the last one is what is left."""
    full, rest = divmod(samples, size)
    return np.array([size] * full + ([rest] if rest else []), np.int64)


def weighted(samples: int, weights: str) -> tuple[list[Stream], list[np.ndarray]]:
    """Streams that together hold ``samples``, and their shard sizes."""
    options = {
        "none": [{}],
        "proportion": [{"proportion": 0.7}, {"proportion": 0.2}, {"proportion": 0.1}],
        "repeat": [{"repeat": 1.5}, {"repeat": 0.4}, {}],
        "choose": [{"choose": samples // 3 + 1}, {"choose": samples}, {"choose": 5}],
    }[weights]
    parts = np.diff(np.linspace(0, samples, len(options) + 1).astype(int))
    streams = [Stream(local="unused", **o) for o in options]
    return streams, [shards_of(int(p), 37) for p in parts]


def reference(streams: list[Stream], shards: list[np.ndarray], options: OrderOptions) -> object:
    """What ``StreamingDataset.resample_streams`` reads of a data set."""
    per_stream = np.array([s.sum() for s in shards])
    per_shard = np.concatenate(shards)
    counts = np.array([len(s) for s in shards])
    Stream.apply_weights(streams, per_stream, None, SEED)
    return SimpleNamespace(
        shuffle_seed=SEED,
        sampling_method=options.sampling_method,
        sampling_granularity=options.sampling_granularity,
        epoch_seed_change=options.shuffle and options.sampling_method == "balanced",
        num_streams=len(streams),
        streams=streams,
        shards_per_stream=counts,
        shard_offset_per_stream=np.cumsum(counts) - counts,
        samples_per_shard=per_shard,
        sample_offset_per_shard=np.cumsum(per_shard) - per_shard,
    )


def mixture_of(streams: list[Stream], shards: list[np.ndarray]) -> Mixture:
    return Mixture(
        tuple(
            StreamSize(str(i), sizes, int(stream.choose))
            for i, (stream, sizes) in enumerate(zip(streams, shards, strict=True))
        )
    )


def their_batches(
    data: object, options: OrderOptions, canonical: int, layout: tuple[int, int, int], epoch: int
) -> list[Counter[int]]:
    """mosaicml-streaming's global batches, its padding left out."""
    nodes, ranks, batch = layout
    units, small = StreamingDataset.resample_streams(data, epoch)
    big = get_partitions("relaxed", len(small), canonical, nodes, ranks, 1, batch)
    order = big.transpose(3, 2, 0, 1, 4).reshape(big.shape[3], -1)
    if options.shuffle:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shuffle = get_shuffle(options.shuffle_algo, units, canonical, SEED, epoch, 200)
    else:
        shuffle = np.arange(len(small))
    seen: set[int] = set()
    batches = []
    for row in order.tolist():
        fresh = [i for i in row if i >= 0 and i not in seen]
        seen.update(fresh)
        batches.append(Counter(small[shuffle[fresh]].tolist()))
    assert len(seen) == len(small)
    return batches


ALGOS = ["py1e", "py1s", "py1br", "py2s", "naive", None]
WEIGHTS = ["none", "proportion", "repeat", "choose"]
#: How an epoch is resampled and how it is shuffled have nothing to do with each other: each with
#: one of the other. A soak has them all, and longer epochs, whose last batch is full.
ALWAYS = [("py1e", 1003, weights) for weights in WEIGHTS]
ALWAYS += [(algo, 1003, "proportion") for algo in ALGOS[1:]]


@pytest.mark.parametrize(
    ("algo", "samples", "weights"),
    [
        pytest.param(*case, marks=() if case in ALWAYS else pytest.mark.soak)
        for case in itertools.product(ALGOS, [1003, 4096], WEIGHTS)
    ],
)
def test_global_batches_hold_the_same_samples(algo: str | None, samples: int, weights: str) -> None:
    compared = 0
    for canonical, (nodes, ranks) in itertools.product(
        [1, 2, 4], [(1, 1), (1, 2), (2, 1), (2, 2), (4, 1)]
    ):
        options = OrderOptions(
            shuffle=algo is not None,
            shuffle_algo=algo or "py1e",
            shuffle_seed=SEED,
            shuffle_block_size=200,
            num_canonical_nodes=canonical,
        )
        streams, shards = weighted(samples, weights)
        data = reference(streams, shards, options)
        mixture = mixture_of(streams, shards)
        batch = 4
        size = batch * nodes * ranks
        resolved = options.resolve(num_nodes=nodes, global_batch=size, local_batch=batch)
        for epoch in (0, 3):
            theirs = their_batches(data, options, canonical, (nodes, ranks, batch), epoch)
            mine = EpochSequence(mixture, resolved).epoch(epoch)
            assert len(mine) == mixture.epoch_samples
            for number in range(len(mine) // size):
                ids = mine.rows(number * size, (number + 1) * size)[0].tolist()
                if theirs[number].total() < size:
                    # Padding pushed samples into the partial batch at the epoch's very end.
                    assert number >= len(mine) // size - 1
                    assert not theirs[number] - Counter(ids)
                else:
                    assert Counter(ids) == theirs[number], (canonical, nodes, ranks, epoch, number)
                    compared += 1
    assert compared > 1000


@pytest.mark.parametrize("algo", ["py1e", "py1s", "py1br", None])
def test_a_single_rank_reads_the_same_sequence(algo: str | None) -> None:
    options = OrderOptions(
        shuffle=algo is not None,
        shuffle_algo=algo or "py1e",
        shuffle_seed=SEED,
        shuffle_block_size=200,
        num_canonical_nodes=1,
    )
    streams, shards = weighted(1003, "repeat")
    data = reference(streams, shards, options)
    resolved = options.resolve(num_nodes=1, global_batch=8, local_batch=8)
    for epoch in range(3):
        units, small = StreamingDataset.resample_streams(data, epoch)
        big = get_partitions("relaxed", len(small), 1, 1, 1, 1, 8).ravel()
        big = big[big >= 0]
        if options.shuffle:
            big = get_shuffle(options.shuffle_algo, units, 1, SEED, epoch, 200)[big]
        order = EpochSequence(mixture_of(streams, shards), resolved).epoch(epoch)
        assert np.array_equal(order.rows(0, len(order))[0], small[big])


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=20),
    choose=st.integers(0, 3000),
    granularity=st.integers(1, 20),
    seed=st.integers(0, 2**31),
)
def test_draws_per_shard_are_the_librarys(
    sizes: list[int], choose: int, granularity: int, seed: int
) -> None:
    samples = np.array(sizes, np.int64)
    theirs = get_sampling(samples, choose, granularity, seed, 0, True)
    assert np.array_equal(choose_per_shard(samples, choose, granularity, seed), theirs)


@settings(max_examples=settings().max_examples // 2)
@given(
    sizes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=4),
    repeats=st.lists(st.floats(0.1, 3.2), min_size=4, max_size=4),
    method=st.sampled_from(["balanced", "fixed"]),
    shuffle=st.booleans(),
    granularity=st.integers(1, 9),
    epoch=st.integers(0, 5),
)
def test_resampling_is_the_librarys(
    sizes: list[list[int]],
    repeats: list[float],
    method: str,
    shuffle: bool,
    granularity: int,
    epoch: int,
) -> None:
    options = OrderOptions(
        shuffle=shuffle, sampling_method=method, sampling_granularity=granularity
    )
    shards = [np.array(s, np.int64) for s in sizes]
    streams = [
        Stream(local="unused", repeat=max(r, 1 / s.sum()))
        for s, r in zip(shards, repeats, strict=False)
    ]
    data = reference(streams, shards, options)
    resolved = options.resolve(num_nodes=1, global_batch=1, local_batch=1)
    if not any(int(s.choose) for s in streams):
        return
    units, ids = resample(mixture_of(streams, shards), resolved, epoch, range(len(streams)))
    their_units, their_ids = StreamingDataset.resample_streams(data, epoch)
    assert np.array_equal(units, their_units)
    assert np.array_equal(ids, their_ids)
