"""Starting at any depth of a large data set: stored orders, feistel, stages, mosaicml-streaming.

No data are needed: what is measured ends with the first batch's shards and places. Each figure is
of a process of its own; what it imports is not counted, neither in seconds nor in memory.
"""

import argparse
import json
import shutil
import time
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.common import (
    arguments,
    in_child,
    machine,
    median,
    memory,
    progress,
    report,
    table,
    verdict,
)
from mosaic_dataloader.order.batches import Layout, endless_batches
from mosaic_dataloader.order.epoch import build_epoch
from mosaic_dataloader.order.mixture import Int64Array, Mixture, StreamSize
from mosaic_dataloader.order.options import OrderOptions
from mosaic_dataloader.order.resolved import ResolvedOrder
from mosaic_dataloader.order.sequence import EpochSequence
from mosaic_dataloader.order.stage_sequence import StageSequence
from mosaic_dataloader.order.stages import Stage, draws_per_block
from mosaic_dataloader.storage.stored_orders import StoredOrders

SEED = 9176
# Rows of 2,049 int32 in shards of 64 MiB.
SHARD_SAMPLES = 8192
STORED_SAMPLES = 50_000_000
FEISTEL_SAMPLES, FEISTEL_POSITION = 500_000_000, 400_000_000
# Weights of eight streams, beside what they hold: drawn less than once, about once, and repeatedly.
WEIGHTS = (0.4, 0.6, 0.8, 0.9, 1.1, 1.2, 1.4, 1.6)
# With stages, in shards of 1,000 samples: 500,000 of them.
STAGE_SHARD_SAMPLES = 1000
RANKS, BATCH = 8, 8
SECONDS, MEGABYTES = 2.0, 100.0


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--stored-samples", type=int, default=STORED_SAMPLES)
    parser.add_argument("--skip-stored", action="store_true", help="feistel and mixing only")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments_given)
    if given.child:
        print(json.dumps(_child(json.loads(given.child))))
        return
    where = machine()
    orders = given.work / "depth-orders"
    intro = (
        f"Rank 0 of {RANKS}, batch {BATCH}; shards of {SHARD_SAMPLES:,} samples. Memory is what "
        "the process itself took, at most, beyond what it had after its imports; maps of files, "
        f"which all processes share, are not in it. feistel: medians of {given.rounds} rounds."
    )
    parts: list[str] = []
    figures: dict[str, Any] = {}
    if not given.skip_stored:
        figures["stored"] = _stored(given.stored_samples, orders)
        parts += [f"py1e, {given.stored_samples:,} samples:", _stored_table(figures["stored"])]
    figures["feistel"] = _feistel(given.rounds)
    figures["stages"] = _feistel(given.rounds, "stages", (8,))
    place = f"position {FEISTEL_POSITION:,} of {FEISTEL_SAMPLES:,}"
    parts += [
        f"feistel, {place}:",
        _depth_table(figures["feistel"]),
        f"Three stages over feistel, {place} in {FEISTEL_SAMPLES // STAGE_SHARD_SAMPLES:,} shards:",
        _depth_table(figures["stages"]),
        *_mixing(figures),
    ]
    report(given, "depth", "Start at any depth", intro, parts, figures, where)


def _stored(samples: int, orders: Path) -> list[dict[str, Any]]:
    """One start each: it takes long, and is far from any bound that noise could hide."""
    found = []
    for streams in (1, 8):
        shutil.rmtree(orders, ignore_errors=True)
        common = {"streams": streams, "samples": samples}
        for what, who in (
            ("first start", {"kind": "stored", "orders": str(orders)}),
            ("second start", {"kind": "stored", "orders": str(orders)}),
            ("mosaicml-streaming, every start", {"kind": "mosaicml"}),
        ):
            found.append({"what": what, **common, **in_child("depth", {**common, **who})})
            progress(f"{streams} streams, {what}: {found[-1]['seconds']:.1f} s")
    shutil.rmtree(orders, ignore_errors=True)
    return found


def _stored_table(found: list[dict[str, Any]]) -> str:
    lines = [
        [
            f["what"],
            f["streams"],
            f"{f['seconds']:.2f}",
            f"{f['megabytes']:,.0f}",
            f"{f['child_megabytes']:,.0f}" if f.get("child_megabytes") else "",
        ]
        for f in found
    ]
    return table(["", "streams", "seconds", "MB per process", "MB of the one that builds"], lines)


