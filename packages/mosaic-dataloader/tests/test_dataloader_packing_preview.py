"""Rows of a packed run before they are read, and runs that begin later in the order."""

import json
import logging
from collections import Counter
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import packing_helpers as helpers
import pytest
from packing_helpers import SEQ_LEN, Packing, Ranks, packed

from mosaic_dataloader import (
    MosaicDataError,
    MosaicParallelAwareDataloader,
    build_mosaic_dataloader,
)
from mosaic_dataloader.inspect.previews import origins, preview, stream_counts
from mosaic_dataloader.reading.origins import DocumentOrigin, PreviewRow

A, B = helpers.documents(131, seed=5), helpers.documents(40, seed=6)
SAMPLES = {"a": A, "b": B}
LANES = 12
Streams = dict[str, dict[str, str]]


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Streams:
    """Two stores of token documents."""
    folder = tmp_path_factory.mktemp("preview")
    return {
        name: {"local": helpers.write_tokens(folder / name, rows)} for name, rows in SAMPLES.items()
    }


def handed_out(ranks: Ranks, batches: int) -> list[list[list[tuple[list[int], list[int]]]]]:
    """Inputs and labels of every row, by batch and rank."""
    iterators = [iter(one) for one in ranks.loaders]
    return [
        [
            list(zip(inputs["input"].tolist(), labels.tolist(), strict=True))
            for inputs, labels in map(next, iterators)
        ]
        for _ in range(batches)
    ]


