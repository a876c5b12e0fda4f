"""Orders drawn at random, and what must hold of them through any changes of layout."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.order.batches import Layout, endless_batches
from mosaic_dataloader.order.mixture import Mixture, StreamSize
from mosaic_dataloader.order.options import SHUFFLE_ALGOS, OrderOptions
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.sequence import EpochSequence

# Ranks, rows per rank, batches.
Leg = tuple[int, int, int]


def mixture(sizes: list[list[int]], chooses: list[int] | None = None) -> Mixture:
    chooses = chooses or [sum(s) for s in sizes]
    return Mixture(
        tuple(
            StreamSize(f"s{i}", np.array(s, np.int64), c)
            for i, (s, c) in enumerate(zip(sizes, chooses, strict=True))
        )
    )


def resolved(batch: int = 8, nodes: int = 1, local: int = 8, **options: object) -> ResolvedOrder:
    given_options = OrderOptions(**{"shuffle_block_size": 64, **options})  # type: ignore[arg-type]
    return given_options.resolve(num_nodes=nodes, global_batch=batch, local_batch=local)


@st.composite
def sequences(draw: st.DrawFn) -> EpochSequence:
    sizes = draw(
        st.lists(st.lists(st.integers(1, 30), min_size=1, max_size=5), min_size=1, max_size=3)
    )
    chooses = [draw(st.integers(1, 3 * sum(s))) for s in sizes]
    total = sum(chooses)
    algo = draw(st.sampled_from(SHUFFLE_ALGOS))
    # Left open, the canonical nodes follow from the first start's machines.
    nodes = draw(st.integers(1, 3))
    follow = total >= 64 * nodes or (algo not in ("py1s", "py2s") and total >= nodes)
    fixed = st.integers(1, min(8, total))
    options = resolved(
        nodes=nodes,
        shuffle=draw(st.booleans()),
        shuffle_algo=algo,
        shuffle_seed=draw(st.integers(0, 100)),
        shuffle_block_size=draw(st.sampled_from([2, 16, 64, 1000])),
        num_canonical_nodes=draw(st.none() | fixed if follow else fixed),
        sampling_method=draw(st.sampled_from(["balanced", "fixed"])),
        sampling_granularity=draw(st.integers(1, 5)),
    )
    return EpochSequence(mixture(sizes, chooses), options)


legs = st.lists(
    st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=6
)


@st.composite
def grouped_sequences(draw: st.DrawFn) -> tuple[EpochSequence, list[Leg]]:
    """An order in units of a batch, with layouts that share the units out."""
    method = draw(st.sampled_from(["stratified", "per_stream", "device_per_stream"]))
    local, nodes = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    batch = local * nodes * draw(st.integers(1, 2))
    sizes = draw(
        st.lists(st.lists(st.integers(5, 60), min_size=1, max_size=4), min_size=1, max_size=3)
    )
    options = resolved(
        batch,
        nodes,
        local,
        batching_method=method,
        shuffle=draw(st.booleans()),
        shuffle_algo=draw(st.sampled_from(["py1e", "py1s", "py1br", "naive", "feistel"])),
        num_canonical_nodes=nodes * draw(st.integers(1, 2)),
    )
    try:
        sequence = EpochSequence(mixture(sizes), options)
        sequence.check()
    except MosaicDataError:
        # Too few data for a single unit.
        assume(False)
    sharing = [(ranks, batch // ranks) for ranks in range(1, batch + 1) if not batch % ranks]
    layouts = draw(st.lists(st.sampled_from(sharing), min_size=1, max_size=6))
    return sequence, [(*layout, draw(st.integers(1, 6))) for layout in layouts]


def check_layouts(sequence: EpochSequence, changes: Iterable[Leg]) -> None:
    """Whatever ranks and batch sizes take turns, what they get together is the sequence itself."""
    position = 0
    handed: list[int] = []
    for world_size, batch_size, batches in changes:
        size = world_size * batch_size
        streams = [
            endless_batches(sequence, Layout(r, world_size, batch_size), position)
            for r in range(world_size)
        ]
        for _ in range(batches):
            requests = [next(s) for s in streams]
            assert {(r.start, r.stop) for r in requests} == {(position, position + size)}
            assert {len(r.ids) for r in requests} == {batch_size}
            expected = sequence.rows(position, position + size)[0]
            got = np.concatenate([r.ids for r in requests])
            assert Counter(got.tolist()) == Counter(expected.tolist())
            numbers = np.searchsorted(sequence.mixture.stream_offsets, expected, side="right") - 1
            for request in requests:
                counts = np.bincount(numbers, minlength=len(sequence.mixture.streams))
                assert request.per_stream.tolist() == counts.tolist()
                located = sequence.mixture.locate(request.ids)
                assert [request.shards, request.places] == [part.tolist() for part in located]
            handed += expected.tolist()
            position += size
    # Every full epoch is its list, which holds each sample as often as the weights say.
    length = sequence.epoch_length
    for epoch in range(position // length):
        counts = Counter(handed[epoch * length : (epoch + 1) * length])
        assert counts == Counter(sequence.epoch(epoch).rows(0, length)[0].tolist())
        check_weights(sequence, counts)


def check_weights(sequence: EpochSequence, counts: Counter[int]) -> None:
    """Each stream gives what was chosen, no sample of it twice more often than another."""
    in_units = sequence.options.batching_method != "random"
    for number, stream in enumerate(sequence.mixture.streams):
        begin, end = sequence.mixture.stream_offsets[number : number + 2]
        own = [count for i, count in counts.items() if begin <= i < end]
        if in_units:
            # Only whole units form an epoch; none of these streams is drawn twice. The units that
            # all machines fill may leave out the few device batches of a small stream.
            by_device = sequence.options.batching_method == "device_per_stream"
            assert set(own) == {1} or (by_device and not own)
            continue
        assert sum(own) == stream.choose
        assert max(own) - (min(own) if len(own) == end - begin else 0) <= 1
