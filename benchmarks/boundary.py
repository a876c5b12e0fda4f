"""Batch times around an epoch's end beside those away from it: does anything stall?

The rows are real ones on disk, of four uint16 tokens: at this size what remains is the work per
sample and per epoch, which is what is asked about, and an epoch passes in seconds. Between batches
the reader sleeps for a millisecond, as one does whose step runs on a GPU. Still the next order has
to be ready within seconds, for which a training run leaves it a thousand times as long.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import arguments, machine, progress, report, table, verdict
from benchmarks.rows_data import once
from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

STREAMS, SHARDS, SHARD_ROWS, ROW_TOKENS = 8, 10, 62_500, 4
WEIGHTS = (0.25, 0.2, 0.15, 0.12, 0.1, 0.08, 0.06, 0.04)
BATCH = 1024
STEP_SECONDS = 1e-3
# Batches on either side of a boundary that count as near it.
NEAR = 32
TARGET = 1.5


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=1)
    parser.add_argument("--boundaries", type=int, default=20)
    parser.add_argument("--their-samples", type=int, default=1_000_000)
    parser.add_argument("--their-boundaries", type=int, default=2)
    given = parser.parse_args(arguments_given)
    where = machine()
    folder = once(given.work / "boundary", _write)
    near, away = _ours(folder, given.work / "boundary-cache", given.boundaries)
    theirs = _theirs(folder, given.their_samples, given.their_boundaries)
    rows = STREAMS * SHARDS * SHARD_ROWS
    lines = []
    for name, samples, count, (close, far) in (
        ("mosaic-dataloader", rows, given.boundaries, (near, away)),
        ("StreamingDataLoader", given.their_samples, given.their_boundaries, theirs),
    ):
        for statistic, of in (("median", np.median), ("p99", _p99), ("maximum", np.max)):
            ratio = float(of(close) / of(far))
            goal = verdict(ratio, TARGET, at_most=True)
            ours = name == "mosaic-dataloader" and statistic != "median"
            lines.append(
                [
                    name,
                    f"{samples:,}",
                    count,
                    statistic,
                    f"{1e3 * of(close):.3f}",
                    f"{1e3 * of(far):.3f}",
                    f"{ratio:.2f}",
                    goal if ours else "",
                ]
            )
    # The maximum of few is smaller than that of many: once more among equally many.
    groups = np.array([part.max() for part in np.array_split(away, max(1, len(away) // len(near)))])
    chance = (
        f"Of {len(groups)} groups of {len(near):,} batches away from the boundaries, "
        f"{(groups >= near.max()).mean():.0%} have a maximum as large as that of the {len(near):,} "
        f"near them; the median of the groups' maxima is {1e3 * np.median(groups):.2f} ms."
    )
    intro = (
        f"{rows:,} rows of {ROW_TOKENS} uint16 tokens in {STREAMS} weighted streams, py1e, "
        f"batch {BATCH:,}, a step of {1e3 * STEP_SECONDS:g} ms after each; how long the reader "
        f"waits for the {NEAR} batches before and after each boundary, and for all others, in "
        "milliseconds a batch. StreamingDataLoader starts shortly before each boundary: with "
        "whole epochs it would take an hour."
    )
    parts = [
        table(
            ["", "samples", "boundaries", "", "near, ms", "away, ms", "near / away", "target"],
            lines,
        ),
        chance,
    ]
    figures = {"near": _told(near), "away": _told(away)}
    figures |= {"their_near": _told(theirs[0]), "their_away": _told(theirs[1])}
    report(given, "boundary", "No stall at the epoch's end", intro, parts, figures, where)


def _p99(values: NDArray[np.float64]) -> float:
    return float(np.quantile(values, 0.99))


def _told(values: NDArray[np.float64]) -> dict[str, Any]:
    """For the JSON: quantiles, the values themselves being too many."""
    quantiles = (0, 0.5, 0.9, 0.99, 0.999, 1)
    return {"count": len(values), **{str(q): float(np.quantile(values, q)) for q in quantiles}}


def _ours(
    folder: Path, cache: Path, boundaries: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    dataset = StreamingTextDataset(
        seq_len=ROW_TOKENS - 1,
        streams={
            name: {"local": str(folder / name), "proportion": weight}
            for name, weight in zip(_names(), WEIGHTS, strict=True)
        },
        shuffle=True,
        cache_dir=str(cache),
    )
    loader = MosaicParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=BATCH)
    epoch = dataset.mixture.epoch_samples
    batches = iter(loader)
    # Half an epoch for the first start and the first look at every shard.
    for _ in range(epoch // BATCH // 2):
        next(batches)
    near: list[float] = []
    away: list[float] = []
    passed, told = 0, 0
    while passed < boundaries or loader.samples_seen % epoch < epoch // 2:
        begun = time.perf_counter()
        next(batches)
        took = time.perf_counter() - begun
        time.sleep(STEP_SECONDS)
        place = loader.samples_seen % epoch
        distance = min(place, epoch - place + BATCH) // BATCH
        (near if distance < NEAR else away).append(took)
        passed = loader.samples_seen // epoch
        if passed > told:
            told = passed
            progress(f"boundary {passed} of {boundaries}")
    loader.close()
    return np.array(near), np.array(away)


def _theirs(
    folder: Path, samples: int, boundaries: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    from streaming import Stream, StreamingDataLoader, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    dataset = StreamingDataset(
        streams=[
            Stream(local=str(folder / name), proportion=weight)
            for name, weight in zip(_names(), WEIGHTS, strict=True)
        ],
        epoch_size=samples,
        shuffle=True,
        batch_size=BATCH,
    )
    loader = StreamingDataLoader(dataset, batch_size=BATCH)
    before = 2 * NEAR
    near: list[float] = []
    away: list[float] = []
    for number in range(boundaries):
        dataset.load_state_dict(
            {
                "epoch": 2 * number,
                "sample_in_epoch": (samples // BATCH - before) * BATCH,
                "num_canonical_nodes": 1,
                "shuffle_seed": dataset.shuffle_seed,
                "initial_physical_nodes": 1,
            }
        )
        batches = iter(loader)
        # Not counted: the start at this place.
        next(batches)
        times: list[float] = []
        crossed = None
        while crossed is None or len(times) < crossed + before:
            begun = time.perf_counter()
            if next(batches, None) is None:
                assert crossed is None
                crossed = len(times)
                # The new epoch's order is part of what its first batch waits for.
                batches = iter(loader)
                next(batches)
            times.append(time.perf_counter() - begun)
            time.sleep(STEP_SECONDS)
        near += times[crossed - NEAR : crossed + NEAR]
        away += times[: crossed - NEAR] + times[crossed + NEAR :]
        del batches
        progress(f"StreamingDataLoader, boundary {number + 1} of {boundaries}")
    return np.array(near), np.array(away)


def _names() -> list[str]:
    return [f"stream-{number}" for number in range(STREAMS)]


def _write(folder: Path) -> None:
    """One shard by MDSWriter, the others by writing other tokens into copies of it."""
    from streaming import MDSWriter

    rng = np.random.default_rng(0)
    model = folder / "model"
    columns = {"tokens": f"ndarray:uint16:{ROW_TOKENS}"}
    with MDSWriter(out=str(model), columns=columns, size_limit=1 << 30) as writer:
        for row in rng.integers(0, 1 << 16, (SHARD_ROWS, ROW_TOKENS), np.uint16):
            writer.write({"tokens": row})
    index = json.loads((model / "index.json").read_text())
    (entry,) = index["shards"]
    shard = (model / entry["raw_data"]["basename"]).read_bytes()
    head = shard[: -SHARD_ROWS * ROW_TOKENS * 2]
    for name in _names():
        out = folder / name
        out.mkdir()
        entries = []
        for number in range(SHARDS):
            tokens = rng.integers(0, 1 << 16, (SHARD_ROWS, ROW_TOKENS), np.uint16)
            base = f"shard.{number:05}.mds"
            (out / base).write_bytes(head + tokens.tobytes())
            entries.append({**entry, "raw_data": {**entry["raw_data"], "basename": base}})
        (out / "index.json").write_text(json.dumps({**index, "shards": entries}))


if __name__ == "__main__":
    main()
