"""`experimental.custom_import` of the tests: a tiny model, and a record of what the Trainer gets.

The record is made outside the loader: what counts is what was handed to the Trainer, whatever the
loader thinks of it.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torchtitan.components.metrics import build_metrics_processor
from torchtitan.models.llama3 import TransformerModelArgs, get_train_spec
from torchtitan.protocols.train_spec import _extra_train_specs, register_train_spec

import mosaic_dataloader
from integration_support.ledger import READ_ONLY, VOCABULARY, note, note_batch


class RecordedLoader:
    """Hands on a loader's batches and states, and notes them."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            note_batch(batch)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        state = self.loader.state_dict()
        note("state", **state)
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        note("loaded", **state)
        self.loader.load_state_dict(state)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the loader's."""
        return getattr(self.loader, name)


def recorded(build: Callable[..., Any]) -> Callable[..., Any]:
    """A dataloader builder whose loaders are recorded."""

    def build_recorded(*, dp_world_size: int, dp_rank: int, **others: Any) -> RecordedLoader:
        note("built", dp_rank=dp_rank, dp_world_size=dp_world_size)
        loader = RecordedLoader(build(dp_world_size=dp_world_size, dp_rank=dp_rank, **others))
        if READ_ONLY in os.environ:
            batches = iter(loader)
            for _ in range(int(os.environ[READ_ONLY])):
                next(batches)
            # The first rank holds the store by which slower ones still form their groups.
            torch.distributed.barrier()
            os._exit(0)
        return loader

    return build_recorded


def build_recorded_metrics(*arguments: Any, **options: Any) -> Any:
    """TorchTitan's metrics processor; losses are noted with all their digits."""
    processor = build_metrics_processor(*arguments, **options)
    log, log_validation = processor.log, processor.log_validation

    def noted_log(
        step: int, global_avg_loss: float, global_max_loss: float, grad_norm: float, **more: Any
    ) -> None:
        note("trained", step=step, loss=global_avg_loss, max=global_max_loss, norm=grad_norm)
        log(step, global_avg_loss, global_max_loss, grad_norm, **more)

    def noted_validation(loss: float, step: int, extra_metrics: dict[str, Any]) -> None:
        note("validated", step=step, loss=loss, **extra_metrics)
        log_validation(loss=loss, step=step, extra_metrics=extra_metrics)

    processor.log, processor.log_validation = noted_log, noted_validation
    return processor


def tiny_args() -> TransformerModelArgs:
    """Small enough that a step takes milliseconds, deep enough for two pipeline stages."""
    return TransformerModelArgs(
        dim=32, n_layers=2, n_heads=4, vocab_size=VOCABULARY, multiple_of=16, max_seq_len=64
    )


if "tiny" not in _extra_train_specs:
    base = get_train_spec()
    register_train_spec(
        "tiny",
        dataclasses.replace(
            base,
            model_args={"tiny": tiny_args()},
            build_metrics_processor_fn=build_recorded_metrics,
        ),
    )
    #: The loader's own builder, for rows of other things than their numbers.
    build_unrecorded = mosaic_dataloader.build_mosaic_dataloader
    # The app takes the builder from here each time it registers its spec.
    mosaic_dataloader.build_mosaic_dataloader = recorded(build_unrecorded)
