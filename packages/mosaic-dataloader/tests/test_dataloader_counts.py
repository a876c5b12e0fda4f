"""What is counted beside the position: samples skipped at the start, target tokens by stream."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import packing_helpers
import pytest
import torch
from dataloader_helpers import SEQ_LEN, Ranks, joined, loader, take, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from streaming import MDSWriter

from mosaic_dataloader import MosaicDataError, build_mosaic_validation_dataloader


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """`full`: rows of 17 tokens, numbered from 0; `short`: of 1 to 18 tokens, from 1000."""
    folder = tmp_path_factory.mktemp("mixed")
    full = write_rows(folder / "full", range(60))
    columns = {"tokens": "ndarray:int32"}
    with MDSWriter(out=str(folder / "short"), columns=columns, size_limit=900) as writer:
        for number in range(1000, 1050):
            length = 1 + number * 7 % 18
            writer.write({"tokens": np.full(length, number, np.int32)})
    return {"full": {"local": full}, "short": {"local": str(folder / "short")}}


def count(batch: Any) -> Counter[str]:
    """Targets by stream, read from the rows themselves."""
    found: Counter[str] = Counter()
    for row, labels in zip(batch[0]["input"], batch[1], strict=True):
        found["short" if int(row[0]) >= 1000 else "full"] += int((labels >= 0).sum())
    return found


def summed(ranks: Ranks | packing_helpers.Ranks) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """For each rank, what an all-reduce over them gives it."""
    books = [rank.run for rank in ranks.loaders]
    total = torch.stack(
        [torch.from_numpy(own.progress.targets - own.tokens.own) for own in books]
    ).sum(0)
    return [lambda _: total for _ in ranks.loaders]


@settings(max_examples=settings().max_examples // 10)
@given(
    legs=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=4
    ),
    skip=st.sampled_from([0, 1, 37, 250]),
)
def test_target_tokens_through_any_layouts(
    mixed: dict[str, dict[str, str]], legs: list[tuple[int, int, int]], skip: int
) -> None:
    """Synced before each save, the sums are those of the rows, whoever was handed them."""
    expected: Counter[str] = Counter(full=0, short=0)
    state = None
    for number, (world_size, batch_size, batches) in enumerate(legs):
        ranks = Ranks(mixed, world_size, batch_size=batch_size, skip_samples=skip)
        if state:
            ranks.load(state)
        iterators = [iter(one) for one in ranks.loaders]
        for _ in range(batches):
            for iterator in iterators:
                expected.update(count(next(iterator)))
        if number % 2 and world_size > 1:
            # Twice is as good as once.
            for one, total in zip(ranks.loaders, summed(ranks), strict=True):
                one.sync_token_counts(total)
        if world_size > 1:
            for one, total in zip(ranks.loaders, summed(ranks), strict=True):
                one.sync_token_counts(total)
        for one in ranks.loaders:
            assert one.tokens_per_stream == dict(expected)
            assert sum(one.samples_per_stream.values()) == one.samples_seen - skip
        states = {one.state_dict()["mosaic"] for one in ranks.loaders}
        assert len(states) == 1
        state = ranks.state
        ranks.close()


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Documents of all lengths; tokens tell the stream: those of `high` are 30,000 and more."""
    folder = tmp_path_factory.mktemp("documents")
    low, high = (packing_helpers.documents(90, seed) for seed in (3, 4))
    high = [[token + 30_000 for token in row] for row in high]
    return {
        name: {"local": packing_helpers.write_tokens(folder / name, rows)}
        for name, rows in (("low", low), ("high", high))
    }


def test_target_tokens_of_packed_documents(documents: dict[str, dict[str, str]]) -> None:
    """Each counts for its own document's stream, through layouts, restarts and epochs' ends."""
    expected: Counter[str] = Counter()
    state = None
    for world_size, batch_size, batches in [(2, 3, 5), (1, 4, 11), (3, 1, 90), (4, 2, 3)]:
        ranks = packing_helpers.Ranks(
            documents, world_size, batch_size=batch_size, packing_lanes=12
        )
        if state:
            ranks.load(state)
        for rows in ranks.batches(batches):
            for row in rows:
                expected.update("high" if token >= 30_000 else "low" for token in row[1:])
        if world_size > 1:
            for one, total in zip(ranks.loaders, summed(ranks), strict=True):
                one.sync_token_counts(total)
        for one in ranks.loaders:
            assert one.tokens_per_stream == dict(expected)
        behind = sum(sum(one.samples_per_stream.values()) for one in ranks.loaders)
        mean = sum(one.epochs_seen for one in ranks.loaders) / world_size
        assert mean == pytest.approx(behind / ranks.loaders[0].epoch_samples)
        state = ranks.state
        ranks.close()
    assert mean > 1
    # Padding at the end of a pass is no target, and the token after which nothing comes is none.
    single = packing_helpers.packed(documents, packing_lanes=12, infinite=False, drop_last=False)
    last: Counter[str] = Counter()
    for batch in single:
        for row in packing_helpers.rows_of(batch):
            last.update("high" if token >= 30_000 else "low" for token in row[1:])
    assert single.tokens_per_stream == dict(last)
    single.close()


