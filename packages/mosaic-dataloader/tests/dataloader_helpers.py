"""Making data sets whose rows say which they are, and reading that back."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import streaming.base.format.base.writer as mds_writer
from streaming import MDSWriter

from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

SEQ_LEN = 16

# MDSWriter looks once a second whether its thread has taken the last shard.
mds_writer.sleep = lambda seconds: time.sleep(seconds / 100)


def write_rows(
    out: Path, numbers: Iterable[int], *, length: int = SEQ_LEN + 1, **options: Any
) -> str:
    """Write rows of ``length`` tokens that all equal the row's number."""
    options.setdefault("columns", {"tokens": "ndarray:int32"})
    options.setdefault("size_limit", 8000)
    with MDSWriter(out=str(out), **options) as writer:
        for number in numbers:
            writer.write({"tokens": np.full(length, number, np.int32)})
    return str(out)


def loader(local: Any, **options: Any) -> MosaicParallelAwareDataloader:
    """A loader over a directory or over streams, with defaults for what a test leaves open."""
    names = ("dp_rank", "dp_world_size", "batch_size", "num_nodes", "num_workers", "infinite")
    names += ("drop_last", "prefetch_factor", "persistent_workers")
    names += ("confirm_batches", "skip_samples", "stall_warning")
    mine = {name: options.pop(name) for name in names if name in options}
    mine = {"dp_rank": 0, "dp_world_size": 1, "batch_size": 8, **mine}
    source = {"streams": local} if isinstance(local, dict) else {"local": local} if local else {}
    options.setdefault("shuffle", True)
    return MosaicParallelAwareDataloader(
        StreamingTextDataset(seq_len=SEQ_LEN, **source, **options), **mine
    )


def numbers(batch: Any) -> list[int]:
    """The row numbers of a batch, -1 for rows of padding; checks the rest of each row."""
    inputs, labels = batch[0]["input"], batch[1]
    found = []
    for row, label in zip(inputs.tolist(), labels.tolist(), strict=True):
        if set(label) == {-100}:
            found.append(-1)
            continue
        assert set(row) == set(label), "a row mixes samples"
        found.append(row[0])
    return found


def take(iterator: Iterator[Any], count: int) -> list[list[int]]:
    """Row numbers of the next batches."""
    return [numbers(next(iterator)) for _ in range(count)]


class Ranks:
    """All ranks of a layout, side by side in this process."""

    def __init__(self, local: Any, world_size: int, **options: Any):
        self.loaders = [
            loader(local, dp_rank=r, dp_world_size=world_size, **options) for r in range(world_size)
        ]

    def load(self, state: dict[str, str]) -> "Ranks":
        for one in self.loaders:
            one.load_state_dict(state)
        return self

    def batches(self, count: int) -> list[list[list[int]]]:
        """``count`` global batches, each a list of the ranks' rows."""
        iterators = [iter(one) for one in self.loaders]
        found = [[numbers(next(i)) for i in iterators] for _ in range(count)]
        states = {one.state_dict()["mosaic"] for one in self.loaders}
        assert len(states) == 1, "the ranks' states differ"
        return found

    @property
    def state(self) -> dict[str, str]:
        return self.loaders[0].state_dict()

    def close(self) -> None:
        for one in self.loaders:
            one.close()


def joined(batch: list[list[int]]) -> list[int]:
    """One global batch's rows over all ranks, sorted."""
    return sorted(row for rows in batch for row in rows)
