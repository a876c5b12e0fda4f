"""Lightning, which fetches a batch ahead.

torchrun --nproc-per-node 2 -m examples.lightning.train

Run it again with more --steps: it goes on with the very next batch.
"""

import argparse
import os
import re
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from examples.tiny import SEQ_LEN, Log, TinyModel, arguments, loss_of, write_data
from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset


class ConfirmBatches(lightning.Callback):
    """Count a batch when its step is done, so that checkpoints do not skip what waits its turn.

    Lightning calls the callbacks that write checkpoints after all others, so they see it counted.
    """

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        """Confirm one batch."""
        trainer.train_dataloader.confirm()


class Data(lightning.LightningDataModule):
    """The loader of this rank. Lightning itself saves and loads its state."""

    def __init__(self, args: argparse.Namespace):
        super().__init__()
        self.args = args

    def prepare_data(self) -> None:
        """Called in one process of each machine."""
        write_data(self.args.out / "data")

    def train_dataloader(self) -> MosaicParallelAwareDataloader:
        """Called in every process."""
        return MosaicParallelAwareDataloader(
            StreamingTextDataset(local=str(self.args.out / "data"), seq_len=SEQ_LEN, shuffle=True),
            dp_rank=self.trainer.global_rank,
            dp_world_size=self.trainer.world_size,
            batch_size=self.args.global_batch // self.trainer.world_size,
            confirm_batches=True,
        )


class Model(lightning.LightningModule):
    """The model and its loss."""

    def __init__(self, out: Path):
        super().__init__()
        self.model, self.out = TinyModel(), out

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        """The loss of one batch."""
        inputs, labels = batch
        loss = loss_of(self.model(inputs["input"]), labels)
        mean = self.trainer.strategy.reduce(loss.detach(), reduce_op="mean")
        Log(self.out, self.global_rank).step(self.global_step + 1, mean.item(), inputs["input"])
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def latest(folder: Path) -> Path | None:
    """The newest checkpoint."""
    return max(
        folder.glob("*.ckpt"), key=lambda p: int(re.findall(r"step=(\d+)", p.name)[0]), default=None
    )


def main() -> None:
    """Train."""
    args = arguments("lightning")
    lightning.seed_everything(0)
    folder = args.out / "checkpoints"
    trainer = lightning.Trainer(
        # As many processes as torchrun has started on this machine.
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        strategy="ddp",
        max_steps=args.steps,
        callbacks=[
            ConfirmBatches(),
            ModelCheckpoint(folder, "{step}", every_n_train_steps=args.save_every, save_top_k=-1),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Model(args.out), datamodule=Data(args), ckpt_path=latest(folder))


if __name__ == "__main__":
    main()
