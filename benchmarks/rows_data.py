"""The same token rows in the format of each loader, written once into a working folder."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset

ROWS = 20_000
# Inputs and labels of 2,048.
ROW_TOKENS = 2_049
VOCABULARY = 50_000
SHARD_BYTES = 1 << 24


def rows() -> NDArray[np.int32]:
    """int32[ROWS, ROW_TOKENS]."""
    return np.random.default_rng(0).integers(0, VOCABULARY, (ROWS, ROW_TOKENS), np.int32)


def once(folder: Path, write: Callable[[Path], None]) -> Path:
    """The folder, written unless an earlier run has."""
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write(partial)
        os.rename(partial, folder)
    return folder


def mds(work: Path) -> Path:
    def write(folder: Path) -> None:
        from streaming import MDSWriter

        columns = {"tokens": f"ndarray:int32:{ROW_TOKENS}"}
        with MDSWriter(out=str(folder), columns=columns, size_limit=SHARD_BYTES) as writer:
            for row in rows():
                writer.write({"tokens": row})

    return once(work / "mds", write)


def loader(
    work: Path, batch: int, workers: int = 0, **options: Any
) -> MosaicParallelAwareDataloader:
    """This project's loader of these rows, shuffled."""
    dataset = StreamingTextDataset(
        seq_len=ROW_TOKENS - 1,
        local=str(mds(work)),
        shuffle=True,
        cache_dir=str(work / "cache"),
        **options,
    )
    return MosaicParallelAwareDataloader(
        dataset, dp_rank=0, dp_world_size=1, batch_size=batch, num_workers=workers
    )


def flat_uint16(work: Path) -> Path:
    """One file of all tokens, end to end: what OLMo-core and grain's array sources read."""

    def write(folder: Path) -> None:
        rows().astype(np.uint16).tofile(folder / "tokens.npy")

    return once(work / "flat", write)


def _row(index: int) -> "object":
    import torch

    rng = np.random.default_rng(index)
    return torch.from_numpy(rng.integers(0, VOCABULARY, ROW_TOKENS).astype(np.int32))


def litdata(work: Path) -> Path:
    def write(folder: Path) -> None:
        from litdata import TokensLoader, optimize

        optimize(
            fn=_row,
            inputs=list(range(ROWS)),
            output_dir=str(folder),
            chunk_size=2048 * ROW_TOKENS,
            item_loader=TokensLoader(),
            num_workers=2,
            mode="overwrite",
            verbose=False,
        )

    return once(work / "litdata", write)
