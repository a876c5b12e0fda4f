"""Mixtures of experts without an accelerator.

This can go once upstream counts with `torch.bincount`, and qwen3 leaves out grouped_mm by itself.
"""

import functools
from collections.abc import Mapping
from typing import Any

from mosaic_train.torchtitan_patches.upstream import Answers

ANSWERS = (
    Answers("models/moe/moe.py", 348, "num_tokens_per_expert = torch.histc("),
    Answers("models/moe/moe.py", 399, "num_tokens_per_expert = torch.histc("),
    Answers(
        "models/moe/moe.py",
        37,
        "use_grouped_mm: bool = True  # grouped mm or for-loop for the experts computation",
    ),
)


def count_integers_on_cpu() -> None:
    """Give `torch.histc` a CPU form for integers, with which a router counts tokens per expert.

    Torch has it for accelerators only. Everything else still goes to torch's own function.
    """
    import torch

    if not isinstance(torch.histc, _Histogram):
        torch.histc = _Histogram(torch.histc)  # type: ignore[assignment]


class _Histogram:
    """`torch.histc`, also for integer tensors on CPU."""

    def __init__(self, original: Any) -> None:
        self._original = original
        functools.update_wrapper(self, original)

    def __call__(self, input: Any, bins: int = 100, min: int = 0, max: int = 0, **more: Any) -> Any:
        """Count the values in `bins` equal bins between `min` and `max`, as `torch.histc` does."""
        import torch

        if input.is_floating_point() or input.device.type != "cpu" or more:
            return self._original(input, bins=bins, min=min, max=max, **more)
        if min == max:
            low, high = torch.aminmax(input)
            min, max = int(low), int(high) + int(low == high)
        # In integers: a bin's border must not depend on how a fraction is rounded.
        inside = input[(input >= min) & (input <= max)]
        index = (((inside - min) * bins) // (max - min)).clamp_(max=bins - 1)
        return torch.bincount(index, minlength=bins).to(input.dtype)


def run_experts_one_by_one(model_args: Mapping[str, Any]) -> None:
    """Have every flavor multiply expert by expert. Changes the flavors in place.

    Multiplying all at once (grouped_mm) sorts the tokens with a Triton kernel. Most models of
    TorchTitan 0.2.2 leave it by themselves where there is no recent GPU, but not all.

    Args:
        model_args: Flavors of our own TrainSpec.
    """
    for args in model_args.values():
        experts = getattr(args, "moe_args", None)
        if experts is not None:
            experts.use_grouped_mm = False
