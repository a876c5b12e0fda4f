"""mosaicml-streaming's StreamingDataset and StreamingDataLoader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def batches(folder: Path, batch: int, workers: int = 0) -> Iterator[Any]:
    from streaming import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch)
    loader = StreamingDataLoader(dataset, batch_size=batch, num_workers=workers)
    while True:
        yield from loader
