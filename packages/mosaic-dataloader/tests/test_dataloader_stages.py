"""The order of stages, against what must hold of it, counted with plain lists."""

import json
import time
import tracemalloc
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from order_helpers import mixture, resolved

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order import stages as stages_module
from mosaic_dataloader.order.batches import Layout, endless_batches
from mosaic_dataloader.order.mixture import TokenMean
from mosaic_dataloader.order.stage_options import StageConfig, parse_stages
from mosaic_dataloader.order.stage_sequence import StageSequence
from mosaic_dataloader.order.stages import BLOCK, Stage, StageOrder, draws_per_block
from mosaic_dataloader.state.identity import StreamIdentity
from mosaic_dataloader.state.stages import (
    Reached,
    RunStages,
    continued_stages,
    first_stages,
    with_present_data,
)


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
    """As above, with the sample ids, out of 500,000 shards: within 2 s and 100 MB."""
    samples = [500_000_000 // 8 + number for number in range(8)]
    data = mixture([[1000] * 62_500 + [number] * (number > 0) for number in range(8)])
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


# ------------------------------------------------------------------------- whole runs, with changes

# Sizes of streams: of a few samples to many for each node.
SIZES = {"a": 60, "b": 300, "c": 1_900, "d": 7_013, "e": 30_000}
Weights = dict[str, Fraction]


@dataclass
class Recipe:
    """What a person wrote into the file: lengths of stages, and shares of streams."""

    lengths: list[int]
    shares: list[Weights]

    @property
    def options(self) -> list[dict[str, object]]:
        """As the option `stages` takes them."""
        stages: list[dict[str, object]] = [
            {"weights": {name: float(share) for name, share in shares.items()}}
            for shares in self.shares
        ]
        for one, length in zip(stages, self.lengths, strict=False):
            one["samples"] = length
        return stages

    def starts(self, nodes: int) -> list[tuple[int, Weights]]:
        """Where each stage begins."""
        found, start = [], 0
        for length, shares in zip([*self.lengths, 0], self.shares, strict=True):
            found.append((start, shares))
            start += -(-length // nodes) * nodes
        return found


@dataclass
class Plain:
    """The run once more, with lists: which mixture holds where, and what was handed out.

    Attributes:
        nodes: Canonical nodes.
        recipe: The recipe as of the last start.
        mixtures: Where each mixture begins, ascending.
        drawn: The streams and samples that were handed out, in the order of positions.
    """

    nodes: int
    recipe: list[tuple[int, Weights]] = field(default_factory=list)
    mixtures: list[tuple[int, Weights]] = field(default_factory=list)
    drawn: list[tuple[str, int]] = field(default_factory=list)

    def restart(self, recipe: Recipe) -> None:
        """Continue with a recipe, which may be another one."""
        new, position = recipe.starts(self.nodes), len(self.drawn)
        if new == self.recipe:
            return
        past = [[one for one in plan if one[0] < position] for plan in (self.recipe, new)]
        begin = position
        kept = [m for m in self.mixtures if m[0] < position or m not in self.recipe]
        if past[0] != past[1]:
            begin = -(-position // self.nodes) * self.nodes
            kept = [m for m in self.mixtures if m[0] < begin]
            kept.append((begin, [shares for start, shares in new if start <= begin][-1]))
            begin += 1
        ahead = [m for m in new if m[0] >= begin]
        taken = {start for start, _ in ahead}
        self.mixtures = sorted([m for m in kept if m[0] not in taken] + ahead, key=lambda m: m[0])
        self.recipe = new

    def check_shares(self) -> None:
        """In each whole block of a mixture each node draws its share, to a 65,536th."""
        ends = [start for start, _ in self.mixtures[1:]] + [len(self.drawn)]
        for (start, shares), end in zip(self.mixtures, ends, strict=True):
            names = [name for name, _ in self.drawn[start:end]]
            assert set(names) <= {name for name, share in shares.items() if share}
            for first in range(0, len(names) - BLOCK * self.nodes + 1, BLOCK * self.nodes):
                for node in range(self.nodes):
                    counts = Counter(names[first + node : first + BLOCK * self.nodes : self.nodes])
                    assert sum(counts.values()) == BLOCK
                    for name, share in shares.items():
                        assert abs(counts[name] - share * BLOCK) < 1

    def check_repeats(self) -> None:
        """No sample of a stream comes again before all of it were seen."""
        for name, size in SIZES.items():
            own = [sample for stream, sample in self.drawn if stream == name]
            for first in range(0, len(own), size):
                part = own[first : first + size]
                assert len(set(part)) == len(part)
                assert set(part) <= set(range(size))


def identity_of(name: str) -> StreamIdentity:
    return StreamIdentity(name, SIZES[name], -(-SIZES[name] // 100), SIZES[name], f"digest {name}")


def opened(stages: RunStages, names: list[str], nodes: int, algo: str) -> StageSequence:
    """The order of a run, of the streams that are in the data."""
    place_of = {number: place for place, number in enumerate(stages.present)}
    sizes = [[100] * (SIZES[n] // 100) + [SIZES[n] % 100] * (SIZES[n] % 100 > 0) for n in names]
    return StageSequence(
        mixture(sizes),
        resolved(shuffle=True, shuffle_algo=algo, num_canonical_nodes=nodes),
        samples=[stream.samples for stream in stages.streams],
        names=[stream.name for stream in stages.streams],
        digests=[stream.digest for stream in stages.streams],
        present=[place_of.get(number) for number in range(len(stages.streams))],
        stages=stages.stages,
    )


def check_run(data: st.DataObject) -> None:
    """Starts, kills and changes drawn at random, through the functions that a loader uses."""
    nodes = data.draw(st.integers(1, 3), label="nodes")
    algo = data.draw(st.sampled_from(["py1e", "feistel", "naive"]), label="algo")
    lengths = st.one_of(st.integers(1, 3_000), st.sampled_from([BLOCK - 1, BLOCK, 150_000]))
    mean = TokenMean(1000, "a test")
    plain, saved, recipe = Plain(nodes), "", Recipe([], [])
    names: list[str] = []
    present: list[str] = []
    for leg in range(data.draw(st.integers(1, 5), label="legs")):
        kind = data.draw(st.sampled_from(["same", "ahead", "other"]), label="change")
        if not leg or kind == "other":
            names = data.draw(
                st.lists(st.sampled_from(list(SIZES)), min_size=1, unique=True), label="names"
            )
        if not leg or kind != "same":
            count = data.draw(st.integers(1, 3), label="stages")
            keep = 0
            if leg and kind == "ahead":
                # What has begun stays as it is in the file.
                keep = sum(start < len(plain.drawn) for start, _ in plain.recipe)
            shares = recipe.shares[:keep]
            for _ in range(max(count - keep, 0 if keep else 1)):
                weights = data.draw(
                    st.lists(st.integers(0, 5), min_size=len(names), max_size=len(names)).filter(
                        any
                    ),
                    label="weights",
                )
                own = dict(zip(names, weights, strict=True))
                shares.append({n: Fraction(w, sum(weights)) for n, w in own.items() if w})
            kept_lengths = recipe.lengths[: max(0, keep)]
            more = len(shares) - 1 - len(kept_lengths)
            new = [data.draw(lengths, label="length") for _ in range(max(0, more))]
            recipe = Recipe([*kept_lengths, *new][: len(shares) - 1], shares)
        config = StageConfig(parse_stages(recipe.options, names), "samples")
        streams = [identity_of(name) for name in names]
        position = len(plain.drawn)
        if not leg:
            stages = first_stages(config, streams, [mean] * len(names), nodes)
            plain.recipe = plain.mixtures = recipe.starts(nodes)
        else:
            before = RunStages.from_content(json.loads(saved), nodes, len(present))
            zeros = [0] * len(present)
            stages = continued_stages(
                config,
                with_present_data(before, streams, lambda _: mean, zeros, zeros),
                nodes=nodes,
                reached=Reached(position, position),
                new_stage=True,
                unit="sample",
            )
            plain.restart(recipe)
        present = list(names)
        sequence = opened(stages, names, nodes, algo)
        try:
            sequence.require_streams(position, position)
        except MosaicDataError:
            # A stream was removed inside a round of the nodes, whose rest draws from it.
            assert position % nodes
            break
        assert [s.start for s in stages.stages] == [start for start, _ in plain.mixtures]
        # Batches of any layout hold the positions that follow.
        world_size, batch = data.draw(st.sampled_from([(1, 7), (2, 3), (3, 8), (4, 1)]))
        ranks = [
            endless_batches(sequence, Layout(rank, world_size, batch), position)
            for rank in range(world_size)
        ]
        for number in range(3):
            ids = np.concatenate([next(rank).ids for rank in ranks])
            begin = position + number * world_size * batch
            assert sorted(ids) == sorted(sequence.rows(begin, begin + world_size * batch)[0])
        # What is read after the state was saved is read again by the next leg.
        stop = position + data.draw(lengths, label="read")
        ids = sequence.rows(position, stop)[0]
        numbers = sequence.mixture.stream_of(ids)
        samples = ids - sequence.mixture.stream_offsets[numbers]
        plain.drawn += [
            (names[n], s) for n, s in zip(numbers.tolist(), samples.tolist(), strict=True)
        ]
        saved = json.dumps(stages.to_content(streams))
    plain.check_shares()
    plain.check_repeats()


@given(st.data())
@settings(max_examples=5)
def test_runs_that_change_keep_shares_and_repeat_nothing_early(data: st.DataObject) -> None:
    check_run(data)


@pytest.mark.soak
@given(st.data())
@settings(max_examples=500)
def test_many_runs_that_change(data: st.DataObject) -> None:
    check_run(data)
