"""Set what `init_weights` leaves as it was in memory, at times NaN.

Two things: the bias of a gpt_oss router's gate, and the rotary frequencies of a model of
transformers (`transformers_modeling_backend`). The latter are in no checkpoint either: such a model
trained without positions where memory was zero, and with other ones after a resume. This can go
once upstream initializes both.
"""

import functools
from typing import Any

ANSWERS = (
    "models/moe/moe.py:358: trunc_normal_(self.gate.weight, mean=0.0, std=init_std)",
    "experiments/transformers_modeling_backend/model/model.py:446: "
    "self.model.apply(selective_init)",
)


def initialize_all(model: Any) -> None:
    """Have a model's `init_weights` set its routers' biases and its rotary frequencies.

    Args:
        model: Any model, before its weights are there.
    """
    from torch import no_grad
    from torchtitan.models.moe.moe import TokenChoiceTopKRouter

    modules = list(model.modules())
    gates: list[Any] = [m.gate for m in modules if isinstance(m, TokenChoiceTopKRouter)]
    biased = [gate for gate in gates if gate.bias is not None]
    rotary = [m for m in modules if hasattr(m, "rope_init_fn") and hasattr(m, "inv_freq")]
    if not biased and not rotary:
        return
    original = model.init_weights

    @functools.wraps(original)
    def init_weights(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        with no_grad():
            for gate in biased:
                gate.bias.zero_()
            for module in rotary:
                device = module.inv_freq.device
                frequencies, module.attention_scaling = module.rope_init_fn(module.config, device)
                module.inv_freq.copy_(frequencies)
                # What it goes back to after a long sequence, where frequencies depend on that.
                module.original_inv_freq = module.inv_freq.clone()

    model.init_weights = init_weights
