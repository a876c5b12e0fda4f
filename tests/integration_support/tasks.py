"""What a group of ranks can be asked to do. Each function runs in every rank of the group."""

import json
import os
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from streaming import MDSWriter
from torch import nn
from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.lr_scheduler import build_lr_schedulers
from torchtitan.components.optimizer import OptimizersContainer
from torchtitan.models.llama3 import Transformer
from torchtitan.protocols.train_spec import get_train_spec

from integration_support import recording
from integration_support.ledger import LEDGER, note
from integration_support.recording import recorded, tiny_args
from mosaic_config import MosaicConfigManager
from mosaic_dataloader import MosaicParallelAwareDataloader, StreamingTextDataset


def app(
    argv: list[str],
    launched_by_us: bool = True,
    record_batches: bool = True,
    shrink: str | None = None,
    loads_weights: bool = False,
) -> int:
    """Be a rank of the app, with this command line.

    Args:
        argv: The command line.
        launched_by_us: Whether the app's own launcher is said to have started the rank.
        record_batches: Note each batch, whose rows are then of one token each.
        shrink: A model of TorchTitan's whose flavors are cut to two layers, of few experts.
        loads_weights: Draw none at random: a checkpoint has them all.
    """
    import torchtitan.train

    import mosaic_dataloader
    from mosaic_train import cli

    if shrink is not None:
        cut_layers(shrink)
    if loads_weights:
        draw_no_weights()
    if not record_batches:
        mosaic_dataloader.build_mosaic_dataloader = recording.build_unrecorded
    if launched_by_us:
        os.environ["MOSAIC_TRAIN_LAUNCHER_PID"] = str(os.getppid())
    else:
        os.environ.pop("MOSAIC_TRAIN_LAUNCHER_PID", None)
    # TorchTitan ends with a sleep of two seconds, lest rank 0, which has the store, end before the
    # others. Here it waits for them instead, and no longer.
    impatient = types.ModuleType("time")
    impatient.__dict__.update(time.__dict__, sleep=lambda seconds: None)
    torchtitan.train.time = impatient
    code = cli.main(argv)
    if code == 0:
        end_together()
    return code


def cut_layers(name: str) -> None:
    """Make a model of TorchTitan's small, in this process."""
    for args in get_train_spec(name).model_args.values():
        args.n_layers = 2
        if hasattr(args, "moe_inter_dim"):
            args.moe_inter_dim = 64
        if getattr(args, "moe_args", None) is not None:
            args.moe_args.num_experts, args.moe_args.top_k = 4, 2


def draw_no_weights() -> None:
    """Leave weights as memory is; cut over ranks, to draw them takes a third of a short run."""

    def leave(tensor: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return tensor

    for name, module in list(sys.modules.items()):
        if name.startswith("torchtitan.models") and hasattr(module, "trunc_normal_"):
            module.trunc_normal_ = leave
    nn.init.normal_ = leave


def end_together() -> None:
    """Have rank 0 wait until all ranks are here."""
    folder = Path(os.environ[LEDGER])
    (folder / f"rank{os.environ['RANK']}.done").touch()
    deadline = time.monotonic() + 20
    while os.environ["RANK"] == "0" and time.monotonic() < deadline:
        if len(list(folder.glob("rank*.done"))) == int(os.environ["WORLD_SIZE"]):
            break
        time.sleep(0.01)


def write_rows(out: str, rows: list[list[int]], size_limit: int = 8000) -> None:
    """Write rows of tokens as MDS shards."""
    with MDSWriter(out=out, columns={"tokens": "ndarray:int32"}, size_limit=size_limit) as writer:
        for row in rows:
            writer.write({"tokens": np.array(row, np.int32)})


def order(streams: dict[str, Any], count: int, seq_len: int, **options: Any) -> None:
    """Note the first row numbers of a loader that knows of no other rank."""
    dataset = StreamingTextDataset(seq_len=seq_len, streams=streams, **options)
    loader = MosaicParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=1)
    batches = iter(loader)
    rows = [int(next(batches)[0]["input"][0, 0]) for _ in range(count)]
    note("order", rows=rows, epoch=json.loads(loader.state_dict()["mosaic"])["epoch_samples"])
    loader.close()


class TrainState:
    """The step, which TorchTitan's Trainer keeps in a checkpoint."""

    def __init__(self) -> None:
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]


