"""The order of stages, against what must hold of it, counted with plain lists."""

import time
import tracemalloc
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_helpers import mixture, resolved

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order import stages as stages_module
from mosaic_dataloader.order.stage_sequence import StageSequence
from mosaic_dataloader.order.stages import BLOCK, Stage, StageOrder, draws_per_block


@st.composite
def orders(draw: st.DrawFn) -> tuple[list[int], int, int, list[Stage], int]:
    """Sizes of streams, nodes, seed, stages and the length of a block."""
    nodes = draw(st.integers(1, 4))
    block = draw(st.sampled_from([8, 16, 32]))
    streams = draw(st.integers(1, 4))
    samples = draw(st.lists(st.integers(1, 90), min_size=streams, max_size=streams))
    weights = st.lists(st.integers(0, 5), min_size=streams, max_size=streams).filter(any)
    stages = [
        Stage(0, draws_per_block(draw(weights), block)),
    ]
    for _ in range(draw(st.integers(0, 3))):
        length = draw(st.integers(1, 5 * block)) * nodes
        stages.append(Stage(stages[-1].start + length, draws_per_block(draw(weights), block)))
    return samples, nodes, draw(st.integers(0, 2**64 - 1)), stages, block


def replayed(order: StageOrder, stop: int) -> list[tuple[int, int, int]]:
    """Stream, epoch and place at each position, read from the beginning on."""
    found = order.draws(np.arange(stop, dtype=np.int64))
    return list(zip(*(part.tolist() for part in found), strict=True))


