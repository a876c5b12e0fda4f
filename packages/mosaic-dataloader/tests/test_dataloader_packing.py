"""Packed rows: the same under every layout, and no token of a document lost or doubled."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import packing_helpers as helpers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from order_helpers import mixture, resolved
from packing_helpers import SEQ_LEN, Packing, Ranks, packed, rows_of

from mosaic_dataloader import MosaicDataError
from mosaic_dataloader.order.sequence import EpochSequence
from mosaic_dataloader.packing.lanes import Lanes, check_lanes, default_lanes, residue_of_rank
from mosaic_dataloader.state.identity import sampled

A, B = helpers.documents(131, seed=1), helpers.documents(40, seed=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of token documents, in packed shards, and one of the second's texts."""
    folder = tmp_path_factory.mktemp("packing")
    more = {"compression": "zstd", "hashes": ["sha1"]}
    helpers.write_tokens(folder / "a", A, **more)
    helpers.write_tokens(folder / "b", B, **more)
    helpers.write_text(folder / "text", B)
    return folder


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The first store's documents, read in place."""
    return helpers.write_tokens(tmp_path_factory.mktemp("packing") / "local", A)


# -------------------------------------------------------------------------------- lanes, as numbers


@given(
    length=st.integers(1, 300),
    nodes=st.integers(1, 12),
    lanes=st.integers(1, 48),
    epochs=st.integers(1, 4),
)
def test_lanes_deal_the_documents_of_their_canonical_nodes(
    length: int, nodes: int, lanes: int, epochs: int
) -> None:
    """The formulas against a walk over the epochs, document by document."""
    nodes = min(nodes, length)
    options = resolved(shuffle=False, num_canonical_nodes=nodes)
    sequence = EpochSequence(mixture([[length]]), options)
    dealt: dict[int, list[int]] = {lane: [] for lane in range(lanes)}
    for lane, position, _ in Packing(sequence, [], lanes).deal(epochs):
        dealt[lane].append(position)
        if length % nodes == 0 and lanes % nodes == 0:
            assert position % lanes == lane
    formulas = Lanes(lanes, length, nodes)
    for lane, positions in dealt.items():
        numbers = np.arange(len(positions), dtype=np.int64)
        assert formulas.positions(np.full_like(numbers, lane), numbers).tolist() == positions
        for number, position in enumerate(positions):
            assert formulas.document(lane, position) == number
        starts = [epoch * length for epoch in range(epochs)]
        for position in [*starts, *range(0, epochs * length, 1 + length // 20)]:
            before = sum(own < position for own in positions)
            assert formulas.first_from(lane, position) == before
        foreign = set(range(epochs * length)) - set(positions)
        if foreign:
            with pytest.raises(MosaicDataError, match="belongs to another run"):
                formulas.document(lane, min(foreign))


@pytest.mark.parametrize("lanes", [960, 24, 7])
@pytest.mark.parametrize("nodes", [1, 2, 6, 7])
def test_ranks_share_any_rows_equally(lanes: int, nodes: int) -> None:
    """For every number of ranks that divides the lanes, from any row on."""
    for world_size in (n for n in range(1, lanes + 1) if lanes % n == 0):
        owners = np.full(lanes, -1)
        for rank in range(world_size):
            own = np.arange(residue_of_rank(rank, world_size, nodes), lanes, world_size)
            assert (owners[own] == -1).all()
            owners[own] = rank
        for start in (0, 1, lanes // 2 + 1, lanes - 1):
            rows = owners[np.arange(start, start + world_size) % lanes]
            assert sorted(rows.tolist()) == list(range(world_size))
        if world_size % nodes == 0:
            # A canonical node's lanes are read by neighbours, as its rows are without packing.
            assert (np.arange(lanes) % nodes == owners * nodes // world_size).all()


@pytest.mark.parametrize("machines", [1, 2, 3, 4, 5, 6, 12])
def test_machines_keep_canonical_nodes_that_the_options_leave_open(machines: int) -> None:
    for each in (1, 2, 4, 8):
        world_size = machines * each
        for machine in range(machines):
            own = range(machine * each, (machine + 1) * each)
            # The lanes of a rank are congruent modulo the ranks, and so modulo the machines.
            assert len({residue_of_rank(r, world_size, None) % machines for r in own}) == 1


def test_defaults_and_what_does_not_divide() -> None:
    assert [default_lanes(w) for w in (1, 8, 240, 241, 960)] == [960, 960, 960, 1920, 3840]
    for world_size in (1, 2, 3, 4, 5, 6, 8, 960):
        check_lanes(960, world_size)
    with pytest.raises(MosaicDataError, match=r"7 .* 960 packing lanes; use 6 or 8 .* = 6720"):
        check_lanes(960, 7)
    with pytest.raises(MosaicDataError, match=r"continue it with 960 ranks"):
        check_lanes(960, 961, saved=True)


# ------------------------------------------------------------------------------ rows, every layout


@dataclass(frozen=True)
class Leg:
    """The part of a run between two checkpoints."""

    ranks: int
    batch: int
    batches: int
    workers: int
    prefetch: int | None
    predownload: int


legs = st.lists(
    st.builds(
        Leg,
        ranks=st.sampled_from([1, 2, 3, 4, 6, 12]),
        batch=st.integers(1, 5),
        batches=st.integers(0, 6),
        workers=st.sampled_from([0, 0, 0, 1, 2]),
        prefetch=st.sampled_from([None, 1, 3]),
        predownload=st.sampled_from([0, 7, 64]),
    ),
    min_size=1,
    max_size=4,
)
WEIGHTS = [({}, {}), ({"proportion": 0.5}, {"proportion": 0.5}), ({"choose": 9}, {"choose": 8})]


@settings(max_examples=settings().max_examples // 20)
@given(
    legs=legs,
    lanes=st.sampled_from([12, 36]),
    weights=st.sampled_from(WEIGHTS),
    algo=st.sampled_from(["py1e", "py1s", "py1br", "naive", "feistel"]),
    nodes=st.sampled_from([1, 2, 3, 5]),
    limited=st.booleans(),
)
def test_every_global_batch_is_the_same_through_any_layouts(
    data: Path,
    tmp_path: Path,
    legs: list[Leg],
    lanes: int,
    weights: tuple[dict[str, Any], dict[str, Any]],
    algo: str,
    nodes: int,
    limited: bool,
) -> None:
    order = {"shuffle_algo": algo, "num_canonical_nodes": nodes, "shuffle_block_size": 60}
    streams = {
        name: {"remote": str(data / name), "local": str(tmp_path / "cache" / name), **weight}
        for name, weight in zip("ab", weights, strict=True)
    }
    position, state = 0, None
    reference: Packing | None = None
    expected: list[helpers.Row] = []
    for leg in legs:
        ranks = Ranks(
            streams,
            leg.ranks,
            batch_size=leg.batch,
            # Workers of many ranks take long to start, and are no different.
            num_workers=leg.workers if leg.ranks < 3 else 0,
            prefetch_factor=leg.prefetch,
            predownload=leg.predownload,
            packing_lanes=lanes,
            cache_limit=40_000 if limited else None,
            **order,
        )
        if reference is None:
            reference = Packing.of(ranks.loaders[0], A + B, lanes, **order)
            expected = reference.rows(sum(x.ranks * x.batch * x.batches for x in legs))
        if state:
            ranks.load(state)
        for batch in ranks.batches(leg.batches):
            size = leg.ranks * leg.batch
            assert batch == sorted(expected[position : position + size])
            position += size
        state = ranks.state
        ranks.close()
        assert json.loads(state["mosaic"])["samples_seen"] == position
    # The next iteration of the test has caches of its own.
    shutil.rmtree(tmp_path / "cache")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_was_read_ahead_does_not_count(local: str, num_workers: int) -> None:
    options = {"packing_lanes": 12, "num_workers": num_workers}
    whole = packed(local, **options)
    iterator = iter(whole)
    for _ in range(7):
        next(iterator)
    state = whole.state_dict()
    rest = [next(iterator) for _ in range(20)]
    other = packed(local, **{**options, "num_workers": 2 - num_workers})
    other.load_state_dict(state)
    assert other.state_dict() == state
    for (inputs, labels), (their_inputs, their_labels) in zip(rest, other, strict=False):
        assert inputs["input"].equal(their_inputs["input"])
        assert labels.equal(their_labels)
    assert other.state_dict() == whole.state_dict()
    whole.close()
    other.close()


def test_an_epoch_holds_every_token_once_and_counts_it(data: Path) -> None:
    """Until all lanes are through with their documents of two epochs, read off the states."""
    streams = {n: {"remote": str(data / n), "local": str(data / "all" / n)} for n in "ab"}
    ranks = Ranks(streams, 2, batch_size=6, packing_lanes=12, num_canonical_nodes=3)
    documents = 2 * len(A + B)
    targets: Counter[int] = Counter()
    ends: list[dict[str, Any]] = [{"position": 0}]
    while min(lane["position"] for lane in ends) < documents:
        for row in (row for batch in ranks.batches(40) for row in batch):
            targets.update(row[1:])
        ends = [json.loads(ranks.state[f"lane_{lane:04d}"]) for lane in range(12)]
    order = Packing.of(ranks.loaders[0], A + B, 12, num_canonical_nodes=3)
    firsts: dict[int, int] = {}
    expected: Counter[int] = Counter()
    finished = [0, 0]
    for lane, position, sample in order.deal(30):
        tokens = order.tokens[sample]
        if position < ends[lane]["position"]:
            finished[sample >= len(A)] += 1
        elif position == ends[lane]["position"]:
            # Of the unfinished document, up to the token that the next row begins with.
            tokens = tokens[: ends[lane]["offset"] + 1]
        else:
            continue
        expected.update(tokens)
        if tokens:
            firsts.setdefault(lane, tokens[0])
    expected.subtract(firsts.values())
    assert targets == +expected
    counts = [one.samples_per_stream for one in ranks.loaders]
    assert [sum(c[name] for c in counts) for name in "ab"] == finished
    assert min(one.epoch for one in ranks.loaders) >= 2
    ranks.close()


# --------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("template", ["<s> $A", "$A </s>", "$A"])
def test_text_is_ended_by_eos_exactly_once(data: Path, template: str) -> None:
    """A tokenizer that adds EOS itself, and those that do not; beside a stream of tokens."""
    head, tail = [0] * template.startswith("<s>"), [1]
    tokens = [[*d, 1] if d else [] for d in A] + [[*head, *d, *tail] if d else [] for d in B]
    streams = {
        "a": {"remote": str(data / "a"), "local": str(data / "beside" / "a")},
        "text": {"local": str(data / "text")},
    }
    found = []
    for world_size, num_workers in ((1, 0), (2, 0), (1, 2)):
        ranks = Ranks(
            streams,
            world_size,
            batch_size=12 // world_size,
            num_workers=num_workers,
            packing_lanes=12,
            tokenizer=helpers.tokenizer(template),
        )
        found.append(ranks.batches(30))
        expected = Packing.of(ranks.loaders[0], tokens, 12).rows(360)
        ranks.close()
    assert found[0] == [sorted(expected[i : i + 12]) for i in range(0, 360, 12)]
    assert found[1] == found[2] == found[0]


def test_a_tokenizer_without_eos_is_named(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare = helpers.tokenizer("$A").backend_tokenizer
    one = packed({"text": {"local": str(data / "text")}}, tokenizer=bare, packing_lanes=4)
    assert "no EOS token" in caplog.text
    expected = Packing.of(one, B, 4).rows(8)
    assert rows_of(next(iter(one))) == expected
    one.close()


# ------------------------------------------------------------------------------------------- states


def test_states_name_what_is_wrong_with_them(local: str) -> None:
    two = Ranks(local, 2, batch_size=6, packing_lanes=12)
    two.batches(3)
    early = two.state
    two.batches(2)
    state = two.state
    assert sorted(two.loaders[0].state_dict()) == [
        "lane_0000",
        *(f"lane_{n:04d}" for n in range(2, 12, 2)),
        "mosaic",
    ]
    one = packed(local, packing_lanes=12)
    fresh = one.state_dict()
    damaged = {**state, "lane_0003": state["lane_0003"].replace('"offset": ', '"offset": 1')}
    for bad, words in [
        (two.loaders[0].state_dict(), ["no lane_0001", "join the states of all ranks"]),
        ({**state, "lane_0003": early["lane_0003"]}, ["lane_0003", "after 36 rows", "same check"]),
        ({**state, "lane_0003": state["lane_0004"]}, ["does not belong to lane 3"]),
        (damaged, ["lane_0003", "damaged"]),
        ({**state, "lane_0003": b""}, ["lane_0003", "damaged"]),
    ]:
        with pytest.raises(MosaicDataError) as caught:
            one.load_state_dict(bad)
        assert all(word in str(caught.value) for word in words), caught.value
        assert "\n" not in str(caught.value)
    assert one.state_dict() == fresh
    one.load_state_dict(state)
    assert one.state_dict() == state
    # Left open, the lanes are those of the checkpoint; those of other ranks are passed over.
    follows = packed(local, dp_rank=1, dp_world_size=2)
    follows.load_state_dict(state)
    assert follows.state_dict() == two.loaders[1].state_dict()
    # What torch asks a checkpoint for before it is loaded, is what the rank needs after that.
    saved = Ranks(local, 4, batch_size=3, num_nodes=3).state
    for rank, nodes in ((0, 2), (3, 4)):
        late = packed(local, dp_rank=rank, dp_world_size=4, num_nodes=nodes)
        keys = set(late.state_dict())
        late.load_state_dict({key: saved[key] for key in keys})
        assert set(late.state_dict()) == keys
    with pytest.raises(MosaicDataError, match=r"5 data-parallel ranks .* with 4 or 6"):
        packed(local, dp_world_size=5).load_state_dict(state)


def test_what_does_not_fit_is_refused_or_begins_its_epoch_anew(local: str) -> None:
    from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

    plain = {"local": local, "seq_len": SEQ_LEN, "shuffle": True, "token_encoding_type": "int32"}

    def unpacked(**options: Any) -> MosaicParallelAwareDataloader:
        dataset = StreamingTextDataset(**plain, **options)
        return MosaicParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=8)

    one = packed(local, packing_lanes=12)
    iterator = iter(one)
    for _ in range(90):
        next(iterator)
    state = one.state_dict()
    with pytest.raises(MosaicDataError, match="packing was on and is now off"):
        unpacked().load_state_dict(state)
    with pytest.raises(MosaicDataError, match="packing was off and is now on"):
        packed(local).load_state_dict(unpacked().state_dict())
    with pytest.raises(MosaicDataError, match="packing_lanes was 12 and is now 24"):
        packed(local, packing_lanes=24).load_state_dict(state)
    with pytest.raises(MosaicDataError, match="eos_id was None and is now 1"):
        packed(local, packing_lanes=12, tokenizer=helpers.tokenizer()).load_state_dict(state)
    # About as many rows as an epoch gives, by the sizes in the index: all ranks agree on it.
    tokens = sum(map(len, A))
    rows = json.loads(state["mosaic"])["epoch_samples"]
    # Headers of these tiny shards count, too.
    assert rows == pytest.approx(tokens / SEQ_LEN, rel=0.3)
    epoch = 720 // rows
    assert epoch >= 1
    anew = Ranks(local, 2, batch_size=12, packing_lanes=24, on_data_change="restart_epoch")
    anew.load(state)
    assert [(x.epoch, x.samples_seen) for x in anew.loaders] == [(epoch, 720)] * 2
    later = Packing.of(anew.loaders[0], A, 24)
    later.sequence = EpochSequence(later.sequence.mixture, later.sequence.options)
    ids = later.sequence.epoch
    later.sequence.epoch = lambda number: ids(epoch + number)  # type: ignore[method-assign]
    expected = later.rows(48)
    assert anew.batches(2) == [sorted(expected[:24]), sorted(expected[24:])]
    # The new beginning is part of the state.
    again = Ranks(local, 1, batch_size=24, packing_lanes=24).load(anew.state)
    assert again.batches(3) == anew.batches(3)
    off = unpacked(on_data_change="restart_epoch")
    off.load_state_dict(state)
    assert (off.epoch, off.samples_seen) == (epoch, 720)
    for ranks in (anew, again):
        ranks.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"packing": False, "packing_lanes": 4}, "packing_lanes = 4 has no meaning"),
        ({"packing_lanes": 0}, "packing_lanes = 0 must be at least 1"),
        ({"batching_method": "stratified"}, "batching_method = 'stratified'"),
        ({"dp_world_size": 7}, "7 data-parallel ranks do not divide 960"),
        ({"infinite": False, "dp_world_size": 2}, "2 ranks cannot end it together"),
    ],
)
def test_options_that_cannot_be(local: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(MosaicDataError, match=words) as caught:
        packed(local, **options)
    assert "\n" not in str(caught.value)


def test_nothing_but_empty_documents_ends_in_an_error(tmp_path: Path) -> None:
    out = helpers.write_tokens(tmp_path / "empty", [[]] * 20)
    with pytest.raises(MosaicDataError, match="21 documents in a row are empty"):
        next(iter(packed(out, packing_lanes=4)))


# ------------------------------------------------------------------------------------ finite passes


def test_finite_passes_are_epochs(local: str) -> None:
    """One rank; interrupted in the middle, the pass goes on to its end and no further."""
    options = {"packing_lanes": 12, "infinite": False, "drop_last": False, "batch_size": 5}
    one = packed(local, **options)
    with pytest.raises(TypeError, match="no length"):
        len(one)
    by_lane: list[list[int]] = [[] for _ in range(12)]
    for lane, position, sample in Packing.of(one, A, 12).deal(2):
        if position // len(A) == 1:
            by_lane[lane] += A[sample]
    expected = Counter(
        tuple(tokens[i : i + SEQ_LEN + 1])
        for tokens in by_lane
        for i in range(0, len(tokens) - 1, SEQ_LEN)
    )
    first = [row for batch in one for row in rows_of(batch)]
    assert one.samples_seen == len(first)
    assert sum(one.samples_per_stream.values()) == len(A)
    assert one.epoch == 1
    iterator = iter(one)
    begun = [row for _ in range(9) for row in rows_of(next(iterator))]
    state = one.state_dict()
    rest = [row for batch in iterator for row in rows_of(batch)]
    again = packed(local, **{**options, "batch_size": 3})
    again.load_state_dict(state)
    assert [row for batch in again for row in rows_of(batch)] == rest
    assert Counter(begun + rest) == expected
    assert again.state_dict() == one.state_dict()
    # With its last rows a lane is through with its documents, before the pass is seen to end.
    assert len(first) % 5, "the last batch is full"
    whole = packed(local, **options)
    batches = iter(whole)
    for _ in range(-(-len(first) // 5)):
        next(batches)
    assert (whole.epoch, sum(whole.samples_per_stream.values())) == (1, len(A))
    follows = packed(local, **options)
    follows.load_state_dict(whole.state_dict())
    assert [row for batch in follows for row in rows_of(batch)] == begun + rest
    # Without the last rows, which fill no batch, the next pass still begins with the next epoch.
    dropped = packed(local, **{**options, "drop_last": True, "batch_size": 7})
    assert [len(rows_of(b)) for b in dropped] == [7] * (len(first) // 7)
    assert (dropped.epoch, sum(dropped.samples_per_stream.values())) == (1, len(A))


def test_a_validation_pass_gives_every_row_once_on_any_ranks(local: str) -> None:
    from mosaic_dataloader import StreamingTextDataset
    from mosaic_dataloader.validation import ValidationDataloader

    def loaders(world_size: int, lanes: int) -> list[ValidationDataloader]:
        return [
            ValidationDataloader(
                StreamingTextDataset(
                    seq_len=SEQ_LEN,
                    local=local,
                    token_encoding_type="int32",
                    packing=True,
                    packing_lanes=lanes,
                ),
                dp_rank=rank,
                dp_world_size=world_size,
                batch_size=4,
            )
            for rank in range(world_size)
        ]

    whole = Counter(row for batch in loaders(1, 12)[0] for row in rows_of(batch))
    three = loaders(3, 12)
    assert all(one.uneven_batches for one in three)
    for _ in range(2):
        parts = [[rows_of(batch) for batch in one] for one in three]
        assert Counter(row for part in parts for rows in part for row in rows) == whole
        # Only a rank's last batch is padded.
        assert all(len(rows) == 4 for part in parts for rows in part[:-1])
    # More lanes than documents: some ranks have nothing, and say so in one batch of padding.
    many = [list(one) for one in loaders(240, 240)]
    assert {len(batches) for batches in many} >= {1}
    assert [] in [rows_of(batches[0]) for batches in many]


def test_each_stream_of_a_validation_pass_is_packed_as_if_it_were_the_only_one(
    local: str, tmp_path: Path
) -> None:
    from mosaic_dataloader import StreamingTextDataset
    from mosaic_dataloader.validation import ValidationDataloader

    streams = {
        "a": {"local": local},
        "b": {"local": helpers.write_tokens(tmp_path / "b", B)},
    }

    def loader(chosen: dict[str, Any], rank: int, world_size: int) -> ValidationDataloader:
        dataset = StreamingTextDataset(
            seq_len=SEQ_LEN,
            streams=chosen,
            token_encoding_type="int32",
            shuffle=True,
            packing=True,
            packing_lanes=12,
        )
        return ValidationDataloader(dataset, dp_rank=rank, dp_world_size=world_size, batch_size=4)

    ranks = [loader(streams, rank, 3).by_stream() for rank in range(3)]
    for name in streams:
        alone = loader({name: streams[name]}, 0, 1)
        expected = Counter(row for batch in alone for row in rows_of(batch))
        for _ in range(2):
            found = Counter(row for one in ranks for batch in one[name] for row in rows_of(batch))
            assert found == expected
        assert all(one[name].uneven_batches for one in ranks)


# ----------------------------------------------------------------------------------------- locality


@pytest.mark.parametrize("algo", ["py1e", "feistel"])
def test_a_machine_fetches_its_own_shards_only(tmp_path: Path, algo: str) -> None:
    """Two machines, several epochs whose length the canonical nodes do not divide.

    The one that tells the data from others of the same sizes, for the index holds no hashes, is
    read by all.
    """
    rows = [[number] * 16 for number in range(483)]
    store = helpers.write_tokens(tmp_path / "store", rows, size_limit=1000)
    order = {"shuffle_algo": algo, "num_canonical_nodes": 4}
    count = len(list((tmp_path / "store").glob("*.mds")))
    for node in range(2):
        cache = tmp_path / f"node-{node}"
        for rank in (2 * node, 2 * node + 1):
            one = packed(
                {"data": {"remote": store, "local": str(cache)}},
                dp_rank=rank,
                dp_world_size=4,
                batch_size=12,
                packing_lanes=48,
                predownload=1,
                **order,
            )
            iterator = iter(one)
            while one.epoch < 3:
                next(iterator)
            sequence = one.run.source.sequence
            identifies = sampled(one.dataset.streams[0])
            assert identifies
            one.close()
        fetched = {int(p.name.split(".")[1]) for p in cache.glob("*.mds")}
        own = set()
        for epoch in range(5):
            ids, owners = sequence.epoch(epoch).rows(0, sequence.epoch_length)
            own |= set(sequence.mixture.locate(ids[owners // 2 == node])[0].tolist())
        assert fetched - {identifies.shard} <= own
        # A shard that lies across a border belongs to both sides.
        assert len(own) <= count // 2 + 2
