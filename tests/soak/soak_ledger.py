"""What every rank of the soak job imports (`experimental.custom_import`).

It notes each batch that the loader hands to the Trainer, before the Trainer gets it: outside the
loader, one line in one write to a file opened for appending, so that a kill loses no whole line and
mixes none. It also makes the store slow, and the model tiny.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from streaming.base.storage.download import LocalDownloader
from torchtitan.models.llama3 import TransformerModelArgs, llama3_args
from torchtitan.train import Trainer

import mosaic_dataloader

build = mosaic_dataloader.build_mosaic_dataloader
train_step = Trainer.train_step
current_step = 0


def slow_copy(self: Any, remote: str, local: str, timeout: float) -> None:
    """Copy in four parts, so that a kill can hit half a file."""
    data = Path(remote).read_bytes()
    seconds = float(os.environ["SOAK_SECONDS_PER_SHARD"])
    with open(local, "wb", 0) as out:
        for part in range(4):
            out.write(data[part * len(data) // 4 : (part + 1) * len(data) // 4])
            time.sleep(seconds / 4)


def numbered_train_step(self: Trainer, data_iterator: Any) -> None:
    """Know which of the Trainer's own steps asks for batches."""
    global current_step
    current_step = self.step
    train_step(self, data_iterator)


class Noted:
    """A loader whose batches are written down when they are handed out."""

    def __init__(self, loader: Any):
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        life, rank = os.environ["SOAK_LIFE"], os.environ["RANK"]
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        file = os.open(os.environ["SOAK_LEDGER"], flags, 0o600)
        for batch in self._loader:
            rows = ",".join(map(str, row_numbers(batch)))
            line = f"{life} {current_step} {rank} {self._loader.dp_rank} {rows}\n"
            os.write(file, line.encode())
            yield batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    # Named, because checkpointing looks for them on the class.
    def state_dict(self) -> dict[str, str]:
        return self._loader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._loader.load_state_dict(state)


def row_numbers(batch: Any) -> list[int]:
    """The rows' numbers, from their tokens; -1 for a row that is not one number throughout."""
    rows = torch.cat([batch[0]["input"], batch[1]], dim=1)
    same = (rows == rows[:, :1]).all(dim=1)
    return torch.where(same, rows[:, 0], -1).tolist()


def build_noted(**options: Any) -> Noted:
    return Noted(build(**options))


# The app takes the builder from here each time it registers its spec.
mosaic_dataloader.build_mosaic_dataloader = build_noted
LocalDownloader._download_file_impl = slow_copy
Trainer.train_step = numbered_train_step
llama3_args["soak"] = TransformerModelArgs(dim=32, n_layers=1, n_heads=4, vocab_size=2048)
