"""Hugging Face Accelerate, which fetches a batch ahead.

torchrun --nproc-per-node 2 -m examples.accelerate.train

Run it again with more --steps: it goes on with the very next batch. `accelerate launch` starts it
as well.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, IterableDataset

from examples.tiny import SEQ_LEN, Log, TinyModel, arguments, loss_of, write_data
from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset


class Batches(IterableDataset[Any]):
    """The loader as torch's DataLoader and Accelerate want it: each item is a whole batch."""

    def __init__(self, loader: MosaicParallelAwareDataloader):
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        """Batches from the present position on."""
        return iter(self.loader)


class Step:
    """The number of steps done, as something that Accelerate saves and loads."""

    number = 0

    def state_dict(self) -> dict[str, int]:
        """What is saved."""
        return {"number": self.number}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take over what was saved."""
        self.number = state["number"]


def latest(folder: Path) -> Path | None:
    """The newest checkpoint."""
    return max(
        folder.glob("step-*"), key=lambda p: int(re.findall(r"\d+", p.name)[0]), default=None
    )


def save(accelerator: Accelerator, folder: Path, step: int) -> None:
    """Write a checkpoint under another name first, so that one that has its name is complete."""
    accelerator.save_state(str(folder / "unfinished"))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (folder / "unfinished").rename(folder / f"step-{step}")
    accelerator.wait_for_everyone()


def main() -> None:
    """Train."""
    args = arguments("accelerate")
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    with accelerator.main_process_first():
        write_data(args.out / "data")

    loader = MosaicParallelAwareDataloader(
        StreamingTextDataset(local=str(args.out / "data"), seq_len=SEQ_LEN, shuffle=True),
        dp_rank=accelerator.process_index,
        dp_world_size=accelerator.num_processes,
        batch_size=args.global_batch // accelerator.num_processes,
        confirm_batches=True,
    )
    # The loader has dealt the rows to the ranks already, so that Accelerate must not: it is told
    # of one process, and not to read in one rank for all. What is left to it is to move batches
    # to the device.
    batches = prepare_data_loader(
        DataLoader(Batches(loader), batch_size=None),
        device=accelerator.device,
        num_processes=1,
        process_index=0,
        put_on_device=True,
        dispatch_batches=False,
    )
    model = TinyModel()
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=3e-3))
    step = Step()
    accelerator.register_for_checkpointing(loader, step)
    folder = args.out / "checkpoints"
    if checkpoint := latest(folder):
        accelerator.load_state(str(checkpoint))

    log = Log(args.out, accelerator.process_index)
    if step.number >= args.steps:
        return
    for inputs, labels in batches:
        loss = loss_of(model(inputs["input"]), labels)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        # Accelerate holds the next batch already; only the one just trained on counts.
        loader.confirm()
        step.number += 1
        mean = accelerator.reduce(loss.detach(), "mean")
        log.step(step.number, mean.item(), inputs["input"])
        if step.number % args.save_every == 0 or step.number == args.steps:
            save(accelerator, folder, step.number)
        if step.number == args.steps:
            break

    loader.close()
    accelerator.end_training()


if __name__ == "__main__":
    main()
