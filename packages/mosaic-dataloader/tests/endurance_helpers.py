"""Real loaders taken through changes of layout, their state through torch's own checkpoints."""

import json
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed.checkpoint as dcp
from dataloader_helpers import Ranks, joined, write_rows
from hypothesis import strategies as st

from mosaic_dataloader.order.options import OrderOptions
from mosaic_dataloader.order.sequence import EpochSequence

# Rows of the two streams, by their numbers.
FIRST, SECOND = range(211), range(5000, 5097)


@dataclass(frozen=True)
class Leg:
    """The part of a run between two checkpoints."""

    ranks: int
    batch: int
    nodes: int
    workers: int
    prefetch: int | None
    predownload: int
    batches: int


@dataclass(frozen=True)
class Run:
    """A run: its mixture and order, the room of its cache, and its legs."""

    weights: tuple[dict[str, float], dict[str, float]]
    options: dict[str, Any]
    shards_cached: int
    legs: list[Leg]


@dataclass
class Figures:
    """What a test went through, for it to print."""

    runs: int = 0
    legs: int = 0
    batches: int = 0
    with_workers: int = 0
    evicted: int = 0
    epochs: int = 0
    by_algo: Counter[str] = field(default_factory=Counter)


legs = st.builds(
    Leg,
    ranks=st.integers(1, 4),
    batch=st.integers(1, 7),
    nodes=st.integers(1, 3),
    workers=st.sampled_from([0, 0, 1, 2]),
    prefetch=st.sampled_from([None, 1, 4]),
    predownload=st.sampled_from([0, 5, 64]),
    batches=st.integers(1, 12),
)
weights = st.sampled_from(
    [
        ({}, {}),
        ({"proportion": 0.7}, {"proportion": 0.3}),
        ({"repeat": 0.6}, {"repeat": 1.5}),
        # Epochs of few samples, of which a run sees several.
        ({"choose": 40}, {"choose": 70}),
        ({"choose": 9}, {"choose": 22}),
    ]
)


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    algo = draw(st.sampled_from(["py1e", "py1s", "py2s", "py1br", "naive", "feistel"]))
    # Left open they follow the first leg's nodes: 64 of them each for py1s and py2s.
    few = [1, 2, 3, 4, 8] if algo in ("py1s", "py2s") else [None, 1, 2, 3, 4, 8]
    return {
        "shuffle": draw(st.sampled_from([True, True, True, False])),
        "shuffle_algo": algo,
        "shuffle_seed": draw(st.integers(0, 1000)),
        "shuffle_block_size": draw(st.sampled_from([16, 60, 1000])),
        "num_canonical_nodes": draw(st.sampled_from(few)),
        "sampling_method": draw(st.sampled_from(["balanced", "fixed"])),
        "sampling_granularity": draw(st.sampled_from([1, 7])),
    }


runs = st.builds(
    Run,
    weights=weights,
    options=options(),
    shards_cached=st.integers(6, 16),
    legs=st.lists(legs, min_size=2, max_size=4),
)


