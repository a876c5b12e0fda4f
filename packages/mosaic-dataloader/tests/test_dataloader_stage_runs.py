"""Runs with stages through real loaders: what is read, saved, resumed and changed in mid-run."""

import copy
import hashlib
import json
import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import packing_helpers as packing
import pytest
import torch
import torch.distributed.checkpoint as dcp
from dataloader_helpers import Ranks, joined, loader, take, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from reader_processes import Job

from mosaic_dataloader import MosaicDataError, StreamingTextDataset
from mosaic_dataloader.inspect.mixture import mixture_tree
from mosaic_dataloader.inspect.previews import origins
from mosaic_dataloader.inspect.steps import Steps
from mosaic_dataloader.order.epoch import build_epoch
from mosaic_dataloader.order.mixture import Mixture
from mosaic_dataloader.order.permute import Permutations, keys
from mosaic_dataloader.order.sequence import EpochSequence
from mosaic_dataloader.order.stages import BLOCK, draws_per_block
from mosaic_dataloader.state.json_form import sealed, unsealed
from mosaic_dataloader.validation import ValidationDataloader

Streams = dict[str, dict[str, Any]]
# First row number and rows of each stream.
ROWS = {"web": (0, 700), "code": (10_000, 90), "math": (20_000, 211)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Streams:
    root = tmp_path_factory.mktemp("stages")
    return {
        name: {"local": write_rows(root / name, range(first, first + count))}
        for name, (first, count) in ROWS.items()
    }


def stage(samples: int | None = None, **weights: float) -> dict[str, Any]:
    return {"weights": weights} if samples is None else {"samples": samples, "weights": weights}


def stream_of(number: int) -> str:
    return max((first, name) for name, (first, _) in ROWS.items() if first <= number)[1]


class Replay:
    """The run once more, stage by stage, with plain lists.

    Of the code it takes the keyed permutation of a block and the order of a stream's epoch alone.
    """

    def __init__(self, streams: Streams, nodes: int = 1, **options: Any):
        dataset = StreamingTextDataset(seq_len=16, streams=streams, shuffle=True, **options)
        self.nodes = nodes
        self.order = dataset.options.resolve(num_nodes=nodes, global_batch=8, local_batch=8)
        self.names = [size.name for size in dataset.mixture.streams]
        self.sizes = dict(zip(self.names, dataset.mixture.streams, strict=True))
        self.digests = {s.name: s.digest for s in dataset.identity.streams}
        self.queues: dict[str, list[int]] = {name: [] for name in self.names}
        self.epochs: Counter[str] = Counter()

    def next_of(self, name: str) -> int:
        if not self.queues[name]:
            text = f"{self.order.shuffle_seed} {self.digests[name]}"
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "little")
            alone = EpochSequence(
                Mixture((self.sizes[name],)),
                replace(self.order, num_canonical_nodes=1, shuffle_seed=seed),
            )
            epoch = build_epoch(alone.mixture, alone.options, self.epochs[name])
            self.queues[name] = epoch.rows(0, self.sizes[name].samples)[0].tolist()
            self.epochs[name] += 1
        return ROWS[name][0] + self.queues[name].pop(0)

    def stage(self, start: int, stop: int, names: list[str], **weights: float) -> list[int]:
        """The rows of the positions of a stage; ``names`` in the order in which streams came."""
        counts = draws_per_block([weights.get(name, 0) for name in names])
        table = [name for name, count in zip(names, counts, strict=True) for _ in range(count)]
        rows, block = [], -1
        places: list[list[int]] = []
        for position in range(start, stop):
            number, rest = divmod(position - start, BLOCK * self.nodes)
            if number != block:
                block = number
                places = [
                    Permutations(
                        np.array([BLOCK]), keys(5, self.order.shuffle_seed, start, number, node)
                    )
                    .at(np.zeros(BLOCK, np.int64), np.arange(BLOCK, dtype=np.int64))
                    .tolist()
                    for node in range(self.nodes)
                ]
            rows.append(self.next_of(table[places[rest % self.nodes][rest // self.nodes]]))
        return rows


def check_ledger(rows: list[int]) -> None:
    """No sample of a stream again before all of its stream were seen."""
    given_out: dict[str, list[int]] = {name: [] for name in ROWS}
    for row in rows:
        given_out[stream_of(row)].append(row)
    for name, seen in given_out.items():
        first, count = ROWS[name]
        for begin in range(0, len(seen), count):
            part = seen[begin : begin + count]
            assert len(set(part)) == len(part), f"{name} repeats early"
            assert set(part) <= set(range(first, first + count))


def read(ranks: Ranks, batches: int) -> list[int]:
    """The rows of so many global batches, each in the order of positions as far as ranks tell."""
    return [row for batch in ranks.batches(batches) for row in joined(batch)]


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def in_batches(rows: list[int], size: int) -> list[int]:
    return [row for at in range(0, len(rows), size) for row in sorted(rows[at : at + size])]


@pytest.mark.parametrize("algo", ["py1e", "py1br", "naive", "feistel"])
@pytest.mark.parametrize("nodes", [1, 3])
def test_loaders_read_what_a_replay_with_lists_gives(data: Streams, algo: str, nodes: int) -> None:
    options = {"shuffle_algo": algo, "num_canonical_nodes": nodes}
    replay = Replay(data, nodes, **options)
    names = list(data)
    # 250 is rounded up to 252 for three nodes.
    first = -(-250 // nodes) * nodes
    second = first + -(-301 // nodes) * nodes
    wanted = [
        *replay.stage(0, first, names, web=0.5, code=0.5),
        *replay.stage(first, second, names, web=0.2, math=0.8),
        *replay.stage(second, 1200, names, web=1, code=1, math=1),
    ]
    stages = [
        stage(250, web=0.5, code=0.5),
        stage(301, web=0.2, math=0.8),
        stage(web=1, code=1, math=1),
    ]
    ranks = Ranks(data, 3, batch_size=4, stages=stages, **options)
    assert read(ranks, 100) == in_batches(wanted, 12)
    counted = Counter(map(stream_of, wanted))
    one = ranks.loaders[1]
    assert one.samples_per_stream == {name: counted[name] for name in names}
    assert one.epochs_seen == pytest.approx(1200 / 1001)
    ranks.close()
    check_ledger(wanted)


legs = st.lists(
    st.tuples(st.sampled_from([1, 2, 4]), st.integers(1, 6), st.integers(1, 12)),
    min_size=1,
    max_size=4,
)


@settings(max_examples=settings().max_examples // 16)
@given(legs=legs, nodes=st.sampled_from([1, 2, 3]), choice=st.data())
def test_any_layouts_resume_and_change_in_mid_run(
    data: Streams,
    tmp_path: Path,
    legs: list[tuple[int, int, int]],
    nodes: int,
    choice: st.DataObject,
) -> None:
    """A leg may begin with other weights, without a stream, or with one that returns."""
    check_legs(data, tmp_path, legs, nodes, choice)


@pytest.mark.soak
@settings(max_examples=50)
@given(legs=legs, nodes=st.sampled_from([1, 2, 3]), choice=st.data())
def test_many_layouts_resume_and_change_in_mid_run(
    data: Streams,
    tmp_path: Path,
    legs: list[tuple[int, int, int]],
    nodes: int,
    choice: st.DataObject,
) -> None:
    check_legs(data, tmp_path, legs, nodes, choice, workers=(0, 2))


def check_legs(
    data: Streams,
    folder: Path,
    legs: list[tuple[int, int, int]],
    nodes: int,
    choice: st.DataObject,
    workers: tuple[int, ...] = (0,),
) -> None:
    """Real loaders, by torch's distributed checkpoint, against the replay with lists."""
    replay = Replay(data, nodes, num_canonical_nodes=nodes)
    came: list[str] = []
    rows: list[int] = []
    wanted: list[int] = []
    ordered: list[int] = []
    state: dict[str, str] | None = None
    before: tuple[int, dict[str, float]] | None = None
    for world_size, batch_size, batches in legs:
        names = choice.draw(st.lists(st.sampled_from(list(ROWS)), min_size=1, unique=True))
        weights = {name: choice.draw(st.sampled_from([1.0, 2.0, 5.0])) for name in names}
        # As shares: twice the weights are no change.
        weights = {name: weight / sum(weights.values()) for name, weight in weights.items()}
        position = len(rows)
        if position % nodes:
            # What is left of the round is drawn with the old weights.
            assert before is not None
            names, weights = list(before[1]), before[1]
        streams = {name: data[name] for name in names}
        came += [name for name in names if name not in came]
        ranks = Ranks(
            streams,
            world_size,
            batch_size=batch_size,
            num_workers=choice.draw(st.sampled_from(workers)),
            num_canonical_nodes=nodes,
            stages=[stage(None, **weights)],
            on_data_change="new_stage",
        )
        if state is not None:
            checkpoint = folder / "checkpoint"
            shutil.rmtree(checkpoint, ignore_errors=True)
            dcp.save({"dataloader": state}, checkpoint_id=checkpoint, no_dist=True)
            for one in ranks.loaders:
                dcp.load({"dataloader": one}, checkpoint_id=checkpoint, no_dist=True)
        if before is None or before[1] != weights:
            before = (position, weights)
            wanted = ordered.copy()
            saved_replay = copy.deepcopy((replay.queues, replay.epochs))
        rows += read(ranks, batches)
        replay.queues, replay.epochs = copy.deepcopy(saved_replay)
        begin = before[0]
        now = replay.stage(begin, len(rows), came, **before[1])
        # Each leg has batches of its own size: compared as what was drawn.
        ordered = [*wanted, *now]
        assert Counter(rows) == Counter(ordered)
        state = ranks.state
        ranks.close()
    check_ledger(ordered)


def test_three_stages_are_resumed_and_edited_on_other_layouts(
    data: Streams,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    start: Callable[..., Job],
) -> None:
    """Two processes are killed, one resumes by torch's distributed checkpoint; stages change."""
    plan = [stage(200, web=0.5, code=0.5), stage(400, web=0.5, math=0.5), stage(web=1.0)]
    # One is further than the other: what it read after the checkpoint is read again.
    killed = [
        start(
            streams=data,
            options={"stages": plan},
            rank=rank,
            ranks=2,
            batches=20 + 3 * rank,
            state=tmp_path / f"rank{rank}",
            hold=True,
        )
        for rank in (0, 1)
    ]
    states = [tmp_path / f"rank{rank}" for rank in (0, 1)]
    for job, state, position in zip(killed, states, (320, 368), strict=True):
        while not state.exists() or json.loads(state.read_text())["samples_seen"] < position:
            assert job.alive(), job.out.read_text()
            time.sleep(0.01)
        job.kill()
    parts = [job.join()[: 20 * 8] for job in killed]
    rows = [
        row
        for at in range(0, 160, 8)
        for row in sorted(parts[0][at : at + 8] + parts[1][at : at + 8])
    ]
    saved = {"dataloader": {"mosaic": states[0].read_text()}}
    dcp.save(saved, checkpoint_id=tmp_path / "one", no_dist=True)

    def resumed(stages: list[dict[str, Any]], step: str, **options: Any) -> Any:
        one = loader(data, batch_size=20, stages=stages, shuffle_block_size=100, **options)
        dcp.load({"dataloader": one}, checkpoint_id=tmp_path / step, no_dist=True)
        return one

    # The third stage before it begins.
    plan = [*plan[:2], stage(code=0.1, web=0.9)]
    with caplog.at_level(logging.INFO):
        one = resumed(plan, "one")
    assert (
        "the stages after sample 320 changed: from sample 600 on web 90%, code 10%" in caplog.text
    )
    iterator = iter(one)
    rows += flat(take(iterator, 4))
    dcp.save({"dataloader": one}, checkpoint_id=tmp_path / "two", no_dist=True)
    one.close()
    # The second one while in it.
    edited = [plan[0], stage(400, web=0.1, math=0.9), plan[2]]
    with pytest.raises(
        MosaicDataError,
        match=r'stage 2: stream "web" had 50% of the samples and now has 10%; stage 2: stream '
        r'"math" had 50% of the samples and now has 90%\. Restore what changed, or set '
        r'on_data_change = "new_stage"',
    ):
        resumed(edited, "two")
    one = resumed(edited, "two", on_data_change="new_stage")
    rows += flat(take(iter(one), 20))
    state = one.state_dict()
    one.close()
    again = loader(data, batch_size=16, stages=edited, shuffle_block_size=100, num_workers=2)
    again.load_state_dict(state)
    rows += flat(take(iter(again), 10))
    assert again.samples_per_stream == {name: Counter(map(stream_of, rows))[name] for name in data}
    again.close()

    replay, names = Replay(data, shuffle_block_size=100), list(data)
    wanted = [
        *replay.stage(0, 200, names, web=0.5, code=0.5),
        *replay.stage(200, 400, names, web=0.5, math=0.5),
        *replay.stage(400, 600, names, web=0.1, math=0.9),
        *replay.stage(600, 960, names, web=0.9, code=0.1),
    ]
    assert len(rows) == 960
    # The first leg was read by two ranks.
    assert rows[:320] == in_batches(wanted[:320], 16)
    assert rows[320:] == wanted[320:]
    # Of the rows, those of two ranks are not in the order of positions.
    check_ledger(wanted)


def test_a_change_in_mid_run_repeats_nothing_that_is_left(data: Streams) -> None:
    """From 0.5 and 0.5 to 0.9 and 0.1: 320 samples before, 320 after, of streams of 700 and 211."""
    streams = {name: data[name] for name in ("web", "math")}
    one = loader(streams, stages=[stage(web=0.5, math=0.5)])
    before = flat(take(iter(one), 40))
    state = one.state_dict()
    one.close()
    # In the other order, too: what a stream gave does not depend on its place in the file.
    turned = dict(reversed(streams.items()))
    changed = loader(turned, stages=[stage(web=0.9, math=0.1)], on_data_change="new_stage")
    changed.load_state_dict(state)
    after = flat(take(iter(changed), 40))
    assert Counter(map(stream_of, after))["web"] > 280
    math = Counter(map(stream_of, before + after))["math"]
    assert len(set(before + after)) == 640 - max(0, math - 211)
    changed.close()


def test_streams_are_removed_added_and_return(data: Streams) -> None:
    """What a stream gave is remembered while it is away."""

    def run(state: dict[str, str] | None, batches: int, **weights: float) -> Any:
        one = loader(
            {name: data[name] for name in weights},
            stages=[stage(None, **weights)],
            on_data_change="new_stage",
        )
        if state is not None:
            one.load_state_dict(state)
        rows = flat(take(iter(one), batches))
        kept = one.state_dict(), one.samples_per_stream, one.tokens_per_stream
        one.close()
        return rows, *kept

    first, state, counts, _ = run(None, 10, web=1, code=1)
    second, state, _, _ = run(state, 10, web=1, math=1)
    third, state, after, tokens = run(state, 10, code=3, math=1)
    rows = first + second + third
    check_ledger(rows)
    seen = Counter(map(stream_of, rows))
    assert counts["code"] == Counter(map(stream_of, first))["code"]
    assert after == {name: seen[name] for name in ("code", "math")}
    assert tokens == {name: 16 * seen[name] for name in ("code", "math")}
    known = json.loads(state["mosaic"])["stages"]
    assert [one["name"] for one in known["streams"]] == ["web", "code", "math"]
    assert known["streams"][0]["seen"] == seen["web"]


def test_data_that_changed_are_another_stream(data: Streams, tmp_path: Path) -> None:
    one = loader(data, stages=[stage(web=1, code=1)])
    take(iter(one), 4)
    state = one.state_dict()
    one.close()
    other = {**data, "code": {"local": write_rows(tmp_path / "code", range(10_000, 10_080))}}
    with pytest.raises(MosaicDataError, match=r'data of stream "code" changed \(90 samples in'):
        loader(other, stages=[stage(web=1, code=1)]).load_state_dict(state)
    # In a stage that lies ahead, and in none at all, it may change.
    loader(other, stages=[stage(web=1, code=1)], on_data_change="new_stage").load_state_dict(state)
    other = {**data, "math": {"local": write_rows(tmp_path / "math", range(20_000, 20_080))}}
    loader(other, stages=[stage(web=1, code=1)]).load_state_dict(state)


def test_a_new_stage_that_was_saved_at_once_is_kept(data: Streams) -> None:
    one = loader(data, stages=[stage(web=1, code=1)])
    take(iter(one), 4)
    state = one.state_dict()
    options: dict[str, Any] = {"stages": [stage(math=1)], "on_data_change": "new_stage"}
    changed = loader(data, **options)
    changed.load_state_dict(state)
    again = loader(data, **options)
    again.load_state_dict(changed.state_dict())
    assert {stream_of(row) for row in take(iter(again), 1)[0]} == {"math"}
    for each in (one, changed, again):
        each.close()


def test_an_edit_ahead_keeps_a_new_stage_that_was_saved_at_once(data: Streams) -> None:
    """The stage that a change began is not one of the file, and has not begun either."""
    one = loader(data, stages=[stage(80, web=1), stage(web=1)])
    take(iter(one), 4)
    state = one.state_dict()
    options: dict[str, Any] = {"on_data_change": "new_stage"}
    changed = loader(data, stages=[stage(80, math=1), stage(web=1)], **options)
    changed.load_state_dict(state)
    again = loader(data, stages=[stage(80, math=1), stage(code=1)], **options)
    again.load_state_dict(changed.state_dict())
    found = [stream_of(row) for row in flat(take(iter(again), 8))]
    assert found == ["math"] * 48 + ["code"] * 16
    for each in (one, changed, again):
        each.close()


def test_a_change_inside_a_round_of_the_nodes_begins_with_the_next(data: Streams) -> None:
    options: dict[str, Any] = {"num_canonical_nodes": 4, "batch_size": 3}
    one = loader(data, stages=[stage(web=1)], **options)
    take(iter(one), 3)
    state = one.state_dict()
    one.close()
    options |= {"stages": [stage(math=1)], "on_data_change": "new_stage"}
    changed = loader(data, **options)
    changed.load_state_dict(state)
    rows = flat(take(iter(changed), 2))
    assert [stream_of(row) for row in rows] == ["web"] * 3 + ["math"] * 3
    changed.close()
    with pytest.raises(
        MosaicDataError, match=r'stream "web" was removed, and 3 of its samples come before'
    ):
        loader({"math": data["math"]}, **options).load_state_dict(state)


def test_epochs_and_stages_do_not_continue_each_other(data: Streams) -> None:
    staged, epochs = loader(data, stages=[stage(web=1)]), loader(data)
    with pytest.raises(MosaicDataError, match="order of epochs, which cannot be resumed with"):
        staged.load_state_dict(epochs.state_dict())
    with pytest.raises(MosaicDataError, match="run has stages, and the present options have none"):
        epochs.load_state_dict(staged.state_dict())
    with pytest.raises(MosaicDataError, match="fit the present options: shuffle_seed was 9176"):
        loader(
            data, stages=[stage(web=1)], shuffle_seed=1, on_data_change="new_stage"
        ).load_state_dict(staged.state_dict())


def test_an_order_that_is_computed_otherwise_is_refused(
    data: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = loader(data, stages=[stage(web=1, code=1)])
    take(iter(one), 4)
    state = one.state_dict()
    one.close()
    monkeypatch.setattr("mosaic_dataloader.order.stages._PURPOSE", 6)
    with pytest.raises(MosaicDataError, match="from position 32 on, the order is computed"):
        loader(data, stages=[stage(web=1, code=1)]).load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stages": [stage(web=0)]}, "all weights are 0"),
        ({"stages": []}, "must be a list of at least one stage"),
        ({"stages": {"weights": {"web": 1}}}, "must be a list of at least one stage"),
        ({"stages": [stage(wbe=1)]}, r"'wbe', and there is no such stream; did you mean 'web'\?"),
        ({"stages": [stage(web=-1)]}, "stage 1: the weight of 'web' = -1 must be at least 0"),
        ({"stages": [{"weight": {}}]}, "has no option 'weight'; it takes samples, tokens, weights"),
        ({"stages": [{"samples": 5}, stage(web=1)]}, "stage 1 has no weights"),
        ({"stages": [stage(5, web=1)]}, "stage 1 is the last one"),
        ({"stages": [stage(web=1), stage(web=1)]}, "stage 1 has neither samples nor tokens"),
        ({"stages": [{**stage(5, web=1), "tokens": 5}, stage(web=1)]}, "samples and tokens"),
        ({"stages": [stage(0, web=1), stage(web=1)]}, "samples = 0 must be at least 1"),
        ({"epoch_size": 50}, "epoch_size = 50 has no meaning with stages"),
        ({"batching_method": "stratified"}, 'stages need batching_method = "random"'),
        ({"sampling_method": "fixed"}, "sampling_method = 'fixed' has no meaning"),
        ({"sampling_granularity": 2}, "sampling_granularity = 2 has no meaning"),
        ({"on_data_change": "restart_epoch"}, 'has no meaning with stages; use "new_stage"'),
        ({"stages": None, "on_data_change": "new_stage"}, '"new_stage" has no meaning without'),
        ({"infinite": False}, "set infinite to true"),
        ({"num_canonical_nodes": 500}, "at most 256 canonical nodes"),
    ],
)
def test_options_that_cannot_be(data: Streams, options: dict[str, Any], words: str) -> None:
    with pytest.raises(MosaicDataError, match=words) as caught:
        loader(data, **{"stages": [stage(web=1)], **options})
    assert "\n" not in str(caught.value)


def test_weights_of_streams_and_validation_are_refused(data: Streams) -> None:
    weighted = {**data, "web": {**data["web"], "proportion": 1.0}}
    for name in ("code", "math"):
        weighted[name] = {**data[name], "proportion": 1.0}
    with pytest.raises(MosaicDataError, match='"web" has proportion, and stages give the weights'):
        loader(weighted, stages=[stage(web=1)])
    dataset = StreamingTextDataset(seq_len=16, streams=data, stages=[stage(web=1)])
    with pytest.raises(MosaicDataError, match="stages are for training"):
        ValidationDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=8)


def test_a_stage_of_tokens_and_weights_in_tokens(data: Streams, tmp_path: Path) -> None:
    one = loader(data, stages=[{"tokens": "3.2k", "weights": {"web": 1}}, stage(code=1)])
    rows = flat(take(iter(one), 30))
    one.close()
    # Rows of 16 tokens each.
    assert [stream_of(row) for row in rows] == ["web"] * 200 + ["code"] * 40

    lengths = {"short": 30, "long": 300}
    streams = {
        name: {"local": packing.write_tokens(tmp_path / name, [[7] * length] * 20)}
        for name, length in lengths.items()
    }
    for weights_in, share in (("samples", 30 / 330), ("tokens", 0.5)):
        one = packing.packed(streams, stages=[stage(short=1, long=1)], weights_in=weights_in)
        ids = one.run.source.sequence.ids_at(np.arange(BLOCK, dtype=np.int64))
        short, long = (np.bincount(ids // 20) * list(lengths.values())).tolist()
        assert short / (short + long) == pytest.approx(share, abs=0.02), weights_in
        one.close()


def test_previews_name_the_streams_own_epochs(data: Streams) -> None:
    stages = [stage(100, web=0.5, code=0.5), stage(code=1.0)]
    ranks = Ranks(data, 2, batch_size=4, stages=stages)
    found = origins(ranks.loaders[0], 96)
    rows = ranks.batches(13)[12]
    assert [o.sample + ROWS[o.stream][0] for o in found] == [row for own in rows for row in own]
    # 48 samples of code were drawn before position 100, and there are 90.
    assert {o.epoch for o in origins(ranks.loaders[0], 136)} == {0, 1}
    assert {o.epoch for o in origins(ranks.loaders[0], 300)} == {2}
    ranks.close()


def test_the_mixture_is_printed_as_a_tree(data: Streams) -> None:
    """Of a run that resumes in its second stage and skipped the first samples."""
    stages = [stage(100, web=0.5, code=0.5), stage(code=1), stage(math=1)]
    stages[1]["samples"] = 300
    one = loader(data, stages=stages, skip_samples=20)
    rows = flat(take(iter(one), 25))
    steps = Steps(one, rows=8, total=40, done=25)
    tree = [line.lstrip("├└─│ ") for line in mixture_tree(one, steps)]
    assert tree[1] == "stage 1 of 3: steps 1 to 10, samples 20 to 99"
    assert tree[5] == "stage 2 of 3: steps 11 to 40, samples 100 to 339"
    assert tree[8] == "stage 3 of 3: begins at sample 400, after the end of the run"
    assert tree[9] == "the whole run: steps 1 to 40, samples 20 to 339"
    rows += flat(take(iter(one), 15))
    drawn = Counter(map(stream_of, rows))
    for line, name in zip(tree[11:], ("web", "code"), strict=True):
        samples, share = f"{drawn[name]}", f"{drawn[name] / 320:.1%}"
        tokens, seen = f"{16 * drawn[name]:,}", f"{drawn[name] / ROWS[name][1]:.2f}"
        assert line.split() == [name, samples, share, tokens, share, seen, "times"]
    one.close()


def all_metrics(ranks: Any) -> list[dict[str, float]]:
    """What each rank's loader counts, each in a thread that waits for the others."""
    size = len(ranks.loaders)
    barrier, parts = threading.Barrier(size), [torch.zeros(0)] * size

    def summing(rank: int, counts: torch.Tensor) -> torch.Tensor:
        parts[rank] = counts
        barrier.wait(60)
        total = torch.stack(parts).sum(0)
        barrier.wait(60)
        return total

    with ThreadPoolExecutor(size) as threads:
        asked = [
            threads.submit(one.metrics, partial(summing, rank))
            for rank, one in enumerate(ranks.loaders)
        ]
        return [one.result() for one in asked]


@pytest.mark.parametrize("weights_in", ["samples", "tokens"])
@pytest.mark.parametrize("packed", [False, True])
def test_metrics_name_the_stage_its_weights_and_shares(
    data: Streams,
    texts: tuple[Streams, dict[str, list[list[int]]]],
    caplog: pytest.LogCaptureFixture,
    weights_in: str,
    packed: bool,
) -> None:
    """On two ranks, through a stage that begins with a batch, and a resume on three."""
    caplog.set_level(logging.INFO)
    # Documents are longer than rows.
    stages = [stage(20 if packed else 40, web=0.5, code=0.5), stage(web=0.75, code=0.25)]
    streams = texts[0] if packed else {name: data[name] for name in ("web", "code")}
    options = {"stages": stages, "weights_in": weights_in, "batch_size": 4}
    options |= {"packing_lanes": 6} if packed else {}
    make = packing.Ranks if packed else Ranks

    def weights(found: dict[str, float]) -> list[float]:
        return [found["data/web/weight"], found["data/code/weight"]]

    ranks = make(streams, 2, **options)
    assert [one.stage_begun() for one in ranks.loaders] == [None, None]
    counted = {f"data/{name}/{what}": 0.0 for name in streams for what in ("samples", "tokens")}
    stage_now, state = 1, None
    for step in range(1, 13):
        ranks.batches(1)
        begun = [one.stage_begun() for one in ranks.loaders]
        first, *others = all_metrics(ranks)
        if not packed:
            # Position 40 is the first one of the sixth batch of eight rows.
            assert (begun[0] is not None) == (step == 6)
        if begun[0] is not None:
            assert str(begun[0]) == "stage 2 of 2"
            assert begun[0].mixture == "web 0.75, code 0.25"
            stage_now = 2
        assert first["data/stage"] == stage_now
        assert weights(first) == pytest.approx([0.5, 0.5] if stage_now == 1 else [0.75, 0.25], 1e-3)
        gained = {
            name: first[f"data/{name}/{weights_in}"] - counted[f"data/{name}/{weights_in}"]
            for name in streams
        }
        for name in streams:
            share = gained[name] / sum(gained.values())
            assert first[f"data/{name}/share"] == pytest.approx(share)
        for other in others:
            own = {"data/epoch", "data/stage", "data/web/weight", "data/code/weight"}
            assert {k: v for k, v in other.items() if k not in own} == {
                k: v for k, v in first.items() if k not in own
            }
        counted = {name: first[name] for name in counted}
        assert first["data/tokens_seen"] == sum(first[f"data/{n}/tokens"] for n in streams)
        if step == 9:
            state = ranks.state
            ranks.close()
            ranks = make(streams, 3, **options).load(state)
    assert stage_now == 2
    # Nothing was handed out since.
    assert "data/web/share" not in all_metrics(ranks)[0]
    said = [line for line in caplog.messages if "the run " in line and " in stage" in line]
    assert len(said) == 2
    assert said[0].endswith(", in stage 1 of 2: web 0.5, code 0.5")
    assert "resumes" in said[1] and said[1].endswith(", in stage 2 of 2: web 0.75, code 0.25")
    ranks.close()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["stages"][0].update(start=8), "start = 8, which is out of range"),
        (lambda s: s["stages"][1].update(start=101), "start = 101, which is out of range"),
        (lambda s: s["stages"][1].update(start=0), "start = 0, which is out of range"),
        (lambda s: s["planned"][0].update(draws=[1, 1, 1]), "does not share 65,536 draws"),
        (lambda s: s["planned"][0].update(draws=[-1, 65_537, 0]), "does not share 65,536 draws"),
        (lambda s: s["planned"][0].update(draws=[65_536]), "does not share 65,536 draws"),
        (lambda s: s["planned"][0].update(more=1), "planned 0 is not a start with draws"),
        (lambda s: s.update(stages=[]), "has 0 stages"),
        (lambda s: s.update(present=[0, 1, 3]), "has 3, which is not a stream"),
        (lambda s: s.update(present=[0, 1, 1]), "does not number 3 streams"),
        (lambda s: s.update(streams=[]), "has 0 streams"),
        (lambda s: s["streams"][0].update(samples=0), "no samples or no tokens"),
        (lambda s: s["streams"][0].update(millitokens=0), "no samples or no tokens"),
        (lambda s: s["streams"][0].pop("millitokens"), "has no millitokens"),
        (lambda s: s.update(other=1), "does not know"),
    ],
)
def test_what_comes_from_a_state_is_checked(data: Streams, change: Any, words: str) -> None:
    options = {"stages": [stage(100, web=1, code=1), stage(math=1)], "num_canonical_nodes": 2}
    one = loader(data, **options)
    take(iter(one), 2)
    content = unsealed(json.loads(one.state_dict()["mosaic"]))
    assert content is not None
    change(content["stages"])
    with pytest.raises(MosaicDataError, match=words):
        one.load_state_dict({"mosaic": sealed(content)})
    one.close()


# ------------------------------------------------------------------------------------------ packed


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Streams, dict[str, list[list[int]]]]:
    root = tmp_path_factory.mktemp("packed")
    written = {
        "web": packing.documents(400, 1),
        "code": packing.documents(60, 2),
    }
    streams = {
        name: {"local": packing.write_tokens(root / name, rows)} for name, rows in written.items()
    }
    return streams, written


def lane_rows(documents: list[list[int]], count: int) -> list[tuple[int, ...]]:
    """Rows of T+1 tokens of one lane: its documents joined, each row from the last's last token."""
    joined_tokens = [token for document in documents for token in document]
    size = packing.SEQ_LEN
    return [
        tuple(joined_tokens[at : at + size + 1])
        for at in range(0, count * size, size)
        if at + size + 1 <= len(joined_tokens)
    ]


def test_lanes_take_the_positions_of_the_order(
    texts: tuple[Streams, dict[str, list[list[int]]]],
) -> None:
    """Rows of three ranks against documents joined by hand, through a change of stage."""
    streams, written = texts
    stages = [stage(300, web=0.5, code=0.5), stage(web=0.9, code=0.1)]
    # Nodes that do not divide the 460 documents, all of which are read, and more.
    lanes, nodes, rows = 6, 3, 150
    ranks = packing.Ranks(
        streams,
        3,
        batch_size=2,
        packing_lanes=lanes,
        num_canonical_nodes=nodes,
        stages=stages,
    )
    source = ranks.loaders[0].run.source
    ids = source.sequence.ids_at(np.arange(2000, dtype=np.int64)).tolist()
    every = [document for name in streams for document in written[name]]
    by_lane = [lane_rows([every[i] for i in ids[lane::lanes]], rows) for lane in range(lanes)]
    wanted = [sorted(by_lane[lane][row] for lane in range(lanes)) for row in range(rows)]
    assert ranks.batches(rows) == wanted
    ranks.close()


def test_packed_runs_resume_on_other_layouts_and_change(
    texts: tuple[Streams, dict[str, list[list[int]]]], tmp_path: Path
) -> None:
    streams, _ = texts
    options: dict[str, Any] = {"packing_lanes": 12, "num_canonical_nodes": 2}
    stages = [stage(300, web=0.5, code=0.5), stage(web=0.9, code=0.1)]
    ranks = packing.Ranks(streams, 2, batch_size=3, stages=stages, **options)
    ranks.batches(10)
    state = ranks.state
    following = [row for batch in ranks.batches(10) for row in batch]
    ranks.close()
    for world_size in (1, 3):
        again = packing.Ranks(
            streams, world_size, batch_size=6 // world_size, stages=stages, **options
        ).load(state)
        assert [row for batch in again.batches(10) for row in batch] == following
        again.close()

    # Ahead of the fastest lane it may change; behind it a new stage begins.
    edited = [stages[0], stage(web=0.1, code=0.9)]
    packing.packed(streams, stages=edited, **options).load_state_dict(state)
    edited = [stage(300, web=0.9, code=0.1), stages[1]]
    with pytest.raises(MosaicDataError, match='stage 1: stream "web" had 50% of the documents'):
        packing.packed(streams, stages=edited, **options).load_state_dict(state)
    changed = packing.packed(streams, stages=edited, on_data_change="new_stage", **options)
    changed.load_state_dict(state)
    stages_now = changed.run.source.order.stages
    assert stages_now is not None
    lanes = [json.loads(v) for k, v in state.items() if k.startswith("lane")]
    fastest = max(lane["position"] + (lane["offset"] > 0) for lane in lanes)
    assert [one.start for one in stages_now.stages] == [0, -(-fastest // 2) * 2, 300]
    changed.close()

    # Without the lanes of all ranks nobody knows where that is.
    part = {key: value for key, value in state.items() if not key.endswith("3")}
    with pytest.raises(MosaicDataError, match="known only from the lanes of all ranks"):
        packing.packed(
            streams,
            dp_rank=0,
            dp_world_size=2,
            stages=edited,
            on_data_change="new_stage",
            **options,
        ).load_state_dict(part)

    # torch loads the entries that a loader before its first batch would save.
    fresh = packing.packed(streams, dp_rank=1, dp_world_size=2, stages=stages, **options)
    assert len(fresh.state_dict()) == 13
    fresh.load_state_dict(state)
    assert len(fresh.state_dict()) == 7
    fresh.close()


def test_a_stream_stays_until_the_lanes_are_through_its_documents(
    texts: tuple[Streams, dict[str, list[list[int]]]],
) -> None:
    """It needs no weight for that; every row is the one that its lane's documents make."""
    streams, written = texts
    lanes, changes = 12, {"stages": [stage(web=1.0)], "on_data_change": "new_stage"}
    one = packing.packed(streams, packing_lanes=lanes, stages=[stage(web=0.5, code=0.5)])
    rows = rows_in_batches(one, 12)
    state = one.state_dict()
    one.close()

    def unread(state: dict[str, str], ids: list[int], stop: int) -> int:
        """Documents of the second stream that lanes have not read to their ends."""
        saved = [json.loads(state[f"lane_{lane:04d}"])["position"] for lane in range(lanes)]
        return sum(ids[p] >= len(written["web"]) for p in range(stop) if p >= saved[p % lanes])

    while True:
        kept = packing.packed(streams, packing_lanes=lanes, **changes)
        kept.load_state_dict(state)
        source = kept.run.source
        stages, ids = source.order.stages, source.sequence.ids_at(np.arange(3000)).tolist()
        assert stages is not None
        begin = stages.stages[-1].start
        alone = packing.packed({"web": streams["web"]}, packing_lanes=lanes, **changes)
        left = unread(state, ids, begin)
        if not left:
            break
        with pytest.raises(
            MosaicDataError,
            match=rf'stream "code" was removed, and {left} of its samples come before position '
            rf"{begin}, where the last stage begins, and are not read yet: keep its table, without "
            "a weight, until they are",
        ):
            alone.load_state_dict(state)
        rows += rows_in_batches(kept, 3)
        state = kept.state_dict()
        kept.close()
    # It may be gone while the slowest lane is not through: what that reads is of the other one.
    alone.load_state_dict(state)
    rows += rows_in_batches(alone, 12)
    for each in (kept, alone):
        each.close()
    every = [document for name in streams for document in written[name]]
    by_lane = [
        lane_rows([every[i] for i in ids[lane::lanes]], len(rows) // lanes + 1)
        for lane in range(lanes)
    ]
    assert rows == [by_lane[n % lanes][n // lanes] for n in range(len(rows))]


def rows_in_batches(one: Any, batches: int) -> list[tuple[int, ...]]:
    iterator = iter(one)
    return [row for _ in range(batches) for row in packing.rows_of(next(iterator))]
