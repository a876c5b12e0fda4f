"""Ranks must run equally many forward passes: a collective that one of them misses hangs."""

import itertools
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torchtitan.components.loss import IGNORE_INDEX

from mosaic_trainspec.errors import TrainSpecError

_Batch = TypeVar("_Batch")


def in_lockstep(
    loader: Iterable[_Batch], *, limit: int | None, device: torch.device
) -> Iterator[_Batch]:
    """Yield the first ``limit`` batches of a loader, equally many on every rank.

    The lengths of loaders that have one are compared across all ranks once, before the first batch.
    Without a length the ranks compare before every batch, which costs one small all-reduce each.

    A loader whose attribute ``uneven_batches`` is true says that ranks may get different numbers of
    batches, at least one each (packing cannot know before). Ranks that have none left then
    get their last one again, with every label ignored, until no rank has any.

    Args:
        loader: Iterated once, from its beginning. Batches are pairs of inputs and labels.
        limit: How many batches at most; ``None`` for all. Never reads further than that.
        device: Where the process group communicates.

    Raises:
        TrainSpecError: On every rank, if the ranks' numbers of batches differ.
    """
    if getattr(loader, "uneven_batches", False):
        yield from _padded_to_longest(itertools.islice(loader, limit), device)
        return
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


def _padded_to_longest(batches: Iterator[Any], device: torch.device) -> Iterator[Any]:
    last: Any = None
    for given in itertools.count():
        batch = next(batches, None)
        most, least = _ends(0 if batch is None else 1, device)
        if most == 0:
            return
        if given == 0 and least == 0:
            raise TrainSpecError(
                "the validation loader gives no batch at all on one rank: let it give each rank at "
                "least one, with every label ignored where there is no row"
            )
        if batch is None:
            inputs, labels = last
            batch = (inputs, torch.full_like(labels, IGNORE_INDEX))
        last = batch
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
    most, least = _ends(count, device)
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


def _ends(count: int, device: torch.device) -> tuple[int, int]:
    """The largest and the smallest of all ranks' numbers."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return count, count
    # One all-reduce for both ends: the largest of -count is the negated smallest count.
    ends = torch.tensor([count, -count], dtype=torch.int64, device=device)
    dist.all_reduce(ends, op=dist.ReduceOp.MAX)
    return int(ends[0]), -int(ends[1])
