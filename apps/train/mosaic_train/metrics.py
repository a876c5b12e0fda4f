"""A metrics processor around another one, which adds what the data loader counts."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torchtitan.tools.logging import logger

from mosaic_train.loading import LoadingMetrics, loading_in_words

if TYPE_CHECKING:
    from torchtitan.components.metrics import MetricsProcessor
    from torchtitan.distributed import ParallelDims

    from mosaic_config import MosaicJobConfig


class DataMetricsProcessor:
    """Logs epochs, samples and tokens of each stream, and loading, beside what its base logs.

    If documents are packed, the samples of a stream are its documents, samples seen are rows, and
    the epoch is what the lanes of the rank that logs have behind them, on average.

    All numbers count the whole run, over all ranks and all its restarts. Samples and epochs follow
    from the position. Tokens are targets, those with a label, which only the rank that was handed a
    row can count: they are summed where all ranks come by, when a line is logged and before a
    checkpoint is saved, so that none is lost by a restart.

    Args:
        base: The processor that does everything else; its attributes are this one's.
        loader: The training loader.
        job_config: Says when checkpoints are saved.
        parallel_dims: Has the mesh of the ranks that read different rows.
    """

    def __init__(
        self,
        base: "MetricsProcessor",
        loader: Any,
        job_config: "MosaicJobConfig",
        parallel_dims: "ParallelDims",
    ):
        # Not through __setattr__, which sets the base's.
        vars(self).update(
            _base=base,
            _loader=loader,
            _config=job_config,
            _sum_over_ranks=_summing(parallel_dims) if loader.dp_world_size > 1 else None,
            _synced_at=-1,
            _loading=LoadingMetrics(loader),
        )

    def __getattr__(self, name: str) -> Any:
        """The base's: its other methods, and what the Trainer sets and reads of it."""
        return getattr(vars(self)["_base"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Likewise."""
        setattr(vars(self)["_base"], name, value)

    def should_log(self, step: int) -> bool:
        """Whether this step is logged; every rank asks in every step, before it saves."""
        self._loading.begin(step)
        due = self._base.should_log(step)
        if not due and self._saves(step):
            self._sync()
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
        self._sync()
        metrics = self._data_metrics()
        loading = self._loading.interval(step)
        streams = [stream.name for stream in self._loader.dataset.streams]
        words = _in_words(metrics, streams, self._loader.dataset.packing)
        with _appended(f"{words}  {loading_in_words(loading, streams)}"):
            self._base.log(
                step,
                global_avg_loss,
                global_max_loss,
                grad_norm,
                extra_metrics={**(extra_metrics or {}), **metrics, **loading},
            )

    def _data_metrics(self) -> dict[str, float]:
        counters = self._loader.counters(self._sum_over_ranks)
        samples, tokens = counters.samples or {}, counters.target_tokens
        return {
            "data/epoch": counters.epochs,
            "data/samples_seen": counters.rows,
            "data/tokens_seen": sum(tokens.values()),
            **{f"data/{name}/samples": count for name, count in samples.items()},
            **{f"data/{name}/tokens": count for name, count in tokens.items()},
        }

    def _sync(self) -> None:
        """Sum the tokens; a collective, at a moment that all ranks share."""
        position = self._loader.samples_seen
        if position != self._synced_at:
            self._loader.sync_token_counts(self._sum_over_ranks)
            vars(self)["_synced_at"] = position

    def _saves(self, step: int) -> bool:
        """Whether TorchTitan saves a checkpoint after this step (its `_should_save`)."""
        checkpoint = self._config.checkpoint
        if not checkpoint.enable or checkpoint.load_only:
            return False
        return bool(
            (step == 1 and checkpoint.enable_first_step_checkpoint)
            or step == self._config.training.steps
            or step % checkpoint.interval == 0
        )


def _summing(parallel_dims: "ParallelDims") -> Callable[[torch.Tensor], torch.Tensor]:
    def sum_over_ranks(counts: torch.Tensor) -> torch.Tensor:
        from torchtitan.tools.utils import device_type

        total = counts.to(device_type)
        torch.distributed.all_reduce(total, group=parallel_dims.get_mesh("batch").get_group())
        return total

    return sum_over_ranks


def _in_words(metrics: dict[str, float], streams: list[str], packing: bool) -> str:
    """The counts, for the line of a step."""
    words = [f"epoch: {metrics['data/epoch']:.3f}"]
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


@contextmanager
def _appended(text: str) -> Iterator[None]:
    """Append a text to the next line about a step; where there is none, make it a line.

    TorchTitan puts its line together and logs it in one function.
    """
    lines: list[logging.LogRecord] = []

    def append(record: logging.LogRecord) -> bool:
        if not lines and "step: " in str(record.msg):
            lines.append(record)
            record.msg = f"{record.msg}  {text}"
        return True

    logger.addFilter(append)
    try:
        yield
    finally:
        logger.removeFilter(append)
    if not lines:
        logger.info(text)