def packed_order(streams: dict[str, Any], count: int, seq_len: int, **options: Any) -> None:
    """Note the first packed rows of a loader that knows of no other rank."""
    dataset = StreamingTextDataset(seq_len=seq_len, streams=streams, packing=True, **options)
    loader = MosaicParallelAwareDataloader(dataset, dp_rank=0, dp_world_size=1, batch_size=1)
    batches = iter(loader)
    note("packed", rows=[row for _ in range(count) for row in _packed_rows(next(batches))])
    loader.close()


def _packed_rows(batch: Any) -> list[list[int]]:
    """Rows of T+1 tokens."""
    inputs, labels = batch[0]["input"], batch[1]
    assert inputs[:, 1:].equal(labels[:, :-1])
    rows: list[list[int]] = torch.cat([inputs, labels[:, -1:]], dim=1).tolist()
    return rows


def leg(
    argv: list[str],
    batches: int,
    beyond: int,
    load_step: int = -1,
    packed: bool = False,
    killed: bool = False,
) -> None:
    """A piece of a run: load, then save after each batch, then go on without saving.

    TorchTitan's CheckpointManager, with optimizer and scheduler, drives the loader as its Trainer
    does; only the model is of no account.

    Args:
        argv: The app's command line.
        batches: How many are taken and saved.
        beyond: How many are taken after that.
        load_step: What is loaded; the latest step by default.
        packed: Note batches as rows of tokens; otherwise each row is of one token, its number.
        killed: End by SIGKILL.
    """
    from mosaic_dataloader.builders import build_mosaic_dataloader

    config: Any = MosaicConfigManager().parse_args(argv)
    dist.init_process_group("gloo")
    build = build_mosaic_dataloader if packed else recorded(build_mosaic_dataloader)
    loader: Any = build(
        dp_world_size=dist.get_world_size(),
        dp_rank=dist.get_rank(),
        tokenizer=None,
        job_config=config,
    )
    loader.state_dict()
    model, train_state = nn.Linear(4, 4), TrainState()
    optimizers = OptimizersContainer([model], torch.optim.AdamW, {"lr": 1e-3})
    manager = CheckpointManager(
        dataloader=loader,
        model_parts=[model],
        optimizers=optimizers,
        lr_schedulers=build_lr_schedulers(optimizers, config.lr_scheduler, 1000),
        states={"train_state": train_state},
        checkpoint_config=config.checkpoint,
        sd_adapter=None,
        base_folder=config.job.dump_folder,
    )
    note("start", loaded=manager.load(load_step), step=train_state.step)
    iterator = iter(loader)
    for number in range(batches + beyond):
        inputs, labels = next(iterator)
        if packed:
            note("packed", rows=_packed_rows((inputs, labels)), state=loader.state_dict())
        model(inputs["input"][:, :4].float()).sum().backward()
        optimizers.step()
        optimizers.zero_grad()
        train_state.step += 1
        if number < batches:
            manager.save(train_state.step)
        else:
            loader.state_dict()
    if manager.save_future is not None:
        manager.save_future.result()
    manager.close()
    if killed:
        os.kill(os.getpid(), signal.SIGKILL)
    loader.close()
    dist.barrier()
    dist.destroy_process_group()


def loss_sums(checkpoint: str, streams: dict[str, list[list[int]]], seq_len: int) -> None:
    """Note a checkpoint's loss, summed, and the targets, of each stream's rows.

    Nothing of the project is in it.
    """
    import torch.distributed.checkpoint as dcp

    args = tiny_args()
    args.max_seq_len = seq_len
    model = Transformer(args)
    with torch.no_grad():
        model.init_weights()  # of which the table of rotations is in no checkpoint
    state = model.state_dict()
    dcp.load(state, checkpoint_id=checkpoint, no_dist=True)
    model.load_state_dict(state)
    found: dict[str, tuple[float, int]] = {}
    for name, rows in streams.items():
        total, targets = 0.0, 0
        with torch.no_grad():
            for row in rows:
                tokens = torch.tensor(row[: seq_len + 1])
                logits = model(tokens[None, :seq_len]).double()[0, : len(tokens) - 1]
                picked = logits.log_softmax(-1).gather(1, tokens[1:, None])
                total, targets = total - float(picked.sum()), targets + len(picked)
        found[name] = (total, targets)
    note("loss_sums", streams=found)
