"""Positions that are left out of training, against a run without them replayed with lists."""

import json
import logging
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import packing_helpers as packing
import pytest
from dataloader_helpers import Ranks, joined, loader, numbers, take, write_rows
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mosaic_dataloader import MosaicDataError, StreamingTextDataset
from mosaic_dataloader.inspect import preview, stream_counts
from mosaic_dataloader.inspect.previews import origins
from mosaic_dataloader.inspect.steps import Steps
from mosaic_dataloader.order.skip import Skip, parse_skip, skip_from
from mosaic_dataloader.state.json_form import sealed, unsealed
from mosaic_dataloader.validation import ValidationDataloader

Streams = dict[str, dict[str, Any]]
Ranges = list[tuple[int, int]]
# First row number and rows of each stream.
ROWS = {"web": (0, 180), "code": (10_000, 40), "math": (20_000, 61)}
# By sample id.
EVERY = [first + n for first, count in ROWS.values() for n in range(count)]
STAGES = [
    {"samples": 130, "weights": {"web": 0.5, "code": 0.5}},
    {"weights": {"web": 0.7, "math": 0.3}},
]
ONCE = settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Streams:
    root = tmp_path_factory.mktemp("skip")
    return {
        name: {"local": write_rows(root / name, range(first, first + count))}
        for name, (first, count) in ROWS.items()
    }


def stream_of(number: int) -> str:
    return max((first, name) for name, (first, _) in ROWS.items() if first <= number)[1]


def written(ranges: Ranges) -> list[str]:
    return [f"{start}:{stop}" for start, stop in ranges]


def within(ranges: Ranges) -> set[int]:
    return {position for start, stop in ranges for position in range(start, stop)}


class Replay:
    """A run, position by position.

    Attributes:
        position: Where it is.
        trained: The positions that it was trained on.
        left_out: Those that it has left out, or will.
    """

    def __init__(self) -> None:
        self.position = 0
        self.trained: list[int] = []
        self.left_out: set[int] = set()

    def resume(self, ranges: Ranges) -> None:
        behind = {position for position in self.left_out if position < self.position}
        ahead = {position for position in within(ranges) if position >= self.position}
        self.left_out = behind | ahead

    def batch(self, rows: int) -> list[int]:
        found: list[int] = []
        while len(found) < rows:
            if self.position not in self.left_out:
                found.append(self.position)
            self.position += 1
        self.trained += found
        return found

    @property
    def behind(self) -> int:
        return sum(position < self.position for position in self.left_out)


@st.composite
def some_ranges(draw: st.DrawFn, unit: int = 1, most: int = 400) -> Ranges:
    """Ranges apart from one another, in any order, of lengths that are multiples of a unit."""
    found, start = [], draw(st.integers(0, most // 4))
    for gap, length in draw(
        st.lists(st.tuples(st.integers(0, 40), st.integers(1, 50)), max_size=4)
    ):
        stop = start + -(-length // unit) * unit
        found.append((start, stop))
        start = stop + gap
    return draw(st.permutations(found))


legs = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 4]), st.integers(1, 5), st.integers(1, 9), some_ranges()),
    min_size=1,
    max_size=4,
)


@given(ranges=some_ranges(), position=st.integers(0, 300), rows=st.integers(1, 200))
def test_the_map_is_the_one_of_a_list_without_them(
    ranges: Ranges, position: int, rows: int
) -> None:
    skip = skip_from(0, parse_skip(written(ranges)))
    out = within(ranges)
    kept = [p for p in range(1500) if p not in out]
    after = [p for p in kept if p >= position]
    assert skip.before(position) == sum(p < position for p in out)
    start, free = skip.stretch(position)
    assert start == after[0]
    assert after[:free] == list(range(start, start + len(after[:free])))
    assert start + free in out or start + free > 1500
    found = skip.stretches(position, rows)
    assert [p for stretch in found for p in range(*stretch)] == after[:rows]
    assert skip.after(position, rows) == after[rows - 1] + 1
    assert skip.after(position, 0) == position
    assert skip.moved(position, rows) == after[rows]
    assert skip.moved(after[rows], -rows) == start
    assert within(list(skip.cut(position))) == {p for p in out if p < position}
    # Nothing is left out of what lies behind; what was left out there stays so.
    resumed = skip_from(position, parse_skip(written(ranges)), [(0, 1)] if position > 1 else [])
    ahead = {p for p in out if p >= position}
    assert within(list(resumed.ranges)) == ahead | ({0} if position > 1 else set())