def check_documents(one: MosaicParallelAwareDataloader, row: PreviewRow) -> None:
    """Its documents' parts are the row, and are where they are said to be."""
    mixture = one.dataset.mixture
    tokens: list[int] = []
    targets = dict.fromkeys(SAMPLES, 0)
    for part in row.origins:
        assert isinstance(part, DocumentOrigin)
        assert (part.begin, part.rank, part.row) == (len(tokens), row.rank, row.row)
        document = SAMPLES[part.stream][part.sample]
        assert len(document) == part.length
        piece = document[part.offset : part.offset + part.tokens]
        assert len(piece) == part.tokens > 0
        # The first token of a row is a target of the row before.
        targets[part.stream] += len(piece) - (not tokens)
        tokens += piece
        number = list(SAMPLES).index(part.stream)
        first = mixture.shard_offsets[part.shard_number] - mixture.stream_offsets[number]
        assert first + part.place == part.sample
        assert Path(part.shard).is_file()
        assert Path(part.shard).parent == Path(one.dataset.streams[number].directory)
        assert part.epoch == part.document // len(A + B)
    inputs, labels = row.read()
    assert tokens == [*inputs.tolist(), labels.tolist()[-1]]
    assert row.counts.tolist() == list(targets.values())


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_previewed_rows_are_those_that_ranks_are_handed(streams: Streams, world_size: int) -> None:
    """From a position before, at and after a loaded state; with documents that lead to the rows."""
    size = 12
    options = {"packing_lanes": LANES, "num_canonical_nodes": 2}
    ranks = Ranks(streams, world_size, batch_size=size // world_size, **options)
    whole = handed_out(ranks, 9)
    begun = Ranks(streams, 4, batch_size=3, **options)
    begun.batches(4)
    again = Ranks(streams, world_size, batch_size=size // world_size, **options).load(begun.state)
    before = [one.state_dict() for one in again.loaders]
    # The loaded position, in rows, is 48. Others begin at the order's first row; a single rank
    # knows besides where it is now.
    for one, position, read in [
        (again.loaders[-1], 60, 12),
        (again.loaders[0], 48, 0),
        (again.loaders[0], 24, 24),
        (ranks.loaders[0], 24, 24),
        (ranks.loaders[-1], 108, 0 if world_size == 1 else 108),
        (ranks.loaders[-1], 480, 372 if world_size == 1 else 480),
    ]:
        told: list[tuple[int, int]] = []
        previewed = preview(one, position, lambda *r, told=told: told.append(r))
        rows = list(islice(previewed, 2 * size))
        assert told == ([(read, read)] if read else [])
        assert [row.position for row in rows] == list(range(position, position + 2 * size))
        for row in rows:
            number = row.position // size
            if number < len(whole):
                inputs, labels = (part.tolist() for part in row.read())
                assert (inputs, labels) == whole[number][row.rank][row.row]
            check_documents(one, row)
        found = origins(one, position)
        assert [(o.rank, o.row) for o in found] == sorted((o.rank, o.row) for o in found)
        assert Counter(found) == Counter(part for row in rows[:size] for part in row.origins)
        counts = stream_counts(one, position, 2).tolist()
        targets = np.stack([row.counts for row in rows])
        assert counts == targets.reshape(2, size, -1).sum(axis=1).tolist()
        assert sum(map(sum, counts)) == 2 * size * SEQ_LEN
    assert {part.epoch for row in rows for part in row.origins} > {1}, "an epoch ends in the last"
    assert [one.state_dict() for one in again.loaders] == before
    for group in (ranks, begun, again):
        group.close()


def test_what_cannot_be_previewed(streams: Streams) -> None:
    one = packed(streams, packing_lanes=LANES)
    list(islice(iter(one), 20))
    state = one.state_dict()
    finite = packed(streams, packing_lanes=LANES, infinite=False)
    for look in (partial(origins, finite, 0), partial(stream_counts, finite, 0, 1)):
        with pytest.raises(MosaicDataError, match=r"infinite = true"):
            look()
    with pytest.raises(MosaicDataError, match=r"infinite = true"):
        preview(finite, 0)
    # A state of one rank's lanes only: the rows are read from the beginning, and are the same.
    half = packed(streams, packing_lanes=LANES, dp_world_size=2, batch_size=4)
    half.load_state_dict({key: value for key, value in state.items() if key != "lane_0001"})
    told: list[tuple[int, int]] = []
    row = next(preview(half, 160, lambda *read: told.append(read)))
    assert told == [(160, 160)]
    assert row.read()[0].equal(next(preview(one, 160)).read()[0])
    # An order that begins in mid-run.
    anew = packed(streams, packing_lanes=24, on_data_change="restart_epoch")
    anew.load_state_dict(state)
    with pytest.raises(MosaicDataError, match=r"row 159 lies before row 160, .* begins"):
        next(preview(anew, 159))
    assert next(preview(anew, 160)).read()[0].equal(next(iter(anew))[0]["input"][0])
    for loader in (one, finite, half, anew):
        loader.close()


@pytest.mark.parametrize("skip", [7, 100, 2 * 171 + 30])
def test_a_new_run_skips_documents(
    streams: Streams, skip: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the ranks; a checkpoint's position wins over the option."""
    order = {"num_canonical_nodes": 3}
    options = {"packing_lanes": LANES, **order}
    with caplog.at_level(logging.INFO):
        ranks = Ranks(streams, 2, batch_size=6, skip_samples=skip, **options)
        first = ranks.state
        got = ranks.batches(3)
    reference = Packing.of(ranks.loaders[0], A + B, LANES, **order)
    reference.skipped = skip
    expected = reference.rows(60)
    batches = [sorted(expected[i : i + 12]) for i in range(0, 60, 12)]
    assert got == batches[:3]
    epoch, place = divmod(skip, len(A + B))
    assert f"begins at sample {place} of epoch {epoch}, {skip} samples into" in caplog.text
    one = ranks.loaders[0]
    assert (one.samples_seen, one.samples_skipped, one.epoch) == (36, skip, epoch)
    # Documents that were skipped lie behind, but were not seen.
    seen = sum(sum(each.samples_per_stream.values()) for each in ranks.loaders)
    mean = sum(each.epochs_seen for each in ranks.loaders) / 2
    assert mean == pytest.approx((skip + seen) / len(A + B), abs=0.05)
    # Read from where the run began.
    inputs = [list(row[:-1]) for row in expected[36:48]]
    assert [row.read()[0].tolist() for row in islice(preview(one, 36), 12)] == inputs

    for given_again, state, done in [(skip, ranks.state, 3), (0, ranks.state, 3), (5, first, 0)]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            again = Ranks(streams, 1, batch_size=12, skip_samples=given_again, **options)
            assert again.load(state).batches(2) == batches[done : done + 2]
        assert f"resumes at row {12 * done} of the run, " in caplog.text
        assert f"skip_samples = {given_again} has no effect" in caplog.text
        assert again.loaders[0].samples_skipped == skip
        again.close()
    # An epoch that restarts begins with its first document.
    changed = {**options, "packing_lanes": 24, "on_data_change": "restart_epoch"}
    anew = Ranks(streams, 1, batch_size=12, skip_samples=skip, **changed).load(ranks.state)
    assert anew.loaders[0].epoch == epoch
    rows = islice(preview(anew.loaders[0], 36), 12)
    documents = [part for row in rows for part in row.origins if isinstance(part, DocumentOrigin)]
    assert {part.document // len(A + B) for part in documents} == {0}
    # It counts rows on; documents are counted lane by lane, and these lanes are new.
    assert anew.loaders[0].samples_seen == 36
    assert sum(anew.loaders[0].samples_per_stream.values()) == 0
    ranks.close()
    anew.close()


def test_skipping_through_the_builder(streams: Streams) -> None:
    dataset: dict[str, Any] = {"streams": streams, "packing": True, "packing_lanes": LANES}
    section = SimpleNamespace(dataset={**dataset, "token_encoding_type": "int32"}, skip_samples=30)
    training = SimpleNamespace(seq_len=SEQ_LEN, local_batch_size=2)
    loader = build_mosaic_dataloader(
        dp_world_size=1,
        dp_rank=0,
        tokenizer=None,
        job_config=SimpleNamespace(mosaic_dataloader=section, training=training),
    )
    assert loader.samples_skipped == 30
    assert json.loads(loader.state_dict()["mosaic"])["skipped"] == 30
    loader.close()
