"""Where loading time goes in each logging interval, on the machine of rank 0."""

import os
import time
from typing import Any

import torch

# For ranks of other machines: smaller than any negated number of batches, so that it never counts.
_NONE_READY = -(1 << 40)


class LoadingMetrics:
    """What the loaders of a machine did since the last interval.

    All ranks of rank 0's machine are counted: each has its own loader, and those that share a
    cache fetch for one another. The wait is that of the rank that waited longest, which is what all
    ranks wait for.

    Args:
        loader: The training loader of this rank.

    Attributes:
        steps: Steps since the last interval; the caller counts them.
    """

    def __init__(self, loader: Any):
        self._loader = loader
        self._counted = loader.loading_counters()
        self._begun = time.perf_counter()
        self.steps = 0
        here = int(os.environ.get("RANK", "0")) == int(os.environ.get("LOCAL_RANK", "0"))
        self._on_first_machine = here

    def interval(self) -> dict[str, float]:
        """The figures since the last call; all ranks call this together."""
        steps, self.steps = self.steps, 0
        counted, now = self._loader.loading_counters(), time.perf_counter()
        own = {name: counted[name] - self._counted[name] for name in counted}
        seconds = now - self._begun
        self._counted, self._begun = counted, now
        summed = [name for name in own if name not in ("wait_seconds", "batches_ready")]
        counts = torch.tensor([int(own[name]) for name in summed])
        longest = torch.tensor([int(own["wait_seconds"] * 1e6), -int(counted["batches_ready"])])
        if not self._on_first_machine:
            counts.zero_()
            longest[0], longest[1] = 0, _NONE_READY
        wait, ready = _reduced(longest, torch.distributed.ReduceOp.MAX)
        total = dict(zip(summed, _reduced(counts, torch.distributed.ReduceOp.SUM), strict=True))
        texts = total.pop("texts_encoded")
        return {
            "loading/wait_per_step(s)": wait / 1e6 / steps,
            "loading/batches_ready": -ready,
            "loading/texts_per_second": texts / seconds,
            **{f"loading/{name}": count for name, count in total.items()},
        }


def _reduced(values: torch.Tensor, how: Any) -> list[int]:
    """Numbers reduced over all ranks."""
    if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        from torchtitan.tools.utils import device_type

        values = values.to(device_type)
        torch.distributed.all_reduce(values, op=how)
    return [int(value) for value in values.tolist()]


def loading_in_words(metrics: dict[str, float], streams: list[str]) -> str:
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
