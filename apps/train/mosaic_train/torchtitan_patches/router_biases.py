"""gpt_oss: have its routers begin without bias.

`init_weights` leaves out the bias of a router's gate: it is then whatever was in memory, at times
NaN. This can go once upstream initializes the bias with the weight.
"""

import functools
from typing import Any

ANSWERS = ("models/moe/moe.py:358: trunc_normal_(self.gate.weight, mean=0.0, std=init_std)",)


def initialize_router_biases(model: Any) -> None:
    """Have a model's `init_weights` set the biases of its routers' gates to zero."""
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
