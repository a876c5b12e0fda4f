"""Reading from a slow store: how much of the network is used, and whether training waits."""

import functools
import gc
import itertools
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rows_data, slow_store
from benchmarks.common import (
    arguments,
    interleaved,
    machine,
    median,
    progress,
    report,
    table,
    verdict,
)
from mosaic_dataloader.storage.mosaicml import forget_shared

ROWS = 12_000
SHARD_BYTES = 1 << 22
BATCH = 16
# Four shards: an order that needs few at a time, as long ones do that outgrow their cache.
BLOCK = 2_048
LATENCY = 0.05
BANDWIDTH = 24e6
# 16 rows of 8 KB in this time are 2/3 of the bandwidth.
STEP = BATCH * rows_data.ROW_TOKENS * 4 / BANDWIDTH * 1.5
STEPS, WARM_UP = 600, 60
OURS, STREAMING = "mosaic-dataloader", "StreamingDataset"
FAR = "StreamingDataset, predownload of 16 shards"
SEED = 7

Begin = Callable[[Path, bool], Iterator[Any]]


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    given = parser.parse_args(arguments_given)
    where = machine()
    folder = _data(given.work)
    size = sum(p.stat().st_size for p in folder.iterdir())
    shards = len(list(folder.glob("*.mds")))
    # The index, and then shards without a gap.
    least = size / BANDWIDTH + 2 * LATENCY
    os.environ.update(
        AWS_ACCESS_KEY_ID="any", AWS_SECRET_ACCESS_KEY="any", AWS_DEFAULT_REGION="us-east-1"
    )
    loaders: dict[str, Begin] = {
        OURS: _ours,
        STREAMING: _streaming,
        FAR: functools.partial(_streaming, predownload=16 * ROWS // shards),
    }
    with slow_store.running(folder, LATENCY, BANDWIDTH) as port:
        os.environ["S3_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        contenders = {
            (name, shuffle): functools.partial(_read_all, begin, shuffle)
            for name, begin in loaders.items()
            for shuffle in (False, True)
        }
        # Importing the SDKs is no part of it.
        _read_all(_ours, False, rows=BATCH)
        _read_all(_streaming, False, rows=BATCH)
        seconds = interleaved(contenders, given.rounds)
        waits = {}
        for name, begin in loaders.items():
            progress(f"steps: {name}")
            waits[name] = _waits(begin)
    lines = []
    for (name, shuffle), taken in seconds.items():
        used = least / median(taken)
        goal = verdict(used, 0.9) if name == OURS else ""
        order = f"py1e, blocks of {BLOCK:,}" if shuffle else "stored"
        lines.append([name, order, f"{median(taken):.2f}", f"{used:.2f}", goal])
    step_lines = []
    for name, found in waits.items():
        share = sum(found) / (len(found) * STEP)
        step_lines.append(
            [
                name,
                f"{median(found) * 1e3:.2f}",
                f"{float(np.percentile(found, 99)) * 1e3:.2f}",
                f"{max(found) * 1e3:.1f}",
                f"{share:.1%}",
                verdict(share, 0.01, at_most=True) if name == OURS else "",
            ]
        )
    intro = (
        f"{size / 1e6:.0f} MB in {shards} shards on an S3 over HTTP with "
        f"{LATENCY * 1e3:.0f} ms latency per request and {BANDWIDTH / 1e6:.0f} MB/s over all "
        f"connections, an empty cache, one process, no workers, batch {BATCH}; medians of "
        f"{given.rounds} rounds. The network alone needs {least:.2f} s."
    )
    parts = [
        table(["reads everything", "order", "s", "of the network", "target"], lines),
        f"A simulated step of {STEP * 1e3:.1f} ms takes two thirds of the bandwidth; waits for "
        f"a batch in {STEPS} steps after {WARM_UP} to warm up, shuffled as above.",
        table(["ms waited", "median", "p99", "most", "of the step", "target"], step_lines),
    ]
    named = {
        f"{name}, {'shuffled' if s else 'stored'}": taken for (name, s), taken in seconds.items()
    }
    figures = {"seconds": named, "least": least, "waits": waits}
    report(given, "remote", "A slow store", intro, parts, figures, where)
    sys.stdout.flush()


def _data(work: Path) -> Path:
    def write(folder: Path) -> None:
        from streaming import MDSWriter

        columns = {"tokens": f"ndarray:int32:{rows_data.ROW_TOKENS}"}
        with MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as writer:
            for row in rows_data.rows()[:ROWS]:
                writer.write({"tokens": row})

    return rows_data.once(work / "remote", write)


def _ours(cache: Path, shuffle: bool) -> Iterator[Any]:
    from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

    dataset = StreamingTextDataset(
        seq_len=rows_data.ROW_TOKENS - 1,
        remote="s3://bucket/data",
        local=str(cache),
        cache_dir=str(cache / "orders"),
        shuffle=shuffle,
        shuffle_seed=SEED,
        shuffle_block_size=BLOCK,
    )
    loader = MosaicParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=BATCH)
    try:
        yield from loader
    finally:
        loader.close()
        dataset.close()


def _streaming(cache: Path, shuffle: bool, predownload: int | None = None) -> Iterator[Any]:
    from streaming import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(
        remote="s3://bucket/data",
        local=str(cache),
        shuffle=shuffle,
        shuffle_seed=SEED,
        shuffle_block_size=BLOCK,
        batch_size=BATCH,
        num_canonical_nodes=1,
        predownload=predownload,
    )
    yield from StreamingDataLoader(dataset, batch_size=BATCH)


def _read_all(begin: Begin, shuffle: bool, rows: int = ROWS) -> float:
    """Seconds from nothing to the last batch."""
    # As in a new process: no client is there, and no garbage of earlier rounds is collected.
    forget_shared()
    gc.collect()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        started = time.perf_counter()
        batches = begin(Path(cache), shuffle)
        for _ in itertools.islice(batches, rows // BATCH):
            pass
        taken = time.perf_counter() - started
        batches.close()  # type: ignore[attr-defined]
    return taken


def _waits(begin: Begin) -> list[float]:
    """Seconds that each step waits for its batch."""
    cache = Path(tempfile.mkdtemp())
    waits = []
    batches = begin(cache, True)
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        batch = next(batches)
        waits.append(time.perf_counter() - started)
        time.sleep(STEP)
        # As a trainer does, which lets it go after the step.
        del batch
    batches.close()  # type: ignore[attr-defined]
    shutil.rmtree(cache, ignore_errors=True)
    return waits[WARM_UP:]


if __name__ == "__main__":
    main()
