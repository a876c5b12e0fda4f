"""Rows per second out of cached shards: this loader, its peers, and a bare copy of the rows."""

import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import rows_data
from benchmarks.common import (
    arguments,
    interleaved,
    machine,
    median,
    ratio,
    report,
    table,
    verdict,
)
from benchmarks.peers import grains, lit, mosaicml, olmo
from mosaic_dataloader import MosaicParallelAwareDataloader
from mosaic_dataloader.reading.workers import ReadAhead

BATCH = 8
SEQ_LEN = rows_data.ROW_TOKENS - 1
BARE, MAIN, THREAD = "bare gather", "mosaic-dataloader, main thread", "mosaic-dataloader"
ONE_CALL = "bare gather, one call a batch"
STREAMING, LITDATA = "StreamingDataLoader", "litdata TokensLoader"
OLMO, GRAIN = "OLMo-core", "grain"
POSITIONS = "mosaic-dataloader, with positions"
# What the ratio of the first to the second is to be, at least.
TARGETS = [
    (MAIN, BARE, 0.7),
    (THREAD, BARE, 0.5),
    (THREAD, STREAMING, 35),
    (THREAD, LITDATA, 1.5),
    (THREAD, OLMO, 3),
    (THREAD, GRAIN, 3),
    # A third int64 tensor beside inputs and labels.
    (POSITIONS, THREAD, 0.85),
]


def main(arguments_given: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=1.5, help="per contender and round")
    given = parser.parse_args(arguments_given)
    where = machine()
    work = given.work
    ours = rows_data.loader(work, BATCH)
    contenders: dict[str, Callable[[], Iterator[Any]]] = {
        BARE: lambda: _bare(ours),
        ONE_CALL: lambda: _bare_one_call(ours),
        MAIN: lambda: _in_this_thread(ours),
        POSITIONS: lambda: _cycled(
            rows_data.loader(work, BATCH, positions=True, tokenizer=_Tokenizer())
        ),
        **_loaders(work, workers=0),
    }
    rates = _measured(contenders, given.rounds, given.seconds)
    worker_rates = _measured(_loaders(work, workers=2), given.rounds, given.seconds)
    lines = [
        [name, f"{median(own):,.0f}", f"{ratio(own, rates[BARE]):.2f}"]
        for name, own in sorted(rates.items(), key=lambda item: -median(item[1]))
    ]
    goals = [_goal(rates, name, other, target) for name, other, target in TARGETS]
    goals += [
        _goal(worker_rates, THREAD, other, 1.0, ", 2 workers each")
        for other in (STREAMING, LITDATA, OLMO, GRAIN)
    ]
    workers = [[name, f"{median(own):,.0f}"] for name, own in worker_rates.items()]
    intro = (
        f"{rows_data.ROWS:,} rows of {rows_data.ROW_TOKENS:,} int32 tokens in cached local "
        f"shards, batch {BATCH}, shuffled, one process; medians of {given.rounds} rounds."
    )
    parts = [
        table(["no workers", "rows/s", "of the bare gather"], lines),
        table(["2 worker processes", "rows/s"], workers),
        table(["ratio", "median", "target"], goals),
    ]
    report(
        given,
        "hot",
        "Hot path",
        intro,
        parts,
        {"rates": rates, "worker_rates": worker_rates},
        where,
    )
    sys.stdout.flush()


def _in_this_thread(ours: MosaicParallelAwareDataloader) -> Iterator[Any]:
    """The loader's batches without its thread: what each costs to make."""
    reader, run = ours._reader, ours.run
    return reader._ready(run.source.batches(run.progress, None, ReadAhead(reader._depth)), None)


def _loaders(work: Path, workers: int) -> dict[str, Callable[[], Iterator[Any]]]:
    """This loader and its peers, each with so many worker processes."""
    row_tokens = rows_data.ROW_TOKENS
    return {
        THREAD: lambda: _cycled(rows_data.loader(work, BATCH, workers)),
        STREAMING: lambda: mosaicml.batches(rows_data.mds(work), BATCH, workers),
        LITDATA: lambda: lit.batches(rows_data.litdata(work), BATCH, row_tokens, workers),
        OLMO: lambda: olmo.batches(
            rows_data.flat_uint16(work),
            work / f"olmo-{workers}",
            BATCH,
            row_tokens,
            rows_data.VOCABULARY,
            workers,
        ),
        GRAIN: lambda: grains.batches(rows_data.flat_uint16(work), BATCH, row_tokens, workers),
    }


def _goal(
    rates: dict[str, list[float]], name: str, other: str, target: float, note: str = ""
) -> list[str]:
    found = ratio(rates[name], rates[other])
    return [f"{name} / {other}{note}", f"{found:.2f}", verdict(found, target)]


class _Tokenizer:
    """Says which token ends a document: one of 50,000, so that few rows hold one."""

    eos_token_id = 0
    pad_token_id = 0


def _cycled(loader: MosaicParallelAwareDataloader) -> Iterator[Any]:
    try:
        yield from loader
    finally:
        loader.close()


def _rows(loader: MosaicParallelAwareDataloader) -> list[Any]:
    """Every row of an epoch in its order, as a view into the map of its shard."""
    store, mixture = loader.dataset.store, loader.dataset.mixture
    maps = []
    for shard in range(len(mixture.samples_per_shard)):
        with store.reading(shard) as opened:
            maps.append(opened.uniform)
    ids = loader.run.source.sequence.epoch(0).rows(0, mixture.num_samples)[0]
    shards, places = mixture.locate(ids)
    return [
        maps[shard][place] for shard, place in zip(shards.tolist(), places.tolist(), strict=True)
    ]


def _bare(loader: MosaicParallelAwareDataloader) -> Iterator[Any]:
    """The copy alone, row by row: everything else was done before."""
    rows = _rows(loader)
    while True:
        for first in range(0, len(rows) - BATCH + 1, BATCH):
            inputs = torch.empty((BATCH, SEQ_LEN), dtype=torch.int64)
            labels = torch.empty((BATCH, SEQ_LEN), dtype=torch.int64)
            into, targets = inputs.numpy(), labels.numpy()
            for row in range(BATCH):
                tokens = rows[first + row]
                into[row] = tokens[:-1]
                targets[row] = tokens[1:]
            yield inputs, labels


def _bare_one_call(loader: MosaicParallelAwareDataloader) -> Iterator[Any]:
    """The same through a buffer: the fastest way with numpy that was found."""
    rows = _rows(loader)
    while True:
        for first in range(0, len(rows) - BATCH + 1, BATCH):
            inputs = np.empty((BATCH, SEQ_LEN), np.int64)
            labels = np.empty((BATCH, SEQ_LEN), np.int64)
            gathered = np.concatenate(rows[first : first + BATCH]).reshape(BATCH, -1)
            inputs[...] = gathered[:, :-1]
            labels[...] = gathered[:, 1:]
            yield torch.from_numpy(inputs), torch.from_numpy(labels)


def _measured(
    contenders: dict[str, Callable[[], Iterator[Any]]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    # Every loader is started once and continues in each round, so that all have their shards open.
    running = {name: begin() for name, begin in contenders.items()}
    return interleaved(
        {name: lambda own=own: _rate(own, seconds) for name, own in running.items()}, rounds
    )


def _rate(batches: Iterator[Any], seconds: float) -> float:
    """Rows per second, not counting what was kept ready and the first look at each shard."""
    for _ in itertools.islice(batches, 256):
        pass
    count, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        for _ in itertools.islice(batches, 16):
            pass
        count += 16
    return count * BATCH / passed


if __name__ == "__main__":
    main()
