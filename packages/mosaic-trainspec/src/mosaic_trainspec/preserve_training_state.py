"""Context managers that let a validation pass leave no trace in the training run."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from time import perf_counter

import torch
from torch import nn
from torchtitan.components.metrics import MetricsProcessor


@contextmanager
def evaluation_mode(model_parts: list[nn.Module]) -> Iterator[None]:
    """Put every part into eval mode, then each of its modules back into the mode it had."""
    modes = [(module, module.training) for part in model_parts for module in part.modules()]
    try:
        for part in model_parts:
            part.eval()
        yield
    finally:
        # Module by module: part.train() would switch on what the user had frozen in eval mode.
        for module, training in modes:
            module.training = training


@contextmanager
def kept_buffers(model_parts: list[nn.Module]) -> Iterator[None]:
    """Restore the values of every buffer.

    TorchTitan's mixture-of-experts layers count the tokens of each expert in every forward pass,
    and the next optimizer step moves the expert biases by those counts: without this, a run with
    validation would train another model than the same run without.
    """
    kept = [(buffer, buffer.clone()) for part in model_parts for buffer in part.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, values in kept:
                buffer.copy_(values)


def forked_rng(device: torch.device) -> AbstractContextManager[None]:
    """Restore the state of torch's generators, the CPU's and this device's.

    In eval mode the model draws no random numbers, but starting a ``torch.utils.data.DataLoader``
    draws a seed for its workers from the CPU generator, which would shift those of the training
    run.
    """
    if device.type == "cpu":
        return torch.random.fork_rng(devices=[])
    return torch.random.fork_rng(devices=[device], device_type=device.type)


@contextmanager
def stopped_training_clock(metrics_processor: MetricsProcessor) -> Iterator[None]:
    """Count tokens and time of the validation alone, then resume counting those of the training.

    TorchTitan keeps one clock for both. Left as it is, the tokens of the training steps since the
    last log line would count as validated, and be missing from the next training line.
    """
    training_tokens = metrics_processor.ntokens_since_last_log
    training_seconds = perf_counter() - metrics_processor.time_last_log
    metrics_processor.ntokens_since_last_log = 0
    metrics_processor.time_last_log = perf_counter()
    try:
        yield
    finally:
        metrics_processor.ntokens_since_last_log = training_tokens
        metrics_processor.time_last_log = perf_counter() - training_seconds
