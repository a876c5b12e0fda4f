"""What the model is called with: the validation counterpart of Trainer.post_dataloading_process."""

from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torchtitan.components.tokenizer import BaseTokenizer
from torchtitan.config import JobConfig
from torchtitan.distributed import ParallelDims
from torchtitan.distributed.context_parallel import prepare_context_parallel_input
from torchtitan.protocols import BaseModelArgs, ModelProtocol

# The attention types whose masks TorchTitan's Trainer builds outside the model.
_MASKED_ATTENTION = ("flex", "varlen")


class ModelInputs(NamedTuple):
    """One batch as this rank's model parts take it.

    Attributes:
        tokens: int64 [B, T], or [B, T / cp] with context parallelism.
        labels: Of the shape of ``tokens``, -100 where there is no target.
        first_stage: Further inputs of the first pipeline stage only.
        every_stage: Further inputs of every pipeline stage (attention masks, positions).
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    first_stage: dict[str, Any]
    every_stage: dict[str, Any]


def prepare_model_inputs(
    input_dict: dict[str, Any],
    labels: torch.Tensor,
    *,
    model_parts: list[nn.Module],
    model_args: BaseModelArgs,
    tokenizer: BaseTokenizer,
    parallel_dims: ParallelDims,
    job_config: JobConfig,
    device: torch.device,
) -> ModelInputs:
    """Move a batch to the device, build its attention masks and cut it for context parallelism.

    It follows TorchTitan 0.2.2's Trainer rather than its Validator, which asks every model for
    masks and drops any TypeError, and under context parallelism cuts the batch a second time.

    Args:
        input_dict: ``"input"``, int64 [B, T], and what else the loader gives. Not modified.
        labels: int64 [B, T].
        model_parts: This rank's parts; the first one makes the masks.
        model_args: Of the trained flavor; ``attn_type`` decides whether there are masks.
        tokenizer: Its ``eos_id`` separates documents in block-causal masks.
        parallel_dims: Tells whether context parallelism is on.
        job_config: Holds the context parallel load balancer.
        device: Where the model computes.
    """
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for name, value in input_dict.items()
    }
    tokens = moved.pop("input")
    labels = labels.to(device, non_blocking=True)
    every_stage: dict[str, Any] = {}
    if getattr(model_args, "attn_type", "sdpa") in _MASKED_ATTENTION:
        every_stage["attention_masks"] = cast(ModelProtocol, model_parts[0]).get_attention_masks(
            input_batch=tokens, tokenizer=tokenizer, extra_inputs=moved
        )
    if parallel_dims.cp_enabled:
        tokens, labels, every_stage = prepare_context_parallel_input(
            tokens,
            labels,
            every_stage,
            parallel_dims.get_mesh("cp"),
            device,
            job_config.parallelism.context_parallel_load_balancer,
        )
    return ModelInputs(tokens, labels, moved, every_stage)
