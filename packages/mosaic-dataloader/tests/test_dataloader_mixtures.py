"""Measured shares of the streams are the configured ones, whatever draws, shuffles and batches."""

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from dataloader_helpers import Ranks, joined, loader, write_rows

from mosaic_dataloader.inspect.previews import origins, stream_counts

# Samples of each stream; their rows are numbered from 0, 1,000 and 2,000.
SIZES = {"a": 300, "b": 120, "c": 60}
METHODS = ("random", "stratified", "per_stream", "device_per_stream")
# Weights, epoch_size, and how often each stream's samples stand in an epoch by them.
WEIGHTS: dict[str, tuple[dict[str, dict[str, float]], int | None, dict[str, int]]] = {
    "proportion": (
        {"a": {"proportion": 0.5}, "b": {"proportion": 1.0}, "c": {"proportion": 0.5}},
        None,
        {"a": 120, "b": 240, "c": 120},
    ),
    "proportion of epoch_size": (
        {"a": {"proportion": 5}, "b": {"proportion": 3}, "c": {"proportion": 2}},
        1000,
        {"a": 500, "b": 300, "c": 200},
    ),
    "repeat": (
        {"a": {"repeat": 0.5}, "b": {"repeat": 2.0}, "c": {}},
        None,
        {"a": 150, "b": 240, "c": 60},
    ),
    "choose": (
        {"a": {"choose": 100}, "b": {"choose": 130}, "c": {"choose": 90}},
        None,
        {"a": 100, "b": 130, "c": 90},
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("mixtures")
    return {
        name: write_rows(folder / name, range(1000 * i, 1000 * i + size), size_limit=2000)
        for i, (name, size) in enumerate(SIZES.items())
    }


def shares(rows: list[int]) -> Counter[str]:
    return Counter("abc"[row // 1000] for row in rows)


@pytest.mark.parametrize(
    "algo",
    # Unshuffled, an epoch holds what it holds with py1e.
    ["py1e", "feistel", pytest.param(None, marks=pytest.mark.soak)],
)
@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_epoch_holds_what_is_configured(
    folders: dict[str, str], weights: str, algo: str | None
) -> None:
    """Counted in batches that real loaders hand out, over three epochs."""
    given, epoch_size, expected = WEIGHTS[weights]
    streams = {name: {"local": local, **given[name]} for name, local in folders.items()}
    total = sum(expected.values())
    for number, (method, sampling, granularity) in enumerate(
        itertools.product(METHODS, ("balanced", "fixed"), (1, 7))
    ):
        batch = 20 if method != "device_per_stream" else 10
        one = loader(
            streams,
            batch_size=batch,
            epoch_size=epoch_size,
            batching_method=method,
            sampling_method=sampling,
            sampling_granularity=granularity,
            shuffle=algo is not None,
            shuffle_algo=algo or "py1e",
            shuffle_seed=number,
            shuffle_block_size=100,
        )
        length = one.epoch_samples
        ids = [_epoch(one, epoch) for epoch in range(3)]
        for rows in ids:
            found = shares(rows)
            if method == "random":
                assert found == expected
            else:
                # Whole units alone make the epoch: less than one of each stream is left out, or, of
                # equally mixed ones, what the first stream that runs out leaves behind.
                assert all(found[name] <= count for name, count in expected.items())
                assert length > total - 3 * batch - (0.1 * total if method == "stratified" else 0)
            for name, count in expected.items():
                _check_evenly_drawn(rows, name, found[name], whole=found[name] == count)
        if method == "stratified":
            for rows in ids:
                units = [shares(rows[i : i + batch]) for i in range(0, length, batch)]
                exact = {name: batch * count / total for name, count in expected.items()}
                assert all(abs(u[name] - exact[name]) < 1 for u in units for name in exact)
        elif method in ("per_stream", "device_per_stream"):
            rows = ids[0]
            assert all(len(shares(rows[i : i + batch])) == 1 for i in range(0, length, batch))
        if method == "random" and algo:
            # Fixed draws are the same in every epoch, balanced ones are not; the order differs.
            drawn = [Counter(rows) for rows in ids]
            partial = any(count % SIZES[name] for name, count in expected.items())
            assert (drawn[0] == drawn[1] == drawn[2]) == (sampling == "fixed" or not partial)
            assert ids[0] != ids[1]
        one.close()


def _epoch(one: Any, epoch: int) -> list[int]:
    """Row numbers of an epoch, in order, looked up and not read."""
    rows: list[int] = []
    length, batch = one.epoch_samples, one.batch_size
    # An epoch need not be whole batches; what the last one holds of the next epoch is cut off.
    for position in range(epoch * length, (epoch + 1) * length, batch):
        found = sorted(origins(one, position), key=lambda origin: origin.position)
        rows += ["abc".index(o.stream) * 1000 + o.sample for o in found]
    return rows[:length]


def _check_evenly_drawn(rows: list[int], name: str, count: int, whole: bool) -> None:
    """No sample is drawn twice more often than another one."""
    size, first = SIZES[name], 1000 * "abc".index(name)
    times = np.bincount([r - first for r in rows if "abc"[r // 1000] == name], minlength=size)
    assert times.sum() == count
    if whole:
        assert times.max() - times.min() <= 1
        assert times.max() == -(-count // size)


@pytest.mark.parametrize("method", METHODS)
def test_origins_are_what_the_ranks_read(folders: dict[str, str], method: str) -> None:
    """Rank by rank and row by row, with canonical nodes that give ranks rows out of turn."""
    streams = {name: {"local": local} for name, local in folders.items()}
    options = {"batch_size": 5, "batching_method": method, "num_nodes": 2}
    ranks = Ranks(streams, 4, num_canonical_nodes=4, **options)
    for number, batch in enumerate(ranks.batches(20)):
        found: list[list[int]] = [[] for _ in range(4)]
        for origin in origins(ranks.loaders[0], 20 * number):
            found[origin.rank].append(1000 * "abc".index(origin.stream) + origin.sample)
        assert found == batch, number
        (counts,) = stream_counts(ranks.loaders[1], 20 * number, 1)
        assert dict(zip("abc", counts.tolist(), strict=True)) == {
            name: shares(joined(batch))[name] for name in "abc"
        }
    ranks.close()
