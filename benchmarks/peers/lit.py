"""litdata's StreamingDataset with its TokensLoader."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def batches(folder: Path, batch: int, row_tokens: int, workers: int = 0) -> Iterator[Any]:
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    dataset = StreamingDataset(
        str(folder), item_loader=TokensLoader(block_size=row_tokens), shuffle=True, drop_last=True
    )
    loader = StreamingDataLoader(dataset, batch_size=batch, num_workers=workers)
    while True:
        yield from loader