@pytest.mark.parametrize("order", ["epochs", "stages"])
@ONCE
@given(legs=legs, nodes=st.sampled_from([1, 2, 3]), algo=st.sampled_from(["py1e", "feistel"]))
def test_any_layouts_leave_out_what_is_said(
    data: Streams, order: str, legs: list[tuple[int, int, int, Ranges]], nodes: int, algo: str
) -> None:
    """Each leg resumes the one before, under another layout and with another `skip`."""
    options: dict[str, Any] = {"num_canonical_nodes": nodes, "shuffle_algo": algo}
    if order == "stages":
        options["stages"] = STAGES
    plain = loader(data, batch_size=100, **options)
    rows = [row for batch in take(iter(plain), 10) for row in batch]
    plain.close()
    replay, state = Replay(), None
    for world_size, batch_size, batches, ranges in legs:
        skip = written(ranges)
        ranks = Ranks(data, world_size, batch_size=batch_size, skip=skip, **options)
        if state is not None:
            ranks.load(state)
        replay.resume(ranges)
        at = replay.position
        wanted = [replay.batch(world_size * batch_size) for _ in range(batches)]
        ahead = stream_counts(ranks.loaders[0], at, batches)
        assert [Counter(dict(zip(data, own, strict=True))) for own in ahead.tolist()] == [
            Counter({name: 0 for name in data}) | Counter(stream_of(rows[p]) for p in batch)
            for batch in wanted
        ]
        shown = origins(ranks.loaders[-1], at)
        assert sorted(one.position for one in shown) == wanted[0]
        read = list(ranks.loaders[0].run.source.reads(at, batches, range(world_size)))
        found = ranks.batches(batches)
        assert [joined(batch) for batch in found] == [sorted(rows[p] for p in b) for b in wanted]
        # The forecast looks up the same, rank after rank.
        by_rank = [[row for rank in batch for row in rank] for batch in found]
        assert [[EVERY[i] for i in ids] for ids in read] == by_rank
        # The preview says who reads which of them.
        assert [ROWS[one.stream][0] + one.sample for one in shown] == by_rank[0]
        one = ranks.loaders[world_size - 1]
        assert (one.samples_seen, one.left_out) == (replay.position, replay.behind)
        counted = Counter(stream_of(rows[p]) for p in replay.trained)
        assert one.samples_per_stream == {name: counted[name] for name in data}
        assert one.counters().rows == len(replay.trained)
        state = ranks.state
        ranks.close()


def test_a_run_is_the_same_until_it_gets_there(data: Streams) -> None:
    """With `skip` ahead, the batches and the state are those of a run without it."""
    states = []
    for skip in ([], ["64:96"], ["64:96", "300:301"]):
        one = loader(data, skip=skip)
        iterator = iter(one)
        assert len(take(iterator, 8)) == 8
        states.append(one.state_dict())
        one.close()
    assert states[0] == states[1] == states[2]
    assert "left_out" not in states[0]["mosaic"]
    one = loader(data, skip=["64:96"])
    take(iter(one), 9)
    assert unsealed(json.loads(one.state_dict()["mosaic"]))["left_out"] == [[64, 96]]  # type: ignore[index]
    # `skip_samples` are left out as well, and count once.
    both = loader(data, skip_samples=80, skip=["64:96"])
    take(iter(both), 2)
    assert (both.samples_seen, both.left_out, both.counters().rows) == (112, 16, 16)
    for each in (one, both):
        each.close()