@st.composite
def unit_runs(draw: st.DrawFn) -> Run:
    """A run whose order is built in units of the batch, which all layouts then share."""
    batch = draw(st.sampled_from([4, 8, 12]))
    changes = []
    for leg in draw(st.lists(legs, min_size=2, max_size=3)):
        ranks = draw(st.sampled_from([1, 2, 4]))
        nodes = draw(st.sampled_from([n for n in (1, 2) if not ranks % n]))
        changes.append(replace(leg, ranks=ranks, batch=batch // ranks, nodes=nodes))
    method = draw(st.sampled_from(["stratified", "per_stream", "device_per_stream"]))
    units = {"batching_method": method, "num_canonical_nodes": draw(st.sampled_from([2, 4]))}
    return Run(({}, {}), {**draw(options()), **units}, draw(st.integers(6, 16)), changes)


def write_stores(folder: Path) -> tuple[Path, Path]:
    """Two stores of packed shards, 7 rows each."""
    packed = {"size_limit": 700, "compression": "zstd", "hashes": ["sha1"]}
    write_rows(folder / "first", FIRST, **packed)
    write_rows(folder / "second", SECOND, **packed)
    return folder / "first", folder / "second"


def go_through(run: Run, stores: tuple[Path, Path], figures: Figures) -> None:
    """Read a run leg by leg and hold every global batch against the epoch lists."""
    folder = Path(tempfile.mkdtemp())
    try:
        _Traveller(run, stores, folder, figures).go()
    finally:
        shutil.rmtree(folder)


class _Traveller:
    def __init__(self, run: Run, stores: tuple[Path, Path], folder: Path, figures: Figures):
        self.run, self.stores, self.folder, self.figures = run, stores, folder, figures
        self.caches = (folder / "first", folder / "second")
        indexes = [s / "index.json" for s in stores]
        shards = [shard for i in indexes for shard in json.loads(i.read_text())["shards"]]
        # On its way, a shard takes its packed size too.
        largest = max(s["raw_data"]["bytes"] + s["zip_data"]["bytes"] for s in shards)
        self.limit = sum(i.stat().st_size for i in indexes) + run.shards_cached * largest
        self.handed_out: list[int] = []

    def ranks(self, leg: Leg) -> Ranks:
        streams = {
            name: {"remote": str(store), "local": str(cache), **weight}
            for name, store, cache, weight in zip(
                "ab", self.stores, self.caches, self.run.weights, strict=True
            )
        }
        return Ranks(
            streams,
            leg.ranks,
            batch_size=leg.batch,
            num_nodes=leg.nodes,
            num_workers=leg.workers,
            prefetch_factor=leg.prefetch,
            predownload=leg.predownload,
            cache_limit=self.limit,
            **self.run.options,
        )

    def order(self, ranks: Ranks, leg: Leg) -> EpochSequence:
        """The order as the pure function of data and options that it is."""
        resolved = OrderOptions(**self.run.options).resolve(
            num_nodes=leg.nodes, global_batch=leg.ranks * leg.batch, local_batch=leg.batch
        )
        return EpochSequence(ranks.loaders[0].dataset.mixture, resolved)

    def go(self) -> None:
        numbers = np.array([*FIRST, *SECOND])
        sequence: EpochSequence | None = None
        for number, leg in enumerate(self.run.legs):
            ranks = self.ranks(leg)
            try:
                sequence = sequence or self.order(ranks, leg)
                if number:
                    self.load(ranks, number - 1)
                for batch in ranks.batches(leg.batches):
                    begin = len(self.handed_out)
                    wanted = sequence.rows(begin, begin + leg.ranks * leg.batch)[0]
                    assert joined(batch) == sorted(numbers[wanted].tolist())
                    self.handed_out += joined(batch)
                self.save(ranks, number)
            finally:
                ranks.close()
                for one in ranks.loaders:
                    one.dataset.close()
            self.note(leg)
        assert sequence is not None
        self.figures.runs += 1
        self.figures.by_algo[self.run.options["shuffle_algo"]] += 1
        self.figures.epochs += len(self.handed_out) // sequence.epoch_length

    def save(self, ranks: Ranks, number: int) -> None:
        place = str(self.folder / f"checkpoint-{number}")
        dcp.save({"dataloader": ranks.loaders[-1]}, checkpoint_id=place, no_dist=True)

    def load(self, ranks: Ranks, number: int) -> None:
        """Every rank by itself, into a state that it has before."""
        place = str(self.folder / f"checkpoint-{number}")
        for one in ranks.loaders:
            dcp.load({"dataloader": one}, checkpoint_id=place, no_dist=True)
            assert one.samples_seen == len(self.handed_out)

    def note(self, leg: Leg) -> None:
        self.figures.legs += 1
        self.figures.batches += leg.batches
        self.figures.with_workers += bool(leg.workers)
        left = sum(1 for cache in self.caches for _ in cache.glob("*.mds"))
        size = sum(p.stat().st_size for c in self.caches for p in c.iterdir() if p.is_file())
        assert size <= self.limit, (size, self.limit)
        touched = len(set(self.handed_out))
        self.figures.evicted += left * 7 < touched
