"""Ranks must run equally many forward passes, or the first collective without a partner hangs."""

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

import torch
import torch.distributed as dist

from mosaic_trainspec.errors import TrainSpecError

_Batch = TypeVar("_Batch")


def equal_batches(
    loader: Iterable[_Batch], *, limit: int | None, device: torch.device
) -> Iterator[_Batch]:
    """Yield the first ``limit`` batches of a loader after making sure that no rank will hang.

    A loader with a length is compared across all ranks once, before its first batch. One without
    is asked for each batch in turn, which costs one small all-reduce per batch.

    Args:
        loader: Iterated once, from its beginning.
        limit: How many batches at most; ``None`` for all. Never reads further than that.
        device: Where the process group communicates.

    Raises:
        TrainSpecError: On every rank, if the ranks' numbers of batches differ.
    """
    length = _length(loader)
    if length is not None and limit is not None:
        length = min(length, limit)
    _require_same(-1 if length is None else length, device)
    batches = itertools.islice(loader, limit)
    if length is not None:
        yield from batches
        return
    for given in itertools.count(1):
        batch = next(batches, None)
        _require_same(given - 1 if batch is None else given, device)
        if batch is None:
            return
        yield batch


def _length(loader: Iterable[object]) -> int | None:
    if not isinstance(loader, Sized):
        return None
    try:
        return len(loader)
    except TypeError:
        # A torch DataLoader has __len__ even where its dataset has none.
        return None


def _require_same(count: int, device: torch.device) -> None:
    """Compare over all ranks, not only the data parallel ones: each takes part in collectives."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    # One all-reduce for both ends: the largest of -count is the negated smallest count.
    ends = torch.tensor([count, -count], dtype=torch.int64, device=device)
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    most, least = int(ends[0]), -int(ends[1])
    if least == most:
        return
    if least < 0:
        raise TrainSpecError(
            "the validation loader has a length on some ranks only: give every rank the same kind "
            "of loader in build_validation_dataloader_fn"
        )
    raise TrainSpecError(
        f"the validation loader gives {least} batches on one rank and {most} on another: make "
        "build_validation_dataloader_fn pad the set so that every rank gets equally many"
    )
