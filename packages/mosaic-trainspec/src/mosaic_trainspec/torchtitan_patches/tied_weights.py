"""Models whose output layer has the embedding's weight (qwen3 up to 4B), under FSDP.

`apply_fsdp` makes one group of the embedding and another of the last norm and the output, but a
weight can be in one group only. Here all three are one group, with the options of the second: the
weight is needed at both ends of the model, so that it stays whole from one to the other. This can
go once upstream makes that group itself.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_BACKEND = "experiments/transformers_modeling_backend/infra/parallelize.py"
ANSWERS = (
    "models/llama3/infra/parallelize.py:336: model.tok_embeddings,",
    "models/llama3/infra/parallelize.py:352: [model.norm, model.output],",
    "models/llama4/infra/parallelize.py:375: model.tok_embeddings,",
    "models/llama4/infra/parallelize.py:422: [model.norm, model.output],",
    f"{_BACKEND}:331: model.tok_embeddings,",
    f"{_BACKEND}:376: [model.norm, model.output],",
)


def has_tied_weights(model: Any) -> bool:
    """Whether the output layer of a model, not yet parallelized, has the embedding's weight."""
    embedding, output = getattr(model, "tok_embeddings", None), getattr(model, "output", None)
    weight = getattr(embedding, "weight", None)
    return weight is not None and weight is getattr(output, "weight", None)


@contextmanager
def tied_weights_in_one_group(model: Any) -> Iterator[None]:
    """Have FSDP, if it is applied inside, put a model's tied layers into one group."""
    if not has_tied_weights(model):
        yield
        return
    from torch.distributed.fsdp import fully_shard

    embedding, output = model.tok_embeddings, model.output

    def shard(modules: Any, **options: Any) -> Any:
        if modules is embedding:
            return embedding  # with the output, which comes later
        if isinstance(modules, list) and output in modules:
            # Tensor parallelism has given each its own weight; both are cut alike.
            output.weight = embedding.weight
            modules = [embedding, *modules]
        return fully_shard(modules, **options)

    # Modules have copied the function's name, TorchTitan's and those of users' own models.
    users = [m for m in list(sys.modules.values()) if _names(m).get("fully_shard") is fully_shard]
    users = [m for m in users if not m.__name__.startswith("torch.")]
    for user in users:
        user.fully_shard = shard  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for user in users:
            user.fully_shard = fully_shard  # type: ignore[attr-defined]


def _names(module: Any) -> dict[str, Any]:
    # Not by getattr: some modules import others when asked for a name.
    return getattr(module, "__dict__", {})
