"""Ranks that run torchtitan's command for one job after the other, and write what they saw.

Its input names a JSON file with lists of jobs, each with `name`, `world`, `port` and `args`, and
where the tests' data are. Each list has ranks of its own, beside those of the others. All share
the imports, which take longer than any of the jobs.
"""

import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import time
import traceback
import types
from pathlib import Path
from typing import Any

import torch
import torchtitan.trainer
from torch.distributed.tensor.debug import _clear_sharding_prop_cache
from torchtitan.trainer import Trainer

from mosaic_titan import MosaicDataLoader, MosaicMetricsProcessor, cpu

_seen: dict[str, Any] = {}


def _observe() -> None:
    """Note the rows of each micro-batch, the losses, and what an examined run is asked."""
    iterate, log = MosaicDataLoader.__iter__, MosaicMetricsProcessor.log
    log_validation, run = MosaicMetricsProcessor.log_validation, Trainer.train

    def noted(self: MosaicDataLoader) -> Any:
        # The loader of validation lists its own rows.
        rows = _seen.setdefault(
            "rows" if getattr(self.loader, "infinite", False) else "validated", []
        )
        for batch in iterate(self):
            assert set(batch[0]) == {"input", "positions"}
            if (batch[1] >= 0).any():
                rows.append(batch[0]["input"][:, :2].tolist())
            yield batch

    def logged(self: Any, step: int, loss: float, *more: Any, **options: Any) -> None:
        _seen.setdefault("losses", {})[step] = loss
        log(self, step, loss, *more, **options)
        _seen["data"] = self._data_metrics()

    def validated(self: Any, loss: float, step: int, extra_metrics: dict[str, float]) -> None:
        _seen.setdefault("validation", {})[step] = loss
        _seen.setdefault("by_stream", {})[step] = extra_metrics
        log_validation(self, loss, step, extra_metrics)

    def trained(self: Trainer) -> None:
        if not _seen["examine"]:
            run(self)
            # In place of the two seconds that rank 0 gives the others.
            torch.distributed.barrier()
            return
        self.checkpointer.load(step=self.config.checkpoint.load_step)
        self.validator.validate(self.model_parts, 0)
        if torch.distributed.get_world_size() == 1:
            _examine(self)

    def line(record: logging.LogRecord) -> bool:
        if " begins at step " in record.getMessage():
            _seen.setdefault("begun", []).append(record.getMessage())
        return True

    # torchtitan removes the handlers.
    logging.getLogger().addFilter(line)
    MosaicDataLoader.__iter__ = noted  # type: ignore[method-assign]
    MosaicMetricsProcessor.log = logged  # type: ignore[method-assign]
    MosaicMetricsProcessor.log_validation = validated  # type: ignore[method-assign]
    Trainer.train = trained  # type: ignore[method-assign]
    impatient = types.ModuleType("time")
    impatient.__dict__.update(time.__dict__, sleep=lambda seconds: None)
    torchtitan.trainer.time = impatient  # type: ignore[attr-defined]


@torch.no_grad()
def _examine(trainer: Trainer) -> None:
    """The exact mean loss, row by row, and whether documents attend to one another."""
    (model,) = trainer.model_parts
    model._skip_lm_head = False
    model.eval()

    def logits(inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        masks = model.get_attention_masks(positions=positions)
        return model(inputs, positions=positions, attention_masks=masks).float()

    exact: dict[str, tuple[float, int]] = {}
    for name, one in trainer.validator._passes.items():
        total, count = 0.0, 0
        for batch, labels in one.build():
            for row in range(len(labels)):
                wanted = labels[row] >= 0
                if wanted.any():
                    out = logits(batch["input"][row : row + 1], batch["positions"][row : row + 1])
                    losses = torch.nn.functional.cross_entropy(
                        out[0][wanted].double(), labels[row][wanted], reduction="sum"
                    )
                    total, count = total + float(losses), count + int(wanted.sum())
        exact[name] = total, count
    _seen["exact"] = exact
    # Another token in one of a row's documents changes that one from there on, and no other.
    inputs, positions = batch["input"][:1].clone(), batch["positions"][:1]
    begins = (positions[0] == 0).nonzero().flatten().tolist()
    end, begin = max(zip(begins[2:], begins[1:], strict=False), key=lambda two: two[0] - two[1])
    assert end - begin > 3
    before, place = logits(inputs, positions), begin + 1
    inputs[0, place] += 1
    changed = (logits(inputs, positions) - before).abs().amax(-1)[0] > 0
    _seen["isolated"] = changed.tolist() == [place <= n < end for n in range(len(changed))]


def _run(jobs: list[dict[str, Any]], rank: int, folder: Path) -> None:
    """All jobs that have this rank, one after the other."""
    for job in jobs:
        if rank >= job["world"]:
            continue
        if rank:
            _wait_for_port(job["port"])
        _seen.clear()
        _seen["examine"] = job.get("examine", False)
        layout = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job["world"]}
        layout |= {"LOCAL_WORLD_SIZE": job["world"], "MASTER_PORT": job["port"]}
        os.environ.update({name: str(value) for name, value in layout.items()})
        cpu.main(job["args"])
        # Its entries hold meshes of the job that is over.
        _clear_sharding_prop_cache()
        (folder / f"{job['name']}.{rank}.json").write_text(json.dumps(_seen))


def _wait_for_port(port: int) -> None:
    """Wait until rank 0 has come to the job: torch's store is asked again after seconds only."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("localhost", port)).close()
            return
        time.sleep(0.02)


def main() -> None:
    """Fork the ranks, which saves them the imports; ends with the first that fails."""
    plan, os.environ["TITAN_TEST_DATA"] = sys.stdin.read().splitlines()
    path = Path(plan)
    os.chdir(path.parent)
    _observe()
    # Else a collection in a rank would look at, and so copy, all that is imported.
    gc.freeze()
    ranks = set()
    for number, jobs in enumerate(json.loads(path.read_text())):
        for rank in range(max(job["world"] for job in jobs)):
            child = os.fork()
            if not child:
                code = 1
                try:
                    log = os.open(path.parent / f"log.{number}.{rank}", os.O_CREAT | os.O_WRONLY)
                    os.dup2(log, 1)
                    os.dup2(log, 2)
                    _run(jobs, rank, path.parent)
                    code = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    os._exit(code)
            ranks.add(child)
    while ranks:
        child, status = os.wait()
        ranks.discard(child)
        if status:
            # None outlives one that failed.
            os.killpg(os.getpgrp(), signal.SIGKILL)