def test_tokens_of_batches_count_when_they_are_confirmed(
    mixed: dict[str, dict[str, str]],
) -> None:
    waiting = loader(mixed, batch_size=4, confirm_batches=True)
    counts = []
    for batch, _ in zip(waiting, range(5), strict=False):
        counts.append(count(batch))
        # What the caller does to its labels changes nothing.
        batch[1].fill_(-100)
    assert set(waiting.tokens_per_stream.values()) == {0}
    waiting.confirm(3)
    expected = Counter(full=0, short=0)
    for own in counts[:3]:
        expected.update(own)
    assert waiting.tokens_per_stream == dict(expected)
    # Those that were not confirmed are handed out, and counted, again.
    again = loader(mixed, batch_size=4, confirm_batches=True)
    again.load_state_dict(waiting.state_dict())
    expected.update(count(next(iter(again))))
    again.confirm()
    assert again.tokens_per_stream == dict(expected)
    waiting.close()
    again.close()


def test_tokens_that_nobody_summed_are_told(
    mixed: dict[str, dict[str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    ranks = Ranks(mixed, 2, batch_size=4)
    for iterator in [iter(one) for one in ranks.loaders]:
        for _ in range(3):
            next(iterator)
    state = ranks.state
    with pytest.raises(MosaicDataError, match=r"sum_over_ranks.*2 ranks"):
        ranks.loaders[0].sync_token_counts()
    ranks.close()
    with caplog.at_level(logging.INFO):
        ranks = Ranks(mixed, 2, batch_size=4).load(state)
    assert "up to sample 0 of 24: call sync_token_counts" in caplog.text
    # A state of before these counts were kept.
    content = json.loads(state["mosaic"])
    assert [s["tokens"] for s in content["streams"]] == [0, 0]
    ranks.close()


@pytest.mark.parametrize("skip", [5, 1003, 2500])
def test_a_new_run_starts_later_and_skips_once(
    numbered: str, skip: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Its rows are the order's from there on; a checkpoint's position wins over the option."""
    whole = take(iter(loader(numbered, batch_size=1)), skip + 64)
    expected = [row for batch in whole for row in batch][skip:]

    with caplog.at_level(logging.INFO):
        ranks = Ranks(numbered, 2, batch_size=4, skip_samples=skip)
        # Before the first batch, too.
        first = ranks.state
        got = [joined(batch) for batch in ranks.batches(3)]
    epoch, place = divmod(skip, 1003)
    begins = f"begins at sample {place} of epoch {epoch}, {skip} samples into the order"
    assert caplog.text.count(begins) == 1, "one rank tells it, once"
    assert ranks.loaders[0].samples_seen == skip + 24
    assert ranks.loaders[0].samples_skipped == skip
    assert ranks.loaders[0].epochs_seen == pytest.approx((skip + 24) / 1003)
    assert ranks.loaders[1].samples_per_stream == {"data": 24}
    later = ranks.state
    ranks.close()

    for given_again, state, position in [(skip, later, 24), (0, later, 24), (7, first, 0)]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            again = Ranks(numbered, 1, batch_size=8, skip_samples=given_again).load(state)
            rows = [joined(batch) for batch in again.batches(2)]
        assert rows == [
            sorted(expected[position + 8 * n : position + 8 * n + 8]) for n in range(2)
        ], given_again
        told = [r for r in caplog.records if "skip_samples" in r.message]
        assert len(told) == 1
        assert f"skip_samples = {given_again} has no effect" in told[0].message
        assert told[0].levelno == (logging.INFO if given_again == skip else logging.WARNING)
        assert again.loaders[0].samples_skipped == skip
        again.close()
    assert got == [sorted(expected[8 * n : 8 * n + 8]) for n in range(3)]


def test_skipping_keeps_batches_in_units_whole(numbered: str, second: str) -> None:
    streams = {"a": {"local": numbered}, "b": {"local": second}}
    options = {"batching_method": "stratified", "batch_size": 20}
    expected = take(iter(loader(streams, **options)), 5)
    assert take(iter(loader(streams, skip_samples=60, **options)), 2) == expected[3:]
    wrong = loader(streams, skip_samples=50, **options)
    with pytest.raises(MosaicDataError, match=r"50 ends inside .*of 20.*use 40 or 60"):
        wrong.check()
    # Also where the layout would not fit: a loaded state brings its own.
    wrong.load_state_dict(loader(streams, skip_samples=60, **options).state_dict())
    wrong.check()
    assert take(iter(wrong), 2) == expected[3:]


def test_what_cannot_be_skipped(numbered: str, tmp_path: Path) -> None:
    with pytest.raises(MosaicDataError, match=r"skip_samples = -1"):
        loader(numbered, skip_samples=-1)
    section = SimpleNamespace(dataset={"local": numbered}, skip_samples=8)
    config = SimpleNamespace(
        mosaic_validation_dataloader=section,
        validation=SimpleNamespace(seq_len=SEQ_LEN, local_batch_size=2),
    )
    with pytest.raises(MosaicDataError, match=r"skip_samples is for training"):
        build_mosaic_validation_dataloader(
            dp_world_size=1, dp_rank=0, tokenizer=None, job_config=config
        )
