"""1,024 ranks on 128 nodes: what each rank's order costs, and which shards each node reads."""

import json
import shutil
import time
from collections.abc import Iterator
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
from mosaic_dataloader.order.mixture import Mixture, StreamSize
from mosaic_dataloader.order.options import OrderOptions
from mosaic_dataloader.order.sequence import EpochSequence
from mosaic_dataloader.storage.stored_orders import StoredOrders

NODES, RANKS_PER_NODE, LOCAL_BATCH = 128, 8, 8
RANKS = NODES * RANKS_PER_NODE
BATCH = RANKS * LOCAL_BATCH
SEED = 9176
# Rows of 2,049 int32 tokens: 64 MiB a shard.
SHARD_SAMPLES, SAMPLE_BYTES = 8192, 8200
# Shares of the samples and weights in the mixture, by stream: some are drawn in part, some more
# than once.
HELD = (0.30, 0.20, 0.15, 0.10, 0.10, 0.07, 0.05, 0.03)
DRAWN = (0.20, 0.25, 0.20, 0.10, 0.10, 0.05, 0.05, 0.05)
# Where in the epoch batches are timed: fractions of it.
PLACES = (0.0, 0.2, 0.4, 0.6, 0.8)
TIMED = 200


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=3)
    parser.add_argument("--samples", type=int, default=500_000_000, help="with feistel")
    parser.add_argument(
        "--listed-samples",
        type=int,
        default=50_000_000,
        help="with orders that exist as a list: py1e here and in mosaicml-streaming",
    )
    parser.add_argument(
        "--batches", type=int, help="batches looked at for shards; by default all of an epoch"
    )
    parser.add_argument("--child", help="used by this program itself")
    given = parser.parse_args(arguments_given)
    if given.rounds < 2:
        parser.error("--rounds must be at least 2: the first rank of a node does more")
    if given.child:
        task = json.loads(given.child)
        print(json.dumps(CHILDREN[task.pop("what")](**task)))
        return
    where = machine()
    settings = {"feistel": given.samples, "py1e": given.listed_samples}
    found: dict[str, list[dict[str, float]]] = {algo: [] for algo in settings}
    for samples in settings.values():
        shutil.rmtree(given.work / f"scale-{samples}" / "cache", ignore_errors=True)
    for number in range(given.rounds):
        rank = number * (RANKS - 1) // (given.rounds - 1)
        for algo, samples in settings.items():
            found[algo].append(_child("rank", algo, samples, given.work, rank=rank))
            progress(f"rank {rank}, {algo}: {found[algo][-1]}")
    shards = {
        algo: _child("shards", algo, samples, given.work, batches=given.batches)
        for algo, samples in settings.items()
    }
    progress(f"shards: {shards}")
    streaming = _child("streaming", "py1e", given.listed_samples, given.work)
    intro = (
        f"{RANKS:,} ranks on {NODES} nodes, {LOCAL_BATCH} rows each: {BATCH:,} rows in a "
        f"global batch; 8 weighted streams, shards of {SHARD_SAMPLES:,} samples. Ranks are "
        f"real processes, run one after another; medians of {given.rounds}, spread from the "
        f"first to the last."
    )
    parts = [
        _rank_table(found, settings),
        _shard_table(shards, streaming, settings),
        _streaming_table(streaming, given.listed_samples),
        table(["goal", "found", "target"], _goals(found)),
    ]
    figures = {"ranks": found, "shards": shards, "streaming": streaming}
    report(given, "scale", "Scale", intro, parts, figures, where)


