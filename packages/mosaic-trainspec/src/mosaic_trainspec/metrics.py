"""What the data loader counts, in the lines and metrics of a step."""

import logging
import os
import re
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torchtitan.components.metrics import build_metrics_processor
from torchtitan.tools.logging import logger

from mosaic_trainspec.checks.checkpoint import next_save, saves_checkpoints
from mosaic_trainspec.errors import TrainSpecError

if TYPE_CHECKING:
    from torchtitan.config import JobConfig
    from torchtitan.distributed import ParallelDims
    from torchtitan.protocols.train_spec import TrainSpec

# For ranks of other machines: smaller than any negated number of batches, so that it never counts.
_NONE_READY = -(1 << 40)

SumOverRanks = Callable[[torch.Tensor], torch.Tensor]


class CountingLoader(Protocol):
    """What `log_data_metrics` needs of a training loader; mosaic-dataloader's has it."""

    @property
    def dp_world_size(self) -> int:
        """Ranks that read different rows."""

    @property
    def dataset(self) -> Any:
        """Has `packing`, a bool, and `streams`, each of which has a `name`."""

    def metrics(self, sum_over_ranks: SumOverRanks | None) -> dict[str, float]:
        """What is logged of the data, by name; all ranks call it together."""

    def sync_token_counts(self, sum_over_ranks: SumOverRanks | None) -> None:
        """Add up what all ranks have counted, before a checkpoint is saved."""

    def loading_counters(self) -> dict[str, float]:
        """Where loading time went on this rank so far, by name."""

    def stage_begun(self) -> Any:
        """A stage of the mixture, which has a `mixture`, if one began since the last call."""


# An attribute of a loader's builder: the builder of the metrics processor that gets its loaders.
_FEEDS = "_feeds_metrics_processor_of"
_NEEDED = [name for name in vars(CountingLoader) if not name.startswith("_")]


def log_data_metrics(spec: "TrainSpec") -> None:
    """Log what the training loader counts beside the spec's own metrics; see `DataMetrics`.

    Changes the spec in place; a second call does nothing.

    Args:
        spec: Its `build_dataloader_fn` returns mosaic-dataloader's `MosaicParallelAwareDataloader`,
            or another `CountingLoader`. If it returns anything else, the Trainer ends with a
            `TrainSpecError` that names what is missing; so it does with `fault_tolerance.enable`,
            because the ranks of other replica groups come and go and cannot be counted.
    """
    feeds = getattr(spec.build_dataloader_fn, _FEEDS, None)
    if feeds is not None and feeds is spec.build_metrics_processor_fn:
        return
    # TorchTitan's Trainer builds the loader before the metrics processor, to which it does not pass
    # it. Weak: the spec stays registered when the run is over.
    built: list[weakref.ref[Any]] = []
    build_loader: Any = spec.build_dataloader_fn
    build_processor: Any = spec.build_metrics_processor_fn or build_metrics_processor

    def build_dataloader(**options: Any) -> Any:
        loader = build_loader(**options)
        if missing := [name for name in _NEEDED if not hasattr(loader, name)]:
            raise TrainSpecError(
                f"log_data_metrics: the training loader, a {type(loader).__name__}, has no "
                f"{', '.join(missing)}: let build_dataloader_fn return mosaic-dataloader's "
                "MosaicParallelAwareDataloader, or a loader with these, or leave log_data_metrics "
                "out"
            )
        built[:] = [weakref.ref(loader)]
        return loader

    def build_metrics(job_config: Any, parallel_dims: Any, *others: Any, **more: Any) -> Any:
        if job_config.fault_tolerance.enable:
            raise TrainSpecError(
                "log_data_metrics counts over all ranks, and those of TorchFT's other replica "
                "groups cannot be asked: leave log_data_metrics out, or set "
                "fault_tolerance.enable = false"
            )
        processor = build_processor(job_config, parallel_dims, *others, **more)
        loader = built[0]() if built else None
        if loader is not None:  # else a trainer that has no data
            DataMetrics(processor, loader, job_config, parallel_dims)
        return processor

    setattr(build_dataloader, _FEEDS, build_metrics)
    spec.build_dataloader_fn, spec.build_metrics_processor_fn = build_dataloader, build_metrics