def _feistel(
    rounds: int, kind: str = "feistel", numbers: tuple[int, ...] = (1, 8)
) -> list[dict[str, Any]]:
    found = []
    for streams in numbers:
        common = {"streams": streams, "samples": FEISTEL_SAMPLES}
        runs = [in_child("depth", {**common, "kind": kind}) for _ in range(rounds)]
        found.append(
            {
                **common,
                "seconds": [run["seconds"] for run in runs],
                "megabytes": [run["megabytes"] for run in runs],
            }
        )
        progress(f"{kind}, {streams} streams")
    return found


def _depth_table(found: list[dict[str, Any]]) -> str:
    lines = []
    for f in found:
        seconds, megabytes = median(f["seconds"]), median(f["megabytes"])
        lines.append(
            [
                f["streams"],
                f"{seconds:.2f}",
                verdict(seconds, SECONDS, at_most=True),
                f"{megabytes:.0f}",
                verdict(megabytes, MEGABYTES, at_most=True),
            ]
        )
    return table(
        ["streams", "seconds to the first batch", "target", "MB per rank", "target"], lines
    )


def _mixing(figures: dict[str, Any]) -> list[str]:
    """Statistics of one window's permutation, and the shards that it keeps open."""
    shards, size, batch = 64, 1024, 512
    window = shards * size
    mixture = Mixture((StreamSize("data", np.full(4 * shards, size, np.int64), 4 * window),))
    rows = {}
    for algo in ("feistel", "py1e"):
        found = []
        for seed in range(20):
            ids = build_epoch(mixture, _resolved(algo, seed, window), 0).rows(0, 4 * window)[0]
            found.append(_statistics(ids, size, batch, window))
        rows[algo] = np.array(found)
    figures["mixing"] = {algo: values.tolist() for algo, values in rows.items()}
    names = (
        "chi-square per degree of freedom, windows' shards in a batch",
        "how often a sample follows one of its own shard, times shards",
        "serial correlation of places in the list, absolute",
        "shards touched per half window",
    )
    # What a uniformly random order of one window gives.
    ideal = ("1", "1", f"{np.sqrt(2 / np.pi / window):.4f}", str(shards))
    lines = [
        [
            name,
            *(f"{values[:, n].mean():.4f} ± {values[:, n].std():.4f}" for values in rows.values()),
            ideal[n],
        ]
        for n, name in enumerate(names)
    ]
    return [
        f"Mixing within a window of {shards} shards of {size:,} samples, 20 seeds, mean and "
        "standard deviation:",
        table(["", *rows, "uniformly random in a window"], lines),
    ]