def _goals(found: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    goals = [
        [f"{algo}: processor ms a batch", value, 1.0]
        for algo, ranks in found.items()
        for value in [median([r["batch_cpu_ms"] for r in ranks])]
    ]
    slowest = max(rank["start_s"] for rank in found["feistel"])
    goals.append(["feistel: s from the index to the first batch, slowest rank", slowest, 2.0])
    return [
        [name, f"{value:.2f}", verdict(value, target, at_most=True)]
        for name, value, target in goals
    ]


def _rank_table(found: dict[str, list[dict[str, float]]], settings: dict[str, int]) -> str:
    columns = {
        "open the index, s": "open_s",
        "memory of it, MB": "open_mb",
        "first batch at 80 % of the epoch, s": "start_s",
        "memory of the order, MB": "order_mb",
        "a batch, ms": "batch_ms",
        "its processor time, ms": "batch_cpu_ms",
    }
    # The first rank of a node has the list made, where there is one, and the others find it.
    lines = [
        [algo, f"{settings[algo] / 1e6:,.0f} M", f"{ranks[0]['start_s']:.2f}"]
        + [f"{median([r[key] for r in ranks[1:]]):.2f}" for key in columns.values()]
        for algo, ranks in found.items()
    ]
    return table(["one rank", "samples", "first batch of a node's first rank, s", *columns], lines)


def _shard_table(
    shards: dict[str, dict[str, Any]], streaming: dict[str, Any], settings: dict[str, int]
) -> str:
    lines = []
    for name, samples, one in [
        *((f"mosaic-dataloader, {algo}", settings[algo], shards[algo]) for algo in settings),
        ("mosaicml-streaming, py1e", settings["py1e"], streaming),
    ]:
        per_node, distinct = one["per_node"], one["distinct"]
        size = SHARD_SAMPLES * SAMPLE_BYTES / 1e12
        lines.append(
            [
                name,
                f"{samples / 1e6:,.0f} M",
                f"{distinct:,}",
                f"{sum(per_node) / NODES:.1f} ({min(per_node)} to {max(per_node)})",
                f"{distinct / NODES:.1f}",
                f"{sum(per_node) * size:.2f}",
                f"{distinct * size:.2f}",
                f"{sum(per_node) / distinct:.3f}",
            ]
        )
    headings = ["", "samples", "shards drawn from", "shards a node (spread)", "least"]
    headings += ["TB downloaded by all nodes", "least", "ratio"]
    return table(headings, lines)


def _streaming_table(streaming: dict[str, Any], samples: int) -> str:
    steps = ["resample", "partition", "shuffle", "gather"]
    lines = [[f"{samples / 1e6:,.0f} M"] + [f"{streaming[s]:.1f}" for s in steps]]
    lines[0] += [f"{sum(streaming[s] for s in steps):.1f}", f"{streaming['peak_mb']:,.0f}"]
    headings = ["mosaicml-streaming, one node, samples", *(f"{s}, s" for s in steps)]
    return table([*headings, "an epoch's start, s", "peak memory, MB"], lines)


def _child(what: str, algo: str, samples: int, work: Path, **more: Any) -> dict[str, Any]:
    """Do a part in a process of its own."""
    task = {"what": what, "algo": algo, "samples": samples, "work": str(work), **more}
    return in_child("scale", task)


def _sizes(samples: int) -> Iterator[tuple[str, Any, int]]:
    """Each stream's name, samples in its shards, and samples drawn from it."""
    for number, (held, drawn) in enumerate(zip(HELD, DRAWN, strict=True)):
        full, rest = divmod(int(samples * held), SHARD_SAMPLES)
        sizes = np.array([SHARD_SAMPLES] * full + ([rest] if rest else []), np.int64)
        yield f"stream{number}", sizes, int(samples * drawn)


def _mixture(samples: int) -> Mixture:
    return Mixture(tuple(StreamSize(*parts) for parts in _sizes(samples)))


def _sequence(algo: str, samples: int, orders: str | None) -> EpochSequence:
    options = OrderOptions(shuffle=True, shuffle_algo=algo, shuffle_seed=SEED)
    resolved = options.resolve(num_nodes=NODES, global_batch=BATCH, local_batch=LOCAL_BATCH)
    mixture = _mixture(samples)
    stored = StoredOrders(orders, mixture, resolved) if orders else None
    return EpochSequence(mixture, resolved, stored=stored)


def _write_indexes(samples: int, work: Path) -> dict[str, dict[str, Any]]:
    """Indexes of the streams, without shards: nothing is read here but the order."""
    streams = {}
    for name, sizes, drawn in _sizes(samples):
        folder = work / f"scale-{samples}" / name
        streams[name] = {
            "remote": str(folder / "remote"),
            "local": str(folder / "local"),
            "choose": drawn,
        }
        path = folder / "remote" / "index.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shards = [_shard(number, int(size)) for number, size in enumerate(sizes)]
            path.write_text(json.dumps({"version": 2, "shards": shards}))
    return streams


def _shard(number: int, samples: int) -> dict[str, Any]:
    return {
        "column_encodings": ["ndarray:int32:2049"],
        "column_names": ["tokens"],
        "column_sizes": [SAMPLE_BYTES - 4],
        "compression": None,
        "format": "mds",
        "hashes": [],
        "raw_data": {
            "basename": f"shard.{number:05}.mds",
            "bytes": samples * SAMPLE_BYTES,
            "hashes": {},
        },
        "samples": samples,
        "size_limit": 1 << 26,
        "version": 2,
        "zip_data": None,
    }


def _rank(algo: str, samples: int, work: str, rank: int) -> dict[str, float]:
    """Start as one rank does, and time its batches."""
    import streaming  # noqa: F401  a data set imports it; here that is not what is measured

    from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

    streams = _write_indexes(samples, Path(work))
    before, begun = _own_memory(), time.perf_counter()
    dataset = StreamingTextDataset(
        seq_len=2048,
        streams=streams,
        shuffle=True,
        shuffle_algo=algo,
        shuffle_seed=SEED,
        cache_dir=str(Path(work) / f"scale-{samples}" / "cache"),
    )
    loader = MosaicParallelAwareDataloader(
        dataset, dp_rank=rank, dp_world_size=RANKS, batch_size=LOCAL_BATCH, num_nodes=NODES
    )
    opened, open_memory = time.perf_counter() - begun, _own_memory() - before
    epoch = dataset.mixture.epoch_samples
    positions = [int(epoch * place) // BATCH * BATCH for place in PLACES]
    before, begun = _own_memory(), time.perf_counter()
    layout = Layout(rank, RANKS, LOCAL_BATCH)
    next(endless_batches(loader.run.source.sequence, layout, positions[-1]))
    start = time.perf_counter() - begun
    if algo != "feistel":
        # The next epoch is being ordered by now: wait, so that it does not take the core from us.
        loader.run.source.sequence.epoch(1)
    wall = processor = 0.0
    for position in positions:
        requests = endless_batches(loader.run.source.sequence, layout, position)
        for _ in range(16):
            next(requests)
        begun, begun_processor = time.perf_counter(), time.process_time()
        for _ in range(TIMED):
            next(requests)
        wall += time.perf_counter() - begun
        processor += time.process_time() - begun_processor
    count = TIMED * len(positions)
    return {
        "open_s": opened,
        "open_mb": open_memory / 1e6,
        "start_s": start,
        "order_mb": (_own_memory() - before) / 1e6,
        "batch_ms": wall / count * 1e3,
        "batch_cpu_ms": processor / count * 1e3,
    }


def _shards(algo: str, samples: int, work: str, batches: int | None) -> dict[str, Any]:
    """Which shards each node reads in the whole batches of an epoch, or in some spread over it.

    All batches: what nodes fetch twice is shards that are cut where one's part of the order ends,
    often with a few samples on one side, and few batches would overlook just those.
    """
    orders = str(Path(work) / f"scale-{samples}" / "cache" / "orders")
    sequence = _sequence(algo, samples, orders)
    # By default a canonical node for each node: its rows are that node's, as is checked below.
    assert sequence.options.num_canonical_nodes == NODES
    whole = sequence.epoch_length // BATCH
    count = whole if batches is None else min(batches, whole)
    touched = np.zeros((NODES, len(sequence.mixture.samples_per_shard)), bool)
    for number in range(count):
        start = number * whole // count * BATCH
        ids, owners = sequence.rows(start, start + BATCH)
        shards = sequence.mixture.locate(ids)[0]
        touched[owners, shards] = True
        if number % 100 == 0:
            _check_node(sequence, start, shards, owners, number // 100 % NODES)
    return {
        "batches": count,
        "per_node": touched.sum(axis=1).tolist(),
        "distinct": int(touched.any(axis=0).sum()),
    }


def _check_node(sequence: EpochSequence, start: int, shards: Any, owners: Any, node: int) -> None:
    """Check that the ranks of a node, as the loader sets them up, read the rows counted for it."""
    first = node * RANKS_PER_NODE
    read = [
        shard
        for rank in range(first, first + RANKS_PER_NODE)
        for shard in next(endless_batches(sequence, Layout(rank, RANKS, LOCAL_BATCH), start)).shards
    ]
    assert sorted(read) == sorted(shards[owners == node].tolist())


def _streaming(algo: str, samples: int, work: str) -> dict[str, Any]:
    """What mosaicml-streaming's first rank of each node computes at an epoch's start."""
    from streaming.base.dataset import StreamingDataset
    from streaming.base.partition import get_partitions
    from streaming.base.shuffle import get_shuffle

    mixture = _mixture(samples)
    total = mixture.epoch_samples
    sizes = [len(s.samples_per_shard) for s in mixture.streams]
    stub: Any = SimpleNamespace(
        shuffle_seed=SEED,
        sampling_method="balanced",
        sampling_granularity=1,
        epoch_seed_change=True,
        num_streams=len(sizes),
        streams=[SimpleNamespace(choose=s.choose) for s in mixture.streams],
        shards_per_stream=np.array(sizes),
        shard_offset_per_stream=mixture.stream_shards[:-1],
        samples_per_shard=mixture.samples_per_shard,
        sample_offset_per_shard=mixture.shard_offsets[:-1],
    )
    block = max(4_000_000 // NODES, 1 << 18)
    times = [time.perf_counter()]
    units, small = StreamingDataset.resample_streams(stub, 0)
    times.append(time.perf_counter())
    big = get_partitions("relaxed", total, NODES, NODES, RANKS_PER_NODE, 1, LOCAL_BATCH, 0, NODES)
    times.append(time.perf_counter())
    shuffle = get_shuffle(algo, units, NODES, SEED, 0, block)
    times.append(time.perf_counter())
    big = np.where(big != -1, shuffle[big], -1)
    ids = np.where(big != -1, small[big], -1)
    times.append(time.perf_counter())
    peak = memory("VmHWM")
    touched = np.zeros((NODES, len(mixture.samples_per_shard)), bool)
    for node in range(NODES):
        own = ids[node].ravel()
        touched[node, mixture.locate(own[own >= 0])[0]] = True
    steps = ["resample", "partition", "shuffle", "gather"]
    return {
        **dict(zip(steps, np.diff(times).tolist(), strict=True)),
        "peak_mb": peak / 1e6,
        "per_node": touched.sum(axis=1).tolist(),
        "distinct": int(touched.any(axis=0).sum()),
    }


CHILDREN = {"rank": _rank, "shards": _shards, "streaming": _streaming}


def _own_memory() -> int:
    """Bytes of this process's own; mapped files are shared by all ranks of a node."""
    return memory("RssAnon")


if __name__ == "__main__":
    main()
