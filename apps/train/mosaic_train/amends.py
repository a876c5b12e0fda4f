"""What torchtitan 0.2.2 leaves undone in some of its models, on every device."""

import functools
from typing import Any


def amend_models(spec: Any) -> None:
    """Have a spec's models amended. Changes the spec in place.

    Done where the model is parallelized, it also reaches the stages of a pipeline.

    Args:
        spec: Our own TrainSpec.
    """
    if not isinstance(spec.parallelize_fn, _Parallelize):
        spec.parallelize_fn = _Parallelize(spec.parallelize_fn)


def amend(model: Any) -> None:
    """Amend a model before its weights are there."""
    _take_own_masks(model)
    _initialize_router_biases(model)


def _take_own_masks(model: Any) -> None:
    """llama4's `*_irope`: have each layer take its own mask.

    Flex attention is handed the masks of layers with and without rotary positions, by name, and
    takes one.
    """
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


def _initialize_router_biases(model: Any) -> None:
    """gpt_oss: have its routers begin without bias.

    `init_weights` leaves out the bias of a router's gate: it is then whatever was in memory, at
    times NaN.
    """
    from torch import no_grad
    from torchtitan.models.moe.moe import TokenChoiceTopKRouter

    gates: list[Any] = [m.gate for m in model.modules() if isinstance(m, TokenChoiceTopKRouter)]
    biased = [gate for gate in gates if gate.bias is not None]
    if not biased:
        return
    original = model.init_weights

    @functools.wraps(original)
    def init_weights(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        with no_grad():
            for gate in biased:
                gate.bias.zero_()

    model.init_weights = init_weights


class _Parallelize:
    """Amends the model, then calls its own function."""

    def __init__(self, parallelize: Any) -> None:
        self._parallelize = parallelize
        functools.update_wrapper(self, parallelize)

    def __call__(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        amend(model)
        return self._parallelize(model, *args, **kwargs)