def test_workers_and_confirmed_batches(data: Streams) -> None:
    wanted = take(iter(loader(data, skip=["5:70", "90:91"])), 6)
    with_workers = loader(data, skip=["5:70", "90:91"], num_workers=2)
    assert take(iter(with_workers), 6) == wanted
    with_workers.close()
    confirmed = loader(data, skip=["5:70", "90:91"], confirm_batches=True)
    assert take(iter(confirmed), 3) == wanted[:3]
    confirmed.confirm(1)
    # Two were handed out and not trained on.
    assert confirmed.samples_seen == 73
    assert take(iter(confirmed), 2) == wanted[1:3]
    confirmed.close()


@pytest.mark.parametrize("drop_last", [True, False])
def test_finite_passes_end_with_their_epoch(data: Streams, drop_last: bool) -> None:
    """Epochs of 281 samples: with a hole, without their ends, and one that is left out whole."""
    ranges = [(100, 130), (270, 300), (500, 900)]
    plain = loader(data, batch_size=1)
    rows = [row for (row,) in take(iter(plain), 4 * 281)]
    plain.close()
    ranks = Ranks(data, 2, infinite=False, drop_last=drop_last, skip=written(ranges))
    for epoch in range(4):
        kept = [p for p in range(epoch * 281, epoch * 281 + 281) if p not in within(ranges)]
        wanted = [kept[at : at + 16] for at in range(0, len(kept), 16)]
        if wanted and drop_last and len(wanted[-1]) < 16:
            wanted.pop()
        assert [len(one) for one in ranks.loaders] == [len(wanted)] * 2
        found = list(zip(*(map(numbers, one) for one in ranks.loaders), strict=True))
        assert [sorted(row for own in batch for row in own if row >= 0) for batch in found] == [
            sorted(rows[p] for p in batch) for batch in wanted
        ]
        assert {one.samples_seen for one in ranks.loaders} == {281 * (epoch + 1)}
    # After the last row of an epoch, what is left out until its end is behind.
    ends = loader(data, infinite=False, batch_size=10, skip=["270:281"])
    assert len(take(iter(ends), 27)) == 27
    assert ends.samples_seen == 281
    ends.close()
    ranks.close()


def test_orders_by_the_batch_are_cut_at_batches(data: Streams) -> None:
    options = {"batching_method": "stratified", "batch_size": 16}
    plain = take(iter(loader(data, **options)), 30)
    ranks = Ranks(data, 2, batching_method="stratified", batch_size=8, skip=["32:64", "160:320"])
    found = [joined(batch) for batch in ranks.batches(12)]
    assert found == [sorted(batch) for batch in plain[:2] + plain[4:10] + plain[20:24]]
    ranks.close()
    one = loader(data, skip=["33:64"], **options)
    with pytest.raises(MosaicDataError, match=r'a part of a global batch of 16.*use "32:64"'):
        one.check()


