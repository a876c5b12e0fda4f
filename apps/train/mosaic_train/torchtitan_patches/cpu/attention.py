"""Attention over heads that tensor parallelism has shared out, without an accelerator."""

from typing import Any

from mosaic_train.torchtitan_patches.upstream import Answers

ANSWERS = (Answers("models/attention.py", 191, "return F.scaled_dot_product_attention("),)


def attend_to_own_heads() -> None:
    """Have attention over DTensors computed on each rank's own heads.

    PyTorch's fused attention for CPU has no sharding strategy. It needs none where heads are shared
    out: each is computed for itself. Models that keep DTensors up to there (qwen3) need this; the
    others pass plain tensors. This can go once PyTorch has that strategy.
    """
    from torch.distributed.tensor import DTensor, Replicate, Shard
    from torchtitan.models.attention import ScaledDotProductAttentionWrapper as Attention

    original: Any = Attention.forward
    if hasattr(original, "mosaic"):
        return
    # Of [batch, heads, length, head size]. Cut along the others, a rank cannot compute alone.
    alone = (Replicate(), Shard(0), Shard(1))

    def forward(self: Any, q: Any, k: Any, v: Any, **options: Any) -> Any:
        if not isinstance(q, DTensor) or any(placement not in alone for placement in q.placements):
            return original(self, q, k, v, **options)
        mesh, placements = q.device_mesh, q.placements
        own = (tensor.redistribute(mesh, placements).to_local() for tensor in (q, k, v))
        return DTensor.from_local(original(self, *own, **options), mesh, placements)

    forward.mosaic = True  # type: ignore[attr-defined]
    Attention.forward = forward  # type: ignore[method-assign]