def _statistics(ids: Int64Array, size: int, batch: int, window: int) -> tuple[float, ...]:
    """Over the second and third of four windows' worth, where py1e slides freely too."""
    touched = ids // size
    halves = touched.reshape(-1, window // 2)
    live = float(np.mean([len(np.unique(half)) for half in halves]))
    middle = touched[window : 3 * window].reshape(-1, window // 2)
    spreads, follows = [], []
    for half in middle:
        kinds, own = np.unique(half, return_inverse=True)
        shares = np.bincount(own) / len(own)
        # Shards at the rim of a sliding window give few samples, whose squares mean nothing.
        enough = shares * batch >= 5
        counts = np.stack([np.bincount(b, minlength=len(kinds)) for b in own.reshape(-1, batch)])
        expected = batch * shares[enough]
        squares = (counts[:, enough] - expected) ** 2 / (expected * (1 - shares[enough]))
        # The shares were taken from the same batches.
        spreads.append(squares.mean() * len(counts) / (len(counts) - 1))
        follows.append((own[1:] == own[:-1]).mean() / (shares**2).sum())
    serial = abs(
        float(np.corrcoef(ids[window : 2 * window - 1], ids[window + 1 : 2 * window])[0, 1])
    )
    return float(np.mean(spreads)), float(np.mean(follows)), serial, live


def _child(what: dict[str, Any]) -> dict[str, Any]:
    if what["kind"] == "stages":
        return _stages(what["streams"], what["samples"])
    mixture = _mixture(what["streams"], what["samples"])
    if what["kind"] == "mosaicml":
        return _mosaicml(mixture)
    feistel = what["kind"] == "feistel"
    position = FEISTEL_POSITION if feistel else what["samples"] // 2
    options = _resolved("feistel" if feistel else "py1e", SEED, None)
    memory = _Peak()
    begun = time.perf_counter()
    orders = what.get("orders")
    stored = StoredOrders(orders, mixture, options) if orders else None
    sequence = EpochSequence(mixture, options, stored=stored)
    next(endless_batches(sequence, Layout(0, RANKS, BATCH), position))
    seconds = time.perf_counter() - begun
    return {"seconds": seconds, **memory.grown()}


def _stages(streams: int, samples: int) -> dict[str, Any]:
    """A third each of rising, equal and rising weights; position in the last stage."""
    shards = samples // STAGE_SHARD_SAMPLES // streams
    sizes = np.full(shards, STAGE_SHARD_SAMPLES, np.int64)
    mixture = Mixture(
        tuple(StreamSize(f"stream {n}", sizes, int(sizes.sum())) for n in range(streams))
    )
    names = [stream.name for stream in mixture.streams]
    rising = draws_per_block([n + 1 for n in range(streams)])
    third = FEISTEL_POSITION // 24 * 8
    stages = [
        Stage(0, rising),
        Stage(third, draws_per_block([1] * streams)),
        Stage(2 * third, rising),
    ]
    memory = _Peak()
    begun = time.perf_counter()
    sequence = StageSequence(
        mixture,
        _resolved("feistel", SEED, None),
        samples=[stream.samples for stream in mixture.streams],
        names=names,
        digests=names,
        present=range(streams),
        stages=stages,
    )
    next(endless_batches(sequence, Layout(0, RANKS, BATCH), FEISTEL_POSITION))
    return {"seconds": time.perf_counter() - begun, **memory.grown()}


def _mosaicml(mixture: Mixture) -> dict[str, Any]:
    """What ``StreamingDataset`` does at the start of an epoch, without its data on disk."""
    from streaming.base.batching.random import generate_work_random_batching
    from streaming.base.dataset import StreamingDataset

    sizes, options = mixture.samples_per_shard, _resolved("py1e", SEED, None)
    counts = np.diff(mixture.stream_shards)
    data = SimpleNamespace(
        shuffle=True,
        shuffle_algo="py1e",
        shuffle_seed=SEED,
        shuffle_block_size=options.shuffle_block_size,
        num_canonical_nodes=options.num_canonical_nodes,
        initial_physical_nodes=1,
        partition_algo="relaxed",
        batch_size=BATCH,
        epoch_size=mixture.epoch_samples,
        sampling_method="balanced",
        sampling_granularity=1,
        epoch_seed_change=True,
        num_streams=len(mixture.streams),
        streams=[SimpleNamespace(choose=s.choose) for s in mixture.streams],
        shards_per_stream=counts,
        shard_offset_per_stream=np.cumsum(counts) - counts,
        samples_per_shard=sizes,
        sample_offset_per_shard=np.cumsum(sizes) - sizes,
    )
    data.resample_streams = lambda epoch: StreamingDataset.resample_streams(data, epoch)
    world = SimpleNamespace(num_nodes=1, ranks_per_node=RANKS, workers_per_rank=1)
    memory = _Peak()
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        generate_work_random_batching(data, world, 0, mixture.epoch_samples // 2)
    return {"seconds": time.perf_counter() - begun, **memory.grown()}


def _mixture(streams: int, samples: int) -> Mixture:
    shards = samples // SHARD_SAMPLES // streams
    # Equal but for the last one.
    last = samples // streams - shards * SHARD_SAMPLES
    sizes = np.array([SHARD_SAMPLES] * shards + ([last] if last else []), np.int64)
    weights = WEIGHTS if streams == len(WEIGHTS) else (1.0,) * streams
    return Mixture(
        tuple(
            StreamSize(f"stream {n}", sizes, round(float(sizes.sum()) * weight))
            for n, weight in enumerate(weights)
        )
    )


def _resolved(algo: str, seed: int, block: int | None) -> ResolvedOrder:
    given = OrderOptions(
        shuffle=True, shuffle_algo=algo, shuffle_seed=seed, shuffle_block_size=block
    )
    return given.resolve(num_nodes=1, global_batch=RANKS * BATCH, local_batch=BATCH)


class _Peak:
    """Growth of a process's own memory, at its highest."""

    def __init__(self) -> None:
        # Linux: the high-water mark counts from here.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = memory("VmHWM")
        self._files = memory("RssFile")

    def grown(self) -> dict[str, float]:
        import resource

        files = max(0, memory("RssFile") - self._files)
        return {
            "megabytes": max(0, memory("VmHWM") - self._before - files) / 1e6,
            "child_megabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1000,
        }


if __name__ == "__main__":
    main()
