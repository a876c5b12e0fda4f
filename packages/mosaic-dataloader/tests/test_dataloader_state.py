"""The position survives every change of layout, and nothing else passes for it."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import dataloader_helpers as helpers
import pytest
from dataloader_helpers import Ranks, joined, loader, numbers, take
from hypothesis import given, settings
from hypothesis import strategies as st

from mosaic_dataloader import MosaicDataError


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_resume_is_bit_identical(numbered: str, num_workers: int) -> None:
    whole = loader(numbered, num_workers=num_workers)
    assert json.loads(whole.state_dict()["mosaic"])["samples_seen"] == 0
    iterator = iter(whole)
    take(iterator, 7)
    # Read ahead, but not handed out: must not count.
    state = whole.state_dict()
    rest = [next(iterator) for _ in range(20)]
    fresh = loader(numbered, num_workers=num_workers)
    fresh.load_state_dict(state)
    assert fresh.state_dict() == state
    for (inputs, labels), (their_inputs, their_labels) in zip(rest, fresh, strict=False):
        assert inputs["input"].equal(their_inputs["input"])
        assert labels.equal(their_labels)
    assert fresh.samples_seen == (7 + 20) * 8
    whole.close()
    fresh.close()


def test_two_epochs_hold_every_sample_twice(numbered: str) -> None:
    ranks = Ranks(numbered, 2, batch_size=16, num_canonical_nodes=2)
    count = 2 * 1003 // 32
    rows = [row for batch in ranks.batches(count) for row in joined(batch)]
    last = Ranks(numbered, 1, batch_size=2 * 1003 - count * 32, num_canonical_nodes=2)
    rows += joined(last.load(ranks.state).batches(1)[0])
    assert Counter(rows) == Counter({i: 2 for i in range(1003)})
    assert last.loaders[0].epoch == 2
    ranks.close()
    last.close()


def test_ranks_are_disjoint_and_replicas_identical(numbered: str) -> None:
    one = Ranks(numbered, 1, batch_size=32, num_canonical_nodes=4).batches(40)
    four = Ranks(numbered, 4, batch_size=8, num_canonical_nodes=4).batches(40)
    replica = iter(
        loader(numbered, dp_rank=2, dp_world_size=4, batch_size=8, num_canonical_nodes=4)
    )
    for whole, parts in zip(one, four, strict=True):
        assert joined(whole) == joined(parts)
        assert numbers(next(replica)) == parts[2]


layouts = st.tuples(
    st.integers(1, 4),  # ranks
    st.integers(1, 9),  # local batch
    st.integers(1, 3),  # nodes
    st.integers(1, 6),  # prefetch
    st.integers(1, 9),  # batches
)


@settings(max_examples=settings().max_examples // 4)
@given(
    steps=st.lists(layouts, min_size=2, max_size=5),
    algo=st.sampled_from(["py1e", "py1s", "py1br", "naive", "feistel"]),
    canonical=st.sampled_from([None, 1, 3, 4]),
    proportion=st.sampled_from([None, 0.3]),
)
def test_the_real_loader_hands_out_the_sequence_through_any_layouts(
    numbered: str,
    second: str,
    steps: list[tuple[int, ...]],
    algo: str,
    canonical: int | None,
    proportion: float | None,
) -> None:
    """Rows are identified by their tokens; states pass from layout to layout."""
    streams: dict[str, dict[str, Any]] = {"a": {"local": numbered}, "b": {"local": second}}
    if proportion:
        streams["a"]["proportion"], streams["b"]["proportion"] = 1 - proportion, proportion
    # Canonical nodes left open follow the first layout's nodes and stay.
    fixed = canonical or steps[0][2] * (64 if algo == "py1s" else 1)
    options = {"shuffle_algo": algo, "shuffle_block_size": 400}
    whole = loader(streams, batch_size=1, num_canonical_nodes=fixed, **options)
    expected = iter(whole)
    state: dict[str, str] | None = None
    position = 0
    for world_size, batch_size, nodes, prefetch, count in steps:
        ranks = Ranks(
            streams,
            world_size,
            batch_size=batch_size,
            num_nodes=nodes,
            prefetch_factor=prefetch,
            num_canonical_nodes=canonical,
            **options,
        )
        if state:
            ranks.load(state)
        for batch in ranks.batches(count):
            ahead = [take(expected, 1)[0][0] for _ in range(world_size * batch_size)]
            assert joined(batch) == sorted(ahead)
            position += len(ahead)
        state = ranks.state
        ranks.close()
    seen = json.loads(state["mosaic"])
    assert seen["samples_seen"] == position == whole.samples_seen
    assert [s["seen"] for s in seen["streams"]] == list(whole.samples_per_stream.values())
    assert sum(s["seen"] for s in seen["streams"]) == position
    whole.close()


def changed(state: dict[str, str], **values: Any) -> dict[str, str]:
    content = json.loads(state["mosaic"])
    content.update(values)
    return {"mosaic": json.dumps(content)}


def test_damaged_and_foreign_states_are_refused(numbered: str) -> None:
    one = loader(numbered)
    state = one.state_dict()
    text = state["mosaic"]
    for bad, words in [
        ({"mosaic": text[:-20]}, ["not JSON", "truncated"]),
        ({"mosaic": text.encode()}, ["bytes", "another loader"]),
        (changed(state, samples_seen=16), ["checksum", "edited"]),
        (changed(state, version=4), ["version 4", "newer"]),
        ({"mosaic": "[1]"}, ["no version"]),
        ({"dp_rank_0": b"", "world_size": 2}, ["dp_rank_0", "another loader", "exclude"]),
    ]:
        with pytest.raises(MosaicDataError) as caught:
            one.load_state_dict(bad)
        message = str(caught.value)
        assert "\n" not in message
        assert all(word in message for word in words), message
    assert one.state_dict() == state
    one.load_state_dict({})
    assert one.state_dict() == state


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shuffle_seed": 7}, ["shuffle_seed was 9176 and is now 7"]),
        ({"shuffle": False}, ["shuffle was True and is now False"]),
        ({"shuffle_algo": "py1s"}, ["shuffle_algo was 'py1e'"]),
        ({"num_canonical_nodes": 2}, ["num_canonical_nodes was 1 and is now 2"]),
        ({"epoch_size": 900}, ['stream "a"']),
    ],
)
def test_changed_options_are_named(
    numbered: str, second: str, change: dict[str, Any], words: list[str]
) -> None:
    streams = {"a": {"local": numbered}, "b": {"local": second}}
    state = loader(streams).state_dict()
    with pytest.raises(MosaicDataError) as caught:
        loader(streams, **change).load_state_dict(state)
    for word in [*words, "on_data_change"]:
        assert word in str(caught.value)


def test_changed_data_is_refused_or_begins_its_epoch_anew(
    numbered: str, second: str, tmp_path: Path
) -> None:
    streams = {"a": {"local": numbered}, "b": {"local": second}}
    first = loader(streams)
    take(iter(first), 200)
    state = first.state_dict()
    assert first.epoch == 1
    # The same bytes elsewhere, under another name: the same data.
    moved = helpers.write_rows(tmp_path / "moved", range(5000, 5257))
    loader({"a": {"local": numbered}, "other": {"local": moved}}).load_state_dict(state)
    grown = helpers.write_rows(tmp_path / "grown", range(5000, 5300))
    edited = {"a": {"local": numbered}, "b": {"local": grown}}
    with pytest.raises(MosaicDataError, match=r'stream "b" changed \(257 .* 300 ') as caught:
        loader(edited).load_state_dict(state)
    assert "restart_epoch" in str(caught.value)
    with pytest.raises(MosaicDataError, match="the streams were a, b and are now a"):
        loader({"a": {"local": numbered}}).load_state_dict(state)
    anew = loader(edited, on_data_change="restart_epoch", batch_size=7)
    anew.load_state_dict(state)
    assert (anew.epoch, anew.samples_seen) == (1, 1600)
    iterator = iter(anew)
    rows = [r for b in take(iterator, 186) for r in b] + numbers(next(iterator))[:1]
    assert Counter(rows) == Counter([*range(1003), *range(5000, 5300)])
    # The new beginning is part of the position.
    again = loader(edited, batch_size=7)
    again.load_state_dict(anew.state_dict())
    assert numbers(next(iter(again))) == numbers(next(iterator))
    assert sum(again.samples_per_stream.values()) == again.samples_seen


@pytest.mark.parametrize("method", ["stratified", "per_stream", "device_per_stream"])
def test_unit_methods_resume_exactly_and_refuse_another_batch(
    numbered: str, second: str, method: str
) -> None:
    streams = {
        "a": {"local": numbered, "proportion": 0.5},
        "b": {"local": second, "proportion": 0.5},
    }
    options = {"batching_method": method, "num_canonical_nodes": 2}
    two = Ranks(streams, 2, batch_size=8, num_nodes=2, **options)
    two.batches(5)
    state = two.state
    later = two.batches(1)  # A new iteration continues.
    four = Ranks(streams, 4, batch_size=4, num_nodes=1, **options).load(state)
    assert joined(four.batches(1)[0]) == joined(later[0])
    with pytest.raises(MosaicDataError, match="global batch size was 16 and is now 32") as caught:
        Ranks(streams, 4, batch_size=8, num_nodes=2, **options).load(state)
    assert "\n" not in str(caught.value)


def test_finite_iterations_are_epochs(numbered: str) -> None:
    dropped = loader(numbered, infinite=False, batch_size=100)
    assert len(dropped) == 10
    epochs = [[n for b in dropped for n in numbers(b)] for _ in range(2)]
    assert [len(e) for e in epochs] == [1000, 1000]
    assert epochs[0] != epochs[1]
    assert dropped.epoch == 2
    padded = [
        loader(
            numbered,
            infinite=False,
            drop_last=False,
            batch_size=100,
            dp_rank=r,
            dp_world_size=3,
        )
        for r in range(3)
    ]
    rows = [[n for b in one for n in numbers(b)] for one in padded]
    assert {len(r) for r in rows} == {400}
    assert Counter(n for r in rows for n in r if n >= 0) == Counter(range(1003))
    # The last 103 rows are spread over the ranks.
    assert sorted(r.count(-1) for r in rows) == [65, 66, 66]


def test_iterations_end_one_another(numbered: str) -> None:
    one = loader(numbered)
    first = iter(one)
    a, b = take(first, 2)
    second_iteration = iter(one)
    assert list(first) == []
    c = take(second_iteration, 1)
    one.load_state_dict(loader(numbered).state_dict())
    assert list(second_iteration) == []
    assert take(iter(one), 3) == [a, b, *c]
