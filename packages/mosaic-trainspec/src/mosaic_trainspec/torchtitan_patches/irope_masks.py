"""llama4's `*_irope` flavors: have each layer take its own attention mask.

Flex attention is handed the masks of layers with and without rotary positions, by name, instead of
the one that the line above it has chosen. This can go once upstream passes `attention_mask` there.
"""

import functools
from typing import Any

ANSWERS = ("models/llama4/model/model.py:282: block_mask=attention_masks,",)


def take_own_masks(model: Any) -> None:
    """Have each layer of a model take its own mask; only layers with `use_rope` are changed."""
    for module in model.modules():
        attention = getattr(module, "inner_attention", None)
        if attention is not None and hasattr(module, "use_rope"):
            hook = functools.partial(_take_mask, "rope" if module.use_rope else "nope")
            attention.register_forward_pre_hook(hook, with_kwargs=True)


def _take_mask(
    kind: str, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    masks = kwargs.get("block_mask")
    return args, {**kwargs, "block_mask": masks[kind]} if isinstance(masks, dict) else kwargs
