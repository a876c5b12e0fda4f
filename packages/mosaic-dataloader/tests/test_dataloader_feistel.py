"""The feistel order: a permutation, evaluated anywhere, that mixes as well as py1e."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from order_helpers import mixture, resolved, sequences

from mosaic_dataloader.order.epoch import build_epoch
from mosaic_dataloader.order.feistel import FeistelOrder, extra_samples
from mosaic_dataloader.order.mixture import Mixture, StreamSize
from mosaic_dataloader.order.permute import keys, permuted
from mosaic_dataloader.order.sequence import EpochSequence


def permutation(size: int, key: int) -> list[int]:
    places = np.arange(size)
    sizes, own_keys = np.full(size, size), np.repeat(keys(key), size)
    return [int(i) for i in permuted(places, sizes, own_keys)]


@given(size=st.integers(1, 3000), key=st.integers(0, 2**60))
def test_a_keyed_permutation_is_one(size: int, key: int) -> None:
    assert sorted(permutation(size, key)) == list(range(size))


def test_permutations_of_few_elements_are_all_alike() -> None:
    """Every one of the 24 orders of four elements, about equally often."""
    orders = [tuple(permutation(4, key)) for key in range(4800)]
    counts = np.array([orders.count(order) for order in set(orders)])
    assert len(counts) == 24
    # Chi-square with 23 degrees of freedom: 49.7 is passed once in a thousand.
    assert ((counts - 200) ** 2 / 200).sum() < 49.7
    assert permutation(1000, 1) != permutation(1000, 2)


@given(
    samples=st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any),
    share=st.floats(0, 1, exclude_max=True),
    granularity=st.integers(1, 60),
    key=st.integers(0, 100),
)
def test_extra_samples_are_spread_evenly(
    samples: list[int], share: float, granularity: int, key: int
) -> None:
    sizes = np.array(samples, np.int64)
    rest = int(share * sizes.sum())
    draws = extra_samples(sizes, rest, granularity, key)
    assert draws.sum() == rest
    assert (draws >= 0).all()
    assert (draws <= sizes).all()
    if granularity == 1:
        assert (np.abs(draws - sizes * (rest / sizes.sum())) <= 2).all()


def test_a_granularity_draws_whole_multiples() -> None:
    sizes = np.full(100, 40, np.int64)
    draws = extra_samples(sizes, 1000, 40, 7)
    assert set(draws.tolist()) == {0, 40}
    assert set(extra_samples(sizes, 1000, 8, 7).tolist()) <= {0, 8, 16, 24}
    assert not np.array_equal(draws, extra_samples(sizes, 1000, 40, 8))


@given(sequence=sequences(), data=st.data())
def test_any_stretch_is_what_the_whole_epoch_holds_there(
    sequence: EpochSequence, data: st.DataObject
) -> None:
    options = replace(sequence.options, shuffle=True, shuffle_algo="feistel")
    order = FeistelOrder(sequence.mixture, options, data.draw(st.integers(0, 3)))
    ids, nodes = order.rows(0, len(order))
    start = data.draw(st.integers(0, len(order)))
    stop = data.draw(st.integers(start, len(order)))
    part_ids, part_nodes = order.rows(start, stop)
    assert np.array_equal(part_ids, ids[start:stop])
    assert np.array_equal(part_nodes, nodes[start:stop])
    # As many of each stream as chosen; every sample as often as any other of its stream, or once
    # more.
    times = np.bincount(ids, minlength=sequence.mixture.num_samples)
    for number, stream in enumerate(sequence.mixture.streams):
        own = times[slice(*sequence.mixture.stream_offsets[number : number + 2])]
        assert own.sum() == stream.choose
        assert set(own.tolist()) <= {stream.choose // stream.samples, -(-stream.choose // len(own))}


def test_epochs_and_seeds_differ_and_fixed_sampling_does_not() -> None:
    data = mixture([[50] * 20, [40] * 10], [400, 700])

    def drawn(**options: object) -> list[NDArray[np.int64]]:
        given = resolved(shuffle=True, shuffle_algo="feistel", **options)
        return [FeistelOrder(data, given, epoch).rows(0, 1100)[0] for epoch in range(2)]

    first, second = drawn()
    assert not np.array_equal(first, second)
    assert set(first.tolist()) != set(second.tolist())
    assert not np.array_equal(first, drawn(shuffle_seed=1)[0])
    first, second = drawn(sampling_method="fixed")
    assert not np.array_equal(first, second)
    assert sorted(first.tolist()) == sorted(second.tolist())


def test_windows_are_shuffled_each_in_its_own_way() -> None:
    """Also where there is nothing else to shuffle: one shard, or windows of one shard each."""
    options = resolved(shuffle=True, shuffle_algo="feistel", shuffle_block_size=100)
    one = mixture([[1000]])
    epochs = [tuple(FeistelOrder(one, options, e).rows(0, 1000)[0].tolist()) for e in range(3)]
    assert len(set(epochs)) == 3
    ids = FeistelOrder(mixture([[100] * 10]), options, 0).rows(0, 1000)[0]
    assert len({tuple(w.tolist()) for w in ids.reshape(10, 100) % 100}) == 10


def test_every_epoch_has_its_own_turn_of_a_nodes_shards() -> None:
    options = resolved(
        shuffle=True, shuffle_algo="feistel", shuffle_block_size=50, num_canonical_nodes=2
    )
    data = mixture([[50] * 40])
    turns = []
    for epoch in range(3):
        ids, owners = FeistelOrder(data, options, epoch).rows(0, 2000)
        turns.append(list(dict.fromkeys((ids[owners == 0] // 50).tolist())))
    assert len({tuple(turn) for turn in turns}) == 3
    assert len({frozenset(turn) for turn in turns}) == 1


def test_shards_in_use_stay_within_two_windows_and_nodes_keep_theirs() -> None:
    shards, size, block, nodes = 400, 50, 1000, 4
    data = mixture([[size] * shards])
    options = resolved(
        shuffle=True, shuffle_algo="feistel", shuffle_block_size=block, num_canonical_nodes=nodes
    )
    owned = []
    for epoch in range(2):
        ids, owners = FeistelOrder(data, options, epoch).rows(0, shards * size)
        touched = ids // size
        for node in range(nodes):
            own = touched[owners == node]
            for begin in range(0, len(own), block // 2):
                # Twenty shards fill a window.
                assert len(set(own[begin : begin + block // 2].tolist())) <= 2 * block // size
            owned.append(set(own.tolist()))
    assert owned[:nodes] == owned[nodes:], "the machine's cache serves the next epoch too"
    assert sum(map(len, owned[:nodes])) <= shards + nodes


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_mixes_within_a_window_as_well_as_py1e(seed: int) -> None:
    """What a batch is made of, and how far samples travel, beside py1e's order of the same data.

    Three statistics of the first window: which shards a batch holds (chi-square against equal
    shares), whether a sample follows another of its shard, and the serial correlation of ids. For
    a uniformly random permutation all three are known; neither order may be off by more than
    chance allows.
    """
    shards, size, batch = 64, 512, 512
    data = mixture([[size] * shards])
    window = shards * size
    scores = {}
    for algo in ("feistel", "py1e"):
        options = resolved(
            shuffle=True, shuffle_algo=algo, shuffle_seed=seed, shuffle_block_size=window
        )
        ids = build_epoch(data, options, 0).rows(0, window)[0]
        assert sorted(ids.tolist()) == list(range(window))
        # py1e slides over its range: only its middle is mixed with all of it.
        middle = ids[window // 4 : -window // 4]
        touched = middle // size
        counts = np.stack(
            [np.bincount(part, minlength=shards) for part in touched.reshape(-1, batch)]
        )
        expected = batch / shards
        # Per degree of freedom; the mean over 32 batches of 63 degrees each.
        spread = ((counts - expected) ** 2 / expected).sum(1).mean() / (shards - 1)
        follows = (touched[1:] == touched[:-1]).mean() * shards
        serial = abs(float(np.corrcoef(middle[:-1], middle[1:])[0, 1]))
        scores[algo] = (spread, follows, serial)
    spread, follows, serial = scores["feistel"]
    # Standard errors: 0.03 of the spread, 0.06 of how often a shard follows itself, 0.008 of the
    # serial correlation; four of each.
    assert abs(spread - 1) < 0.13
    assert abs(follows - 1) < 0.25
    assert serial < 0.032
    reference = scores["py1e"]
    assert abs(spread - 1) <= abs(reference[0] - 1) + 0.13
    assert abs(follows - 1) <= abs(reference[1] - 1) + 0.25
    assert serial <= reference[2] + 0.032


def test_memory_grows_with_the_shards_only() -> None:
    def used(samples_in_shard: int) -> int:
        data = Mixture((StreamSize("s", np.full(1000, samples_in_shard), 1000 * samples_in_shard),))
        options = resolved(shuffle=True, shuffle_algo="feistel", shuffle_block_size=1 << 18)
        tracemalloc.start()
        order = FeistelOrder(data, options, 0)
        order.rows(len(order) // 2, len(order) // 2 + 64)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    small, large = used(10), used(500_000)
    assert large < 1.5 * small
    assert large < 1_000_000