@given(orders(), st.data())
def test_no_sample_comes_again_before_all_of_its_stream(
    case: tuple[list[int], int, int, list[Stage], int], data: st.DataObject
) -> None:
    samples, nodes, seed, stages, block = case
    with pytest.MonkeyPatch.context() as patch:
        # So that small streams have parts, too.
        patch.setattr(stages_module, "_LEAST_OWNED", data.draw(st.sampled_from([1, 4, 512])))
        stop = stages[-1].start + 4 * block * nodes
        whole = replayed(StageOrder(samples, nodes, seed, stages, block), stop)
        given_out: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for stream, epoch, place in whole:
            given_out[stream].append((epoch, place))
        for stream, draws in given_out.items():
            count = samples[stream]
            assert [epoch for epoch, _ in draws] == [n // count for n in range(len(draws))]
            for first in range(0, len(draws), count):
                places = [place for _, place in draws[first : first + count]]
                assert len(set(places)) == len(places)
                assert set(places) <= set(range(count))
                if len(places) == count:
                    assert set(places) == set(range(count))

        # In every whole block, each node draws as often from each stream as the weights say.
        ends = [stage.start for stage in stages[1:]] + [stop]
        for stage, end in zip(stages, ends, strict=True):
            for first in range(stage.start, end - block * nodes + 1, block * nodes):
                for node in range(nodes):
                    drawn = Counter(
                        one[0] for one in whole[first + node : first + block * nodes : nodes]
                    )
                    assert tuple(drawn[n] for n in range(len(samples))) == stage.counts

        # Any position can be looked up at once, in any order, and whatever comes later.
        some = data.draw(st.lists(st.integers(0, stop - 1), min_size=1, max_size=6))
        found = StageOrder(samples, nodes, seed, stages, block).draws(np.array(some, np.int64))
        assert [tuple(int(part[n]) for part in found) for n in range(len(some))] == [
            whole[position] for position in some
        ]
        for number in range(1, len(stages)):
            begin = stages[number].start
            earlier = StageOrder(samples, nodes, seed, stages[:number], block)
            assert replayed(earlier, begin) == whole[:begin]

        # What was drawn before a position, and the streams alone.
        at = data.draw(st.integers(0, (stop - 1) // nodes)) * nodes
        order = StageOrder(samples, nodes, seed, stages, block)
        drawn = Counter(stream for stream, _, _ in whole[:at])
        assert order.taken(at).tolist() == [drawn[n] for n in range(len(samples))]
        assert order.streams(at, stop).tolist() == [stream for stream, _, _ in whole[at:]]


@pytest.mark.parametrize("nodes", [2, 4, 8])
def test_a_node_draws_what_it_owns(nodes: int) -> None:
    """A machine reads the shards of its canonical nodes, in later epochs and stages, too."""
    samples, block = [6_001, 20_011], 512
    stages = [Stage(0, (256, 256)), Stage(100 * nodes * 77, (400, 112))]
    order = StageOrder(samples, nodes, 7, stages, block)
    assert all(order.in_parts(stream) for stream in (0, 1))
    positions = np.arange(60_000 // nodes * nodes, dtype=np.int64)
    streams, epochs, places = order.draws(positions)
    assert epochs[streams == 0].max() >= 4
    foreign = np.mean(places % nodes != positions % nodes)
    assert foreign < 0.01


def test_blocks_found_by_themselves_are_those_found_one_after_another() -> None:
    """Nodes run out of their own samples at different blocks, before the epoch ends."""
    samples, block, nodes = [251, 9_999], 64, 4
    counts = (6, 58)
    # Stages that end within a block leave the nodes at different places.
    stages = [Stage(number * nodes * (block + 24), counts) for number in range(12)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages_module, "_LEAST_OWNED", 8)
        stop = 200 * nodes * block
        whole = replayed(StageOrder(samples, nodes, 3, stages, block), stop)
        for first in range(stages[-1].start, stop - nodes * block, nodes * block):
            order = StageOrder(samples, nodes, 3, stages, block)
            found = order.draws(np.arange(first, first + nodes * block, dtype=np.int64))
            assert [*zip(*(part.tolist() for part in found), strict=True)] == whole[
                first : first + nodes * block
            ]


def test_draws_stand_elsewhere_in_each_block_node_stage_and_run() -> None:
    block, nodes, counts = 64, 2, (32, 32)
    later = 8 * block * nodes
    order = StageOrder([99, 99], nodes, 3, [Stage(0, counts), Stage(later, counts)], block)
    other = StageOrder([99, 99], nodes, 4, [Stage(0, counts)], block)
    seen = {
        order.streams(first, first + nodes * block)[node::nodes].tobytes()
        for first in range(0, 2 * later, nodes * block)
        for node in range(nodes)
    }
    assert len(seen) == 2 * later // block
    assert other.streams(0, nodes * block)[::nodes].tobytes() not in seen


def test_draws_at_depth_take_little_time_and_memory() -> None:
    """Position 400 M of 500 M samples, 8 streams, 3 stages: nothing before it is replayed."""
    samples = [500_000_000 // 8 + number for number in range(8)]
    counts = draws_per_block([1, 2, 3, 4, 5, 6, 7, 8])
    even = draws_per_block([1] * 8)
    stages = [Stage(0, counts), Stage(100_000_008, even), Stage(300_000_000, counts)]
    tracemalloc.start()
    order = StageOrder(samples, 4, 1, stages)
    found = order.draws(np.arange(400_000_000, 400_000_512, dtype=np.int64))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert order.taken(400_000_000).sum() == 400_000_000
    assert len({(s, e, p) for s, e, p in zip(*map(np.ndarray.tolist, found), strict=True)}) == 512


def test_the_first_batch_at_depth_takes_little_time_and_memory() -> None:
    """As above, with the sample ids: within 2 s and 100 MB."""
    samples = [500_000_000 // 8 + number for number in range(8)]
    data = mixture([[4000] * 15_625 + [number] * (number > 0) for number in range(8)])
    options = resolved(shuffle=True, shuffle_algo="feistel", num_canonical_nodes=4)
    even, rising = draws_per_block([1] * 8), draws_per_block([1, 2, 3, 4, 5, 6, 7, 8])
    begin = time.perf_counter()
    tracemalloc.start()
    sequence = StageSequence(
        data,
        options,
        samples=samples,
        names=[f"s{number}" for number in range(8)],
        digests=[f"s{number}" for number in range(8)],
        present=range(8),
        stages=[Stage(0, rising), Stage(100_000_008, even), Stage(300_000_000, rising)],
    )
    ids, nodes = sequence.rows(400_000_000, 400_000_512)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    taken = time.perf_counter() - begin
    assert peak < 100e6
    assert len(set(ids.tolist())) == 512
    assert nodes.tolist() == [0, 1, 2, 3] * 128
    # Tracing makes it slower by far; a machine under load even more.
    assert taken < 20


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=40).filter(any))
def test_weights_become_whole_draws(weights: list[float]) -> None:
    draws = draws_per_block(weights)
    assert sum(draws) == BLOCK
    total = sum(map(Fraction, weights))
    few = sum(0 < Fraction(w) / total * BLOCK < 1 for w in weights)
    for weight, drawn in zip(weights, draws, strict=True):
        exact = Fraction(weight) / total * BLOCK
        assert (drawn > 0) == (weight > 0)
        assert abs(drawn - exact) <= 1 + few


def test_stages_that_cannot_be() -> None:
    with pytest.raises(MosaicDataError, match="at a multiple of the 4 canonical nodes"):
        StageOrder([9], 4, 0, [Stage(0, (BLOCK,)), Stage(6, (BLOCK,))])
    with pytest.raises(MosaicDataError, match="the first must begin at 0"):
        StageOrder([9], 4, 0, [Stage(4, (BLOCK,))])
    with pytest.raises(MosaicDataError, match="weights are all 0"):
        draws_per_block([0.0, 0.0])
