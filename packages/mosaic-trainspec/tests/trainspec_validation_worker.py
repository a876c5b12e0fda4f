"""Runs the validator in real gloo process groups on CPU and writes what it logged, as JSON.

In a process of its own: it tells TorchTitan that the device is the CPU, which would reach other
tests. It forks the ranks, because importing TorchTitan takes longer than all the cases.
"""

import contextlib
import gc
import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torchtitan.components.loss import build_cross_entropy_loss
from torchtitan.config import JobConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed import utils as dist_utils
from torchtitan.distributed.pipeline_parallel import pipeline_llm
from torchtitan.models.llama3 import (
    Transformer,
    TransformerModelArgs,
    parallelize_llama,
)

from mosaic_trainspec import TrainSpecError, build_mosaic_validator

# TorchTitan takes "cuda" on a machine without an accelerator, and binds it in several modules.
for _name, _module in list(sys.modules.items()):
    if _name.startswith("torchtitan.") and hasattr(_module, "device_type"):
        _module.device_type, _module.device_module = "cpu", torch.cpu

VOCAB, SEQ, ROWS, BATCH = 64, 16, 10, 2
# So that with two ranks the last batch of the second one is padding, with more ranks all of it.
STREAMS = {"large": range(4, ROWS), "small": range(4)}
CPU = torch.device("cpu")
BASE: dict[str, Any] = {"dp_replicate": 1, "dp_shard": 1, "cp": 1, "tp": 1, "pp": 1}
LAYOUTS: dict[int, dict[str, dict[str, Any]]] = {
    1: {"single": {}},
    2: {
        "fsdp2": {"dp_shard": 2},
        "ddp2": {"dp_replicate": 2},
        "tp2": {"tp": 2},
        "tp2_plain_loss": {"tp": 2, "disable_loss_parallel": True},
        "cp2": {"cp": 2},
        "pp2": {"pp": 2},
        "pp2_interleaved": {"pp": 2, "schedule": "Interleaved1F1B"},
    },
    3: {"fsdp3": {"dp_shard": 3}},
    4: {
        "hsdp4": {"dp_replicate": 2, "dp_shard": 2},
        "pp2_fsdp2": {"pp": 2, "dp_shard": 2},
        "pp2_tp2": {"pp": 2, "tp": 2},
    },
}