def test_what_is_left_out_is_not_fetched(data: Streams, tmp_path: Path) -> None:
    store = write_rows(tmp_path / "store", range(400), size_limit=1200)
    shards = json.loads((tmp_path / "store" / "index.json").read_text())["shards"]
    each = shards[0]["samples"]
    one = loader(
        {"s": {"remote": store, "local": str(tmp_path / "cache")}},
        shuffle=False,
        predownload=2 * each,
        skip=[f"{each}:{10 * each}"],
    )
    rows = [row for batch in take(iter(one), 4 * each // 8) for row in batch]
    assert rows == [*range(each), *range(10 * each, 400)][: len(rows)]
    one.close()
    present = {int(path.name.split(".")[1]) for path in (tmp_path / "cache").glob("shard.*.mds")}
    assert {0, 10} <= present
    assert not present & set(range(1, 10))


def test_what_comes_too_late_is_said(data: Streams, caplog: pytest.LogCaptureFixture) -> None:
    one = loader(data, skip=["8:16"])
    take(iter(one), 3)
    state = one.state_dict()
    one.close()
    again = loader(data, skip=["4:24", "30:40"])
    # Where an earlier test has let the first loader's lines through.
    caplog.clear()
    with caplog.at_level(logging.INFO):
        again.load_state_dict(state)
    lines = [record.getMessage() for record in caplog.records if "skip" in record.getMessage()]
    late = (
        "the run resumes at sample 32 of the order and has trained on them; resume from an earlier "
        "checkpoint to leave them out"
    )
    assert lines == [
        f'skip = "4:24" comes too late for 12 positions: {late}',
        "skip: from sample 32 of the order on, 8 are left out of training",
        f'skip = "30:40" comes too late for 2 positions: {late}',
    ]
    take(iter(again), 1)
    assert (again.samples_seen, again.left_out) == (48, 16)
    again.close()
    # What was left out stays so where the option no longer names it.
    without = loader(data)
    without.load_state_dict(state)
    assert (without.left_out, without.counters().rows) == (8, 24)
    without.close()


def test_steps_are_found_on_both_sides(data: Streams) -> None:
    one = loader(data, skip=["16:40"])
    take(iter(one), 4)
    steps = Steps(one, rows=8, total=10, done=4)
    assert [steps.position_of(step) for step in range(1, 8)] == [0, 8, 40, 48, 56, 64, 72]
    one.close()


def test_a_changed_order_begins_where_the_run_is(data: Streams) -> None:
    """`restart_epoch`: positions go on, and so does what is left out."""
    one = loader(data, skip=["8:16"])
    take(iter(one), 3)
    state = one.state_dict()
    one.close()
    options = {"shuffle_seed": 1, "on_data_change": "restart_epoch"}
    plain = loader(data, **options)
    plain.load_state_dict(state)
    rows = [row for batch in take(iter(plain), 4) for row in batch]
    plain.close()
    again = loader(data, skip=["8:16", "40:60"], **options)
    again.load_state_dict(state)
    # Position 32 is the first of the new order.
    assert take(iter(again), 1) == [rows[:8]]
    assert take(iter(again), 1)[0][:4] == rows[28:32]
    assert again.counters().rows == 40
    again.close()


MISTAKES = [
    ("10:20", "must be a list of ranges"),
    (7, "must be a list of ranges"),
    ([5], "skip has 5; write the first position"),
    (["10"], "skip has '10'; write the first position and the one after the last"),
    (["-3:5"], "skip has '-3:5'; write the first position"),
    (["1,00:2,000"], "write the first position"),
    (["20:10"], "skip has '20:10', which holds no position"),
    (["10:10"], "skip has '10:10', which holds no position"),
    (["0:20", "10:30"], 'skip has "0:20" and "10:30", which overlap'),
    (["0:999999999999999999999"], "beyond the end of any run"),
]


@pytest.mark.parametrize(("skip", "words"), MISTAKES)
def test_mistakes(data: Streams, skip: Any, words: str) -> None:
    with pytest.raises(MosaicDataError, match=words) as caught:
        loader(data, skip=skip)
    assert "\n" not in str(caught.value)


def test_forms_that_are_taken() -> None:
    given = parse_skip(["1_000:2,000", " 5 : 7 ", "7:9"])
    assert Skip(given).ranges == ((5, 9), (1000, 2000))


def test_validation_refuses_it(data: Streams) -> None:
    for option in ({"skip": ["0:8"]}, {"max_repeats": 2}):
        dataset = StreamingTextDataset(seq_len=16, streams=data, **option)
        with pytest.raises(MosaicDataError, match=f"{next(iter(option))} is for training"):
            ValidationDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=8)


@pytest.mark.parametrize(
    "ranges",
    [[[5, 3]], [[3]], [[3, 3]], [[0, 9], [9, 12]], [[9, 12], [0, 3]], [[0, 99]], [[0, "3"]]],
)
def test_what_comes_from_a_state_is_checked(data: Streams, ranges: Any) -> None:
    one = loader(data)
    take(iter(one), 2)
    content = unsealed(json.loads(one.state_dict()["mosaic"]))
    assert content is not None
    with pytest.raises(MosaicDataError, match=r"left_out \d is not a range of positions before 16"):
        one.load_state_dict({"mosaic": sealed({**content, "left_out": ranges})})
    one.close()


# ------------------------------------------------------------------------------------------ packed

LANES = 12


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[list[int]]]:
    documents = packing.documents(300, 1)
    folder = tmp_path_factory.mktemp("packed")
    return packing.write_tokens(folder / "data", documents), documents