class DataMetrics:
    """Logs what the loader counts, and where its time goes, beside what a processor logs.

    Stages are named as they begin.

    Counts are those of the whole run, over all ranks and all its restarts. Tokens are targets,
    those with a label, which only the rank that was handed a row can count: they are summed where
    all ranks meet, when a line is logged and before a checkpoint is saved, so that none is lost
    by a restart.

    Where loading time goes is counted from one logged step to the next, for all ranks of rank 0's
    machine: each has its own loader, and those that share a cache fetch for one another. The wait
    is that of the rank that waited longest, which is what all ranks wait for.

    Args:
        processor: The spec's metrics processor, whose `should_log` and `log` this replaces.
        loader: The training loader.
        job_config: Says when checkpoints are saved.
        parallel_dims: Has the mesh of the ranks that read different rows.
    """

    def __init__(
        self,
        processor: Any,
        loader: CountingLoader,
        job_config: "JobConfig",
        parallel_dims: "ParallelDims",
    ):
        self._loader, self._config = loader, job_config
        self._sum_over_ranks = _summing(parallel_dims) if loader.dp_world_size > 1 else None
        self._first_logged: tuple[int, float] | None = None
        self._steps, self._began, self._counted = 0, time.monotonic(), loader.loading_counters()
        self._should_log, self._log = processor.should_log, processor.log
        processor.should_log, processor.log = self.should_log, self.log

    def should_log(self, step: int) -> bool:
        """Whether this step is logged; every rank asks in every step, before it saves."""
        stage = self._loader.stage_begun()
        if stage is not None:
            logger.info("%s begins at step %s: %s", stage, f"{step:,}", stage.mixture)
        self._steps += 1
        due = self._should_log(step)
        if not due and self._saves(step):
            self._loader.sync_token_counts(self._sum_over_ranks)
        return bool(due)

    def log(
        self,
        step: int,
        global_avg_loss: float,
        global_max_loss: float,
        grad_norm: float,
        extra_metrics: dict[str, Any] | None = None,
    ) -> None:
        """Log a training step; all ranks call this together."""
        metrics = self._loader.metrics(self._sum_over_ranks)
        loading = self._loading()
        streams = [stream.name for stream in self._loader.dataset.streams]
        words = _in_words(metrics, streams, self._loader.dataset.packing) + self._time_left(step)
        words += f"  {_loading_in_words(loading, streams)}"
        with _appended(words, steps=self._config.training.steps):
            self._log(
                step,
                global_avg_loss,
                global_max_loss,
                grad_norm,
                extra_metrics={**(extra_metrics or {}), **metrics, **loading},
            )

    def _loading(self) -> dict[str, float]:
        """Where loading time went since the last call."""
        before, began, steps = self._counted, self._began, self._steps
        self._counted = self._loader.loading_counters()
        self._steps, self._began = 0, time.monotonic()
        own = {name: count - before[name] for name, count in self._counted.items()}
        summed = [name for name in own if name not in ("wait_seconds", "batches_ready")]
        counts = torch.tensor([int(own[name]) for name in summed])
        longest = torch.tensor(
            [int(own["wait_seconds"] * 1e6), -int(self._counted["batches_ready"])]
        )
        if os.environ.get("RANK", "0") != os.environ.get("LOCAL_RANK", "0"):  # another machine
            counts.zero_()
            longest[0], longest[1] = 0, _NONE_READY
        wait, ready = _reduced(longest, torch.distributed.ReduceOp.MAX)
        total = dict(zip(summed, _reduced(counts, torch.distributed.ReduceOp.SUM), strict=True))
        texts = total.pop("texts_encoded")
        return {
            "loading/wait_per_step(s)": wait / 1e6 / steps,
            "loading/batches_ready": -ready,
            "loading/texts_per_second": texts / (self._began - began),
            **{f"loading/{name}": count for name, count in total.items()},
        }

    def _time_left(self, step: int) -> str:
        """How long the steps to come take at the mean speed since the first one that was logged.

        That mean has everything in it that the steps to come will take: validation, checkpoints.
        The first step, which compiles, is not in it.
        """
        now = time.monotonic()
        if self._first_logged is None:
            self._first_logged = (step, now)
            return ""
        left = self._config.training.steps - step
        if not left:
            return ""
        first, began = self._first_logged
        seconds = (now - began) / (step - first) * left
        return f"  time left: {timedelta(seconds=round(seconds))}"

    def _saves(self, step: int) -> bool:
        """Whether TorchTitan saves a checkpoint after this step (its `_should_save`)."""
        return saves_checkpoints(self._config) and next_save(self._config, step - 1) == step