def data_set() -> tuple[torch.Tensor, torch.Tensor]:
    """Row r has about 1.5 * r targets, row 0 none."""
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(VOCAB, (ROWS, SEQ + 1), generator=generator)
    labels = tokens[:, 1:].clone()
    for row in range(ROWS):
        labels[row, row * 3 // 2 :] = -100
    return tokens[:, :-1].contiguous(), labels


class Loader:
    """Deals rows round-robin by batches; pads the last ones, so that a rank may be all padding."""

    def __init__(
        self,
        dp_world_size: int,
        dp_rank: int,
        drop: int = 0,
        hide: bool = False,
        uneven: bool = False,
        rows: range = range(ROWS),
    ) -> None:
        self.world, self.rank, self.drop, self.hide = dp_world_size, dp_rank, drop, hide
        self.uneven_batches = uneven
        self.rows = rows
        self.taken = 0

    def __len__(self) -> int:
        if self.hide:
            raise TypeError("no length")
        return self.batches

    @property
    def batches(self) -> int:
        return -(-len(self.rows) // (BATCH * self.world)) - self.drop

    def by_stream(self) -> dict[str, "Loader"]:
        return {
            name: Loader(
                self.world, self.rank, hide=self.hide, uneven=self.uneven_batches, rows=rows
            )
            for name, rows in STREAMS.items()
        }

    def __iter__(self) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        # What a torch DataLoader does when it starts.
        torch.empty((), dtype=torch.int64).random_()
        tokens, labels = data_set()
        end = self.rows.stop
        for index in range(self.batches):
            first = self.rows.start + (index * self.world + self.rank) * BATCH
            rows = range(first, first + BATCH)
            self.taken += 1
            yield (
                {"input": torch.stack([tokens[r % ROWS] for r in rows])},
                torch.stack([labels[r] if r < end else torch.full((SEQ,), -100) for r in rows]),
            )


class Metrics:
    """Records what would be logged, with the two clocks of torchtitan's MetricsProcessor."""

    def __init__(self) -> None:
        self.ntokens_since_last_log = 1000
        self.time_last_log = time.perf_counter() - 500
        self.logged: list[dict[str, Any]] = []

    def log_validation(self, loss: float, step: int, extra_metrics: dict[str, Any]) -> None:
        self.logged.append(
            {
                "loss": loss,
                "step": step,
                "tokens": self.ntokens_since_last_log,
                "seconds": time.perf_counter() - self.time_last_log,
                **extra_metrics,
            }
        )
        self.ntokens_since_last_log = 0


class Positionwise(nn.Module):
    """Needs the positions, no attention: context parallel attention has no CPU kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(VOCAB, 32), nn.Embedding(SEQ, 32)
        self.dropout, self.frozen = nn.Dropout(0.5), nn.Dropout(0.5)
        self.output = nn.Linear(32, VOCAB)
        self.register_buffer("tokens_per_expert", torch.tensor([7]), persistent=False)
        self.seen: list[Any] = []

    def get_attention_masks(self, input_batch, tokenizer, extra_inputs):
        if tokenizer == "broken":
            raise TypeError("inside the model")
        return input_batch.shape, tokenizer, extra_inputs

    def forward(self, tokens, attention_masks=None, positions=None):
        if positions is None:
            positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        # As torchtitan's MoE layers do, in eval mode too.
        self.tokens_per_expert.add_(tokens.numel())
        self.seen.append((self.training, attention_masks))
        hidden = self.tokens(tokens) + self.places(positions)
        return self.output(self.frozen(self.dropout(hidden)))


def build_model(positionwise: bool, interleaved: bool) -> tuple[nn.Module, TransformerModelArgs]:
    args = TransformerModelArgs(
        dim=32,
        # Enough for four stages, or for two.
        n_layers=6 if interleaved else 2,
        n_heads=4,
        vocab_size=VOCAB,
        max_seq_len=SEQ,
        multiple_of=16,
    )
    torch.manual_seed(1)
    if positionwise:
        return Positionwise(), args
    model = Transformer(args)
    with torch.no_grad():
        model.init_weights()
    return model, args


def reference(model: nn.Module, rows: range = range(ROWS)) -> tuple[float, int]:
    """The plain mean over all targets of rows, summed in float64, without the package."""
    tokens, labels = (part[rows.start : rows.stop] for part in data_set())
    model.eval()
    with torch.no_grad():
        logits = model(tokens).double().reshape(-1, VOCAB)
    model.train()
    kept = labels.reshape(-1) != -100
    picked = logits.log_softmax(-1)[kept].gather(1, labels.reshape(-1)[kept, None])
    return float(-picked.mean()), int(kept.sum())


def job(layout: dict[str, Any]) -> JobConfig:
    config = JobConfig()
    config.model.flavor = "tiny"
    config.training.local_batch_size = BATCH
    config.validation.local_batch_size = layout.get("validation_batch", BATCH)
    config.training.seq_len = SEQ
    config.training.mixed_precision_param = "float32"
    config.validation.enable = True
    config.activation_checkpoint.mode = "none"
    parallelism = config.parallelism
    parallelism.disable_loss_parallel = layout.get("disable_loss_parallel", False)
    parallelism.pipeline_parallel_degree = layout.get("pp", 1)
    parallelism.tensor_parallel_degree = layout.get("tp", 1)
    parallelism.pipeline_parallel_schedule = layout.get("schedule", "1F1B")
    return config


def setup(layout: dict[str, Any], *, positionwise: bool = False, **loader: Any) -> SimpleNamespace:
    """Model parts and validator as torchtitan's Trainer would build them."""
    config = job(layout)
    config.validation.steps = loader.pop("steps", -1)
    tokenizer = loader.pop("tokenizer", "tokenizer")
    dims = ParallelDims(
        **{key: layout.get(key, value) for key, value in BASE.items()},
        ep=1,
        etp=1,
        world_size=dist.get_world_size(),
    )
    batch_mesh = dims.get_optional_mesh("batch")
    dp_world, dp_rank = (
        (1, 0) if batch_mesh is None else (batch_mesh.size(), batch_mesh.get_local_rank())
    )
    model, args = build_model(positionwise, layout.get("schedule") == "Interleaved1F1B")
    args.attn_type = loader.pop("attn_type", args.attn_type)
    expected = reference(model)
    by_stream = {name: reference(model, rows)[0] for name, rows in STREAMS.items()}
    loss_fn = build_cross_entropy_loss(config)
    schedule, parts, first, last = None, [model], None, None
    if dims.pp_enabled:
        schedule, parts, first, last = pipeline_llm(
            model, dims, config, CPU, args, parallelize_llama, loss_fn
        )
    elif not positionwise and dims.world_size > 1:
        parts = [parallelize_llama(model, dims, config)]
    metrics = Metrics()
    loaders: list[Loader] = []

    def build_loader(*, dp_world_size, dp_rank, tokenizer, job_config):
        drop = loader.get("drop", 0) if dist.get_rank() == loader.get("dropper", 0) else 0
        loaders.append(
            Loader(
                dp_world_size,
                dp_rank,
                drop,
                loader.get("hide", False),
                loader.get("uneven", False),
            )
        )
        if loader.get("no_stream"):
            return {}
        return loaders[0].by_stream() if loader.get("by_stream") else loaders[0]

    validator = build_mosaic_validator(
        job_config=config,
        # Fault tolerant training counts the ranks of all replica groups.
        dp_world_size=dp_world * loader.get("replica_groups", 1),
        dp_rank=dp_rank,
        tokenizer=tokenizer,
        parallel_dims=dims,
        loss_fn=loss_fn,
        validation_context=dist_utils.get_train_context(
            dims.tp_enabled and not config.parallelism.disable_loss_parallel
        ),
        maybe_enable_amp=contextlib.nullcontext(),
        metrics_processor=metrics,
        pp_schedule=schedule,
        pp_has_first_stage=first,
        pp_has_last_stage=last,
        model_args={"tiny": args},
        build_validation_dataloader_fn=build_loader,
    )
    return SimpleNamespace(
        validator=validator,
        parts=parts,
        metrics=metrics,
        expected=expected,
        by_stream=by_stream,
        loader=loaders[0],
        schedule=schedule,
        first=first,
        last=last,
    )


def run_layout(layout: dict[str, Any]) -> dict[str, Any]:
    run = setup(layout, positionwise="cp" in layout)
    if run.schedule is not None and layout.get("dp_shard", 1) == 1:
        # Training before and after: the schedule must survive the switch to eval and back.
        train_step(run)
    run.validator.validate(run.parts, step=1)
    if run.schedule is not None and layout.get("dp_shard", 1) == 1:
        train_step(run)
    run.validator.validation_dataloader = run.loader.by_stream()
    run.validator.validate(run.parts, step=2)
    return {
        "logged": run.metrics.logged,
        "expected": run.expected,
        "by_stream": run.by_stream,
    }


def train_step(run: SimpleNamespace) -> None:
    tokens, labels = (part[:BATCH] for part in data_set())
    context = run.validator.validation_context
    with context():
        run.schedule.step(
            *((tokens,) if run.first else ()),
            target=labels if run.last else None,
            losses=[] if run.last else None,
            return_outputs=False,
        )
    for part in run.parts:
        part.zero_grad()


def error_of(run: SimpleNamespace) -> str:
    try:
        run.validator.validate(run.parts, step=1)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def details() -> dict[str, Any]:
    """One rank: what a validation may not change, and the ways it can fail."""
    out: dict[str, Any] = {}
    run = setup({}, positionwise=True, steps=2, attn_type="flex")
    (model,) = run.parts
    model.frozen.eval()
    # The plain reference ran through the model, too.
    counts = model.tokens_per_expert.fill_(7)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run.validator.validate(run.parts, step=1)
    out["rng_kept"] = bool(torch.equal(before, torch.get_rng_state()))
    out["counts"] = [model.tokens_per_expert.item(), model.tokens_per_expert is counts]
    out["modes"] = [model.training, model.dropout.training, model.frozen.training]
    out["seen"] = [(training, str(masks)) for training, masks in model.seen if masks]
    out["first_two"] = {
        "logged": run.metrics.logged,
        "expected": reference(model, range(2 * BATCH)),
    }
    out["taken"] = run.loader.taken
    out["clock"] = [run.metrics.ntokens_since_last_log, run.metrics.time_last_log]
    out["clock"][1] = time.perf_counter() - out["clock"][1]

    broken = setup({}, positionwise=True, attn_type="flex", tokenizer="broken")
    out["type_error"] = error_of(broken)
    out["modes_after_error"] = broken.parts[0].training

    out["short"] = run_short()
    no_target = setup({}, positionwise=True)
    no_target.validator.validation_dataloader = [
        ({"input": torch.zeros(BATCH, SEQ, dtype=torch.int64)}, torch.full((BATCH, SEQ), -100))
    ]
    out["no_target"] = error_of(no_target)
    no_target.validator.validation_dataloader = []
    out["no_batch"] = error_of(no_target)

    out["shares"] = steps_by_stream()
    run = setup({}, positionwise=True)
    run.validator.validation_dataloader = {
        "large": run.loader,
        "empty": Loader(1, 0, rows=range(1)),
    }
    out["stream_without_target"] = error_of(run)
    for name, loaders in (
        ("too_few_steps", {"steps": 1, "by_stream": True}),
        ("no_stream", {"no_stream": True}),
    ):
        try:
            setup({}, positionwise=True, **loaders)
        except TrainSpecError as error:
            out[name] = str(error)
    return out


def steps_by_stream() -> dict[str, Any]:
    """Batches taken of a stream that has 3 and one that has 2, under limits for both together."""
    out: dict[str, Any] = {}
    for steps in (2, 3, 5, 9):
        run = setup({}, positionwise=True, steps=steps, by_stream=True)
        run.validator.validate(run.parts, step=1)
        loaders = run.validator.validation_dataloader
        out[str(steps)] = [loaders[name].taken for name in ("large", "small")]
    return out


def run_short() -> dict[str, Any]:
    """More steps than batches, no length, and a world size that counts replica groups."""
    run = setup({}, positionwise=True, steps=99, hide=True, replica_groups=3)
    run.validator.validate(run.parts, step=1)
    return {"logged": run.metrics.logged, "expected": run.expected}


def failures_of_two() -> dict[str, Any]:
    out: dict[str, Any] = {}
    for name, hide in (("sized", False), ("unsized", True)):
        out[name] = error_of(setup({"dp_shard": 2}, drop=1, hide=hide))
    # The last batch of rank 1 is all padding: without it, the set is the same.
    run = setup({"dp_shard": 2}, drop=1, dropper=1, hide=True, uneven=True)
    run.validator.validate(run.parts, step=1)
    (logged,) = run.metrics.logged
    out["evened_out"] = [logged, run.expected]
    run.validator.validation_dataloader = run.loader.by_stream()
    run.validator.validation_dataloader["large"].drop = dist.get_rank()
    run.validator.validate(run.parts, step=2)
    out["evened_out_by_stream"] = [run.metrics.logged[1], run.by_stream]
    out["none_on_one"] = error_of(setup({"dp_shard": 2}, drop=3, dropper=1, hide=True, uneven=True))
    # What only the batches after the limit would show is no error.
    out["beyond_limit"] = error_of(setup({"dp_shard": 2}, drop=1, steps=2))
    for name, layout in (
        ("v_schedule", {"schedule": "ZBVZeroBubble"}),
        ("pp_batch", {"validation_batch": 2 * BATCH}),
    ):
        try:
            setup({"pp": 2, **layout})
        except TrainSpecError as error:
            out[name] = str(error)
    run = setup({"pp": 2})
    run.validator.job_config.training.seq_len = 2 * SEQ
    out["pp_shape"] = error_of(run)
    return out


def rank_main(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    random.seed(0)
    store = dist.FileStore(f"{folder}/store{world}", world)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    results: dict[str, Any] = {}
    cases = {name: (run_layout, (layout,)) for name, layout in LAYOUTS[world].items()}
    if world == 1:
        cases["details"] = (details, ())
    if world == 2:
        cases["failures"] = (failures_of_two, ())
    try:
        for name, (function, arguments) in cases.items():
            try:
                results[name] = function(*arguments)
            except Exception:
                results[name] = {"failed": traceback.format_exc()}
                break
        Path(f"{folder}/{world}-{rank}.json").write_text(json.dumps(results))
    finally:
        dist.destroy_process_group()


def main() -> None:
    """Read from stdin, in a line each, where to write the report and what is printed; layouts."""
    report, log, wanted = sys.stdin.read().splitlines()
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    fork = multiprocessing.get_context("fork")
    # Else a collection in a rank would look at, and so copy, all that is imported.
    gc.freeze()
    merged: dict[str, list[Any]] = {}
    for layouts in LAYOUTS.values():
        for name in layouts.keys() - set(wanted.split()):
            del layouts[name]
    with tempfile.TemporaryDirectory() as folder:
        for world in LAYOUTS:
            ranks = [
                fork.Process(target=rank_main, args=(rank, world, folder)) for rank in range(world)
            ]
            for process in ranks:
                process.start()
            for process in ranks:
                process.join(timeout=120)
                if process.is_alive():
                    process.kill()
            for rank in range(world):
                path = Path(f"{folder}/{world}-{rank}.json")
                for name, result in json.loads(path.read_text() if path.exists() else "{}").items():
                    merged.setdefault(name, []).append(result)
    Path(report).write_text(json.dumps(merged))