packed_legs = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 3, 4]), st.integers(1, 4), st.integers(1, 8), some_ranges(LANES, 200)
    ),
    min_size=1,
    max_size=3,
)


def finished(lanes: list[list[int]], trained: Iterable[int]) -> int:
    """Documents that end in rows that were trained on.

    Args:
        lanes: Lengths of each lane's documents.
        trained: The rows.
    """
    rows, ended = set(trained), 0
    for lane, lengths in enumerate(lanes):
        end = 0
        for length in lengths:
            end += length
            # Row n of a lane ends before token (n + 1) * T, with which the next one begins.
            ended += length > 0 and lane + LANES * ((end - 1) // packing.SEQ_LEN) in rows
    return ended


@ONCE
@given(legs=packed_legs, nodes=st.sampled_from([1, 2, 3]))
def test_packed_rows_are_left_out_under_any_layout(
    texts: tuple[str, list[list[int]]], legs: list[tuple[int, int, int, Ranges]], nodes: int
) -> None:
    folder, documents = texts
    options: dict[str, Any] = {"packing_lanes": LANES, "num_canonical_nodes": nodes}
    plain = packing.packed(folder, **options)
    every = packing.Packing.of(plain, documents, LANES, num_canonical_nodes=nodes)
    rows = every.rows(900)
    lanes: list[list[int]] = [[] for _ in range(LANES)]
    for lane, _, sample in islice(every.deal(), 3000):
        lanes[lane].append(len(documents[sample]))
    plain.close()
    replay, state = Replay(), None
    for world_size, batch_size, batches, given_ranges in legs:
        # One that the run is in would leave out a part that lanes do not divide.
        ranges = [(a, b) for a, b in given_ranges if not a < replay.position < b]
        skip = written(ranges)
        ranks = packing.Ranks(folder, world_size, batch_size=batch_size, skip=skip, **options)
        if state is not None:
            ranks.load(state)
        replay.resume(ranges)
        at = replay.position
        wanted = [replay.batch(world_size * batch_size) for _ in range(batches)]
        shown = list(islice(preview(ranks.loaders[0], at), world_size * batch_size))
        assert [one.position for one in shown] == wanted[0]
        assert ranks.batches(batches) == [sorted(rows[p] for p in batch) for batch in wanted]
        one = ranks.loaders[0]
        assert (one.samples_seen, one.left_out) == (replay.position, replay.behind)
        assert one.counters().rows == len(replay.trained)
        counted = [sum(one.samples_per_stream.values()) for one in ranks.loaders]
        assert finished(lanes, replay.trained) <= sum(counted)
        # Empty documents count with those around them.
        assert sum(counted) <= finished(lanes, replay.trained) + sum(d.count(0) for d in lanes)
        state = ranks.state
        ranks.close()


def test_packed_tokens_are_those_of_the_rows(texts: tuple[str, list[list[int]]]) -> None:
    one = packing.packed(texts[0], packing_lanes=4, skip=["6:18", "20:24"])
    for _ in range(4):
        packing.rows_of(next(iter(one)))
    counters = one.counters()
    assert (counters.rows, counters.target_tokens) == (32, {"data": 32 * packing.SEQ_LEN})
    one.close()


def test_packed_ranges_that_lanes_do_not_divide(texts: tuple[str, list[list[int]]]) -> None:
    one = packing.packed(texts[0], packing_lanes=LANES, skip=["10:27"])
    with pytest.raises(MosaicDataError, match=r'a multiple of the 12 packing lanes.*use "10:34"'):
        iter(one)
    with pytest.raises(MosaicDataError, match="packed without end"):
        packing.packed(texts[0], skip=["0:960"], infinite=False)