def _summing(parallel_dims: "ParallelDims") -> SumOverRanks:
    def sum_over_ranks(counts: torch.Tensor) -> torch.Tensor:
        from torchtitan.tools.utils import device_type

        total = counts.to(device_type)
        torch.distributed.all_reduce(total, group=parallel_dims.get_mesh("batch").get_group())
        return total

    return sum_over_ranks


def _reduced(values: torch.Tensor, how: Any) -> list[int]:
    """Numbers reduced over all ranks."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        from torchtitan.tools.utils import device_type

        values = values.to(device_type)
        torch.distributed.all_reduce(values, op=how)
    return [int(value) for value in values.tolist()]


def _in_words(metrics: dict[str, float], streams: list[str], packing: bool) -> str:
    """The counts, for the line of a step."""
    words = [f"epoch: {metrics['data/epoch']:.3f}"]
    if "data/stage" in metrics:
        words.insert(0, f"stage: {metrics['data/stage']}")
    if packing:
        words.append(f"rows: {metrics['data/samples_seen']:,}")
    for what in ("samples", "tokens"):
        counts = {s: metrics[tag] for s in streams if (tag := f"data/{s}/{what}") in metrics}
        # The sum of documents is not what was seen of samples, which packing counts in rows.
        total = sum(counts.values()) if counts else metrics[f"data/{what}_seen"]
        name = "documents" if packing and what == "samples" else what
        each = ", ".join(f"{stream} {count:,}" for stream, count in counts.items())
        words.append(f"{name}: {total:,}" + (f" ({each})" if len(counts) > 1 else ""))
    return "  ".join(words)


def _loading_in_words(metrics: dict[str, float], streams: list[str]) -> str:
    """The figures of an interval for the line of a step; those that are 0 are left out."""
    words = [
        f"data wait: {metrics['loading/wait_per_step(s)'] * 1e3:,.1f} ms/step",
        f"ready: {metrics['loading/batches_ready']:,}",
    ]
    shards = {name: metrics[f"loading/{name}/shards_fetched"] for name in streams}
    if fetched := {name: count for name, count in shards.items() if count}:
        size = sum(metrics[f"loading/{name}/bytes_fetched"] for name in streams)
        each = ", ".join(f"{name} {count:,}" for name, count in fetched.items())
        words.append(
            f"fetched: {sum(fetched.values()):,} shards, {size / 1e6:,.1f} MB"
            + (f" ({each})" if len(streams) > 1 else "")
        )
    for name in ("cache_hits", "evictions", "retries"):
        if count := metrics[f"loading/{name}"]:
            words.append(f"{name.replace('_', ' ')}: {count:,}")
    if texts := metrics["loading/texts_per_second"]:
        words.append(f"texts/s: {texts:,.0f}")
    return "  ".join(words)


@contextmanager
def _appended(text: str, steps: int) -> Iterator[None]:
    """Append a text to the next line about a step; where there is none, make it a line.

    TorchTitan puts its line together and logs it in one function.

    Args:
        text: What to append.
        steps: Steps of the whole run, which the line names beside its own.
    """
    lines: list[logging.LogRecord] = []

    def append(record: logging.LogRecord) -> bool:
        if not lines and "step: " in str(record.msg):
            lines.append(record)
            line = re.sub(r"(step: +\d+)", rf"\1/{steps}", str(record.msg), count=1)
            record.msg = f"{line}  {text}"
        return True

    logger.addFilter(append)
    try:
        yield
    finally:
        logger.removeFilter(append)
    if not lines:
        logger.info(text)
