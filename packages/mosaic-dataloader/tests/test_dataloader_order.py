"""Invariants of the order, the assignment and the epochs, as pure functions."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from order_helpers import (
    Leg,
    check_layouts,
    grouped_sequences,
    legs,
    mixture,
    resolved,
    sequences,
)

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.order.assign import (
    interleave,
    node_of,
    node_starts,
    rows_of_rank,
    rows_of_rank_by_phase,
)
from mosaic_dataloader.order.batches import Layout, one_pass
from mosaic_dataloader.order.grouped import stream_portions
from mosaic_dataloader.order.mixture import Intervals
from mosaic_dataloader.order.sequence import EpochSequence, EpochStart


@given(length=st.integers(1, 500), nodes=st.integers(1, 40))
def test_dealing_keeps_every_item_and_takes_nodes_in_turn(length: int, nodes: int) -> None:
    dealt = interleave(np.arange(length), nodes)
    assert sorted(dealt.tolist()) == list(range(length))
    owners = node_of(np.arange(length), length, nodes)
    starts = node_starts(length, nodes)
    assert np.array_equal(np.searchsorted(starts, dealt, side="right") - 1, owners)
    full = length // nodes * nodes
    assert np.array_equal(owners[:full], np.arange(full) % nodes)


@given(
    nodes=st.lists(st.integers(0, 7), min_size=1, max_size=12),
    world_size=st.integers(1, 6),
)
def test_ranks_share_a_batch_out_exactly(nodes: list[int], world_size: int) -> None:
    owners = np.array(nodes * world_size, np.int64)
    rows = [rows_of_rank(owners, 8, r, world_size) for r in range(world_size)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(owners)))
    assert {len(r) for r in rows} == {len(nodes)}
    assert all((np.diff(r) > 0).all() for r in rows)
    # A rank with a higher number reads no lower canonical node, of those with the same remainder.
    common = math.gcd(8, len(owners))
    keys = owners % common * 8 + owners
    for low, high in pairwise(rows):
        assert keys[low].max() <= keys[high].min()
    odd = np.array(nodes, np.int64)
    parts = [rows_of_rank(odd, 8, r, world_size, 24) for r in range(world_size)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(odd)))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(
    canonical=st.integers(1, 12),
    world_size=st.integers(1, 12),
    times=st.integers(1, 3),
    first=st.integers(0, 50),
)
def test_rows_in_turns_are_found_without_sorting(
    canonical: int, world_size: int, times: int, first: int
) -> None:
    batch = math.lcm(canonical, world_size) * times
    owners = np.arange(first, first + batch) % canonical
    for rank in range(world_size):
        found = rows_of_rank_by_phase(first % canonical, canonical, batch, rank, world_size)
        assert np.array_equal(found, rows_of_rank(owners, canonical, rank, world_size))


@given(sizes=st.lists(st.integers(0, 3) | st.integers(0, 1000), min_size=1, max_size=40))
def test_intervals_are_found_as_by_a_binary_search(sizes: list[int]) -> None:
    edges = np.concatenate([[0], np.cumsum([*sizes, 1])]).astype(np.int64)
    numbers = np.random.default_rng(0).permutation(edges[-1])
    assert np.array_equal(
        Intervals(edges).find(numbers), np.searchsorted(edges, numbers, side="right") - 1
    )


@given(sequence=sequences(), changes=legs)
def test_any_changes_of_layout_hand_out_the_epoch_lists(
    sequence: EpochSequence, changes: list[Leg]
) -> None:
    check_layouts(sequence, changes)


@settings(max_examples=settings().max_examples // 4)
@given(drawn=grouped_sequences())
def test_batches_in_units_too(drawn: tuple[EpochSequence, list[Leg]]) -> None:
    check_layouts(*drawn)


@settings(max_examples=settings().max_examples // 2)
@given(sequence=sequences(), world_size=st.integers(1, 5), batch_size=st.integers(1, 7))
def test_a_finite_pass_is_equally_long_on_all_ranks(
    sequence: EpochSequence, world_size: int, batch_size: int
) -> None:
    for drop_last in (False, True):
        ranks = [
            list(one_pass(sequence, Layout(r, world_size, batch_size), 0, drop_last=drop_last))
            for r in range(world_size)
        ]
        assert len({len(r) for r in ranks}) == 1
        ids = [i for r in ranks for request in r for i in request.ids.tolist() if i >= 0]
        whole = sequence.epoch_length
        kept = whole - whole % (world_size * batch_size) if drop_last else whole
        assert Counter(ids) == Counter(sequence.epoch(0).rows(0, kept)[0].tolist())
        assert all(len(request.ids) == batch_size for r in ranks for request in r)


def test_the_origin_shifts_epochs() -> None:
    options = resolved(shuffle=True)
    plain = EpochSequence(mixture([[10, 7]]), options)
    moved = EpochSequence(mixture([[10, 7]]), options, EpochStart(samples=100, epoch=3))
    assert moved.locate(100) == (3, 0)
    assert np.array_equal(moved.rows(100, 140)[0], plain.rows(51, 91)[0])


@pytest.mark.parametrize("method", ["stratified", "per_stream", "device_per_stream"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_in_units_keep_their_composition(method: str, shuffle: bool) -> None:
    data = mixture([[100, 53], [40, 60, 1], [80]], [153, 101, 160])
    batch, local, nodes = 24, 6, 2
    options = resolved(
        batch, nodes, local, batching_method=method, shuffle=shuffle, num_canonical_nodes=4
    )
    sequence = EpochSequence(data, options)
    length = sequence.epoch_length
    assert length % batch == 0
    assert length >= 0.7 * data.epoch_samples
    offsets = data.stream_offsets
    for epoch in range(2):
        ids, owners = sequence.epoch(epoch).rows(0, length)
        streams = (np.searchsorted(offsets, ids, side="right") - 1).reshape(-1, batch)
        assert set(owners.tolist()) == {0, 1, 2, 3}
        counts = [np.bincount(unit, minlength=3).tolist() for unit in streams]
        if method == "stratified":
            # 24 rows in shares of 153 : 101 : 160.
            assert all(c == [9, 6, 9] for c in counts)
            reordered = mixture([[80], [100, 53], [40, 60, 1]], [160, 153, 101])
            assert stream_portions(reordered, batch) == [9, 9, 6]
        elif method == "per_stream":
            assert all(sorted(c) == [0, 0, batch] for c in counts)
            assert len({tuple(c) for c in counts}) == 3
        else:
            devices = streams.reshape(-1, local)
            assert (devices == devices[:, :1]).all()
            # The first half of a unit belongs to the first machine's canonical nodes.
            halves = owners.reshape(-1, 2, batch // 2)
            assert (halves[:, 0] < 2).all()
            assert (halves[:, 1] >= 2).all()
        times = Counter(ids.tolist())
        assert max(times.values()) <= 2, "only the stream drawn twice repeats samples"
        first_two = [i for i in times if i < offsets[2]]
        assert all(times[i] == 1 for i in first_two)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batching_method": "per_stream"}, ["s1", "batch of 64"]),
        ({"batching_method": "stratified", "num_canonical_nodes": 30}, ["s1", "num_canonical"]),
        ({"num_canonical_nodes": 5000}, ["num_canonical_nodes", "5000"]),
        ({"batching_method": "device_per_stream", "num_canonical_nodes": 3}, ["divisible"]),
        ({"shuffle_algo": "py1x"}, ["shuffle_algo", "py1x", "py1e"]),
        ({"batching_method": "mixed"}, ["batching_method", "mixed", "stratified"]),
        ({"shuffle_seed": -1}, ["shuffle_seed", "-1"]),
    ],
)
def test_what_cannot_be_ordered_is_refused_in_words(
    options: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(MosaicDataError) as caught:
        sequence = EpochSequence(mixture([[100], [20]]), resolved(64, 2, 32, **options))
        sequence.rows(0, 1)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("ranks", "nodes"), [(1, 2), (3, 2), (2, 4)])
def test_device_batches_need_ranks_that_nodes_divide(ranks: int, nodes: int) -> None:
    """One data-parallel rank over two machines: tensor or pipeline parallelism across them."""
    method = {"batching_method": "device_per_stream", "num_canonical_nodes": 4}
    with pytest.raises(MosaicDataError, match=rf"{ranks} rank.* {nodes} nodes"):
        EpochSequence(mixture([[100], [20]]), resolved(4 * ranks, nodes, 4, **method)).check()
    options = resolved(4 * ranks, 1, 4, **method)
    assert EpochSequence(mixture([[100], [20]]), options).epoch_length % (4 * ranks) == 0
