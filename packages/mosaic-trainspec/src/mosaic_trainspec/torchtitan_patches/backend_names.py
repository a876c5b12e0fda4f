"""Models of Hugging Face's (`transformers_modeling_backend`): let their checkpoints be resumed.

The model names its children as TorchTitan's own models do ("layers"), for the cut into stages of a
pipeline, but its weights by where they are ("model.model.layers"). PyTorch's state dicts go by
either: what was saved is looked for under other names, and no checkpoint can be resumed, on any
number of ranks. Once a model or stage is cut, its children get their real names back. This can go
once upstream cuts stages without renaming children.
"""

from typing import Any

ANSWERS = (
    "experiments/transformers_modeling_backend/model/model.py:455: def named_children(self):",
)


def name_children(model: Any) -> None:
    """Give the children of a model or stage the names that its weights have."""
    from torch import nn

    if type(model).named_children is not nn.Module.named_children:
        model.named_children = lambda: nn.Module.named_children(model)
