"""FSDP2 and torch.distributed.checkpoint in a plain loop.

torchrun --nproc-per-node 2 -m examples.fsdp2.train

Run it again with more --steps, and with another number of processes: it goes on with the very next
batch.
"""

import re
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from examples.tiny import SEQ_LEN, Log, TinyModel, arguments, loss_of, write_data
from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset


class Progress:
    """Model, optimizer and step, as the checkpoint wants them."""

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer):
        self.model, self.optimizer, self.step = model, optimizer, 0

    def state_dict(self) -> dict[str, Any]:
        """What is saved."""
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer, "step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what was saved, under any number of ranks."""
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        self.step = state["step"]


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint: its metadata are written last."""
    complete = [p.parent for p in folder.glob("step-*/.metadata")]
    return max(complete, key=lambda p: int(re.findall(r"\d+", p.name)[0]), default=None)


def main() -> None:
    """Train."""
    args = arguments("fsdp2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dist.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
    # Here all ranks are data-parallel. With tensor or pipeline parallelism, take rank and size of
    # the data-parallel part of the mesh: the ranks of one model replica then get the same rows.
    mesh = init_device_mesh(device, (dist.get_world_size(),), mesh_dim_names=("dp",))
    if dist.get_rank() == 0:
        write_data(args.out / "data")
    dist.barrier()

    loader = MosaicParallelAwareDataloader(
        StreamingTextDataset(local=str(args.out / "data"), seq_len=SEQ_LEN, shuffle=True),
        dp_rank=mesh.get_local_rank(),
        dp_world_size=mesh.size(),
        batch_size=args.global_batch // mesh.size(),
    )

    torch.manual_seed(0)
    model = TinyModel().to(device)
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if device == "cpu":
        for module in (*model.blocks, model):
            # gloo cannot scale while it reduces.
            module.set_force_sum_reduction_for_comms(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

    progress = Progress(model, optimizer)
    # The loader is saved as it is: it has state_dict and load_state_dict.
    state = {"progress": progress, "data": loader}
    checkpoint = latest(args.out / "checkpoints")
    if checkpoint:
        dcp.load(state, checkpoint_id=checkpoint)

    log = Log(args.out, dist.get_rank())
    batches = iter(loader)
    while progress.step < args.steps:
        inputs, labels = next(batches)
        tokens, labels = inputs["input"].to(device), labels.to(device)
        loss = loss_of(model(tokens), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        dist.all_reduce(loss := loss.detach())
        log.step(progress.step, loss.item() / mesh.size(), tokens)
        if progress.step % args.save_every == 0 or progress.step == args.steps:
            dcp.save(state, checkpoint_id=args.out / "checkpoints" / f"step-{progress.step}")

    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
