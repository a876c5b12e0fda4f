"""`experimental.custom_import`: small models of several kinds, and a loss of a spec's own.

`small_tied` is qwen3 whose output is its embedding, `small_experts` deepseek_v3 with a bias per
expert, `small_own_loss` llama3 with a loss that is not TorchTitan's, `small_averaging` llama3 whose
FSDP was set up by somebody who did not know that gradients are to be summed.
"""

import dataclasses
from typing import Any

import torch
from torch.distributed.fsdp import fully_shard
from torchtitan.components.loss import IGNORE_INDEX
from torchtitan.models import deepseek_v3, llama3, qwen3
from torchtitan.models.moe import MoEArgs
from torchtitan.protocols.train_spec import _extra_train_specs, register_train_spec

from integration_support.ledger import VOCABULARY
from integration_support.recording import build_recorded_metrics, tiny_args


def smoothed_loss(pred: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy with label smoothing, summed over the targets, as TorchTitan asks for."""
    return torch.nn.functional.cross_entropy(
        pred.flatten(0, 1).float(),
        labels.flatten(0, 1),
        reduction="sum",
        ignore_index=IGNORE_INDEX,
        label_smoothing=0.1,
    )


def build_smoothed_loss(job_config: Any, **others: Any) -> Any:
    return smoothed_loss


def parallelize_as_usual(model: Any, parallel_dims: Any, job_config: Any) -> Any:
    """FSDP as PyTorch's own examples apply it."""
    if parallel_dims.fsdp_enabled:
        mesh = parallel_dims.get_mesh("fsdp")
        for layer in model.layers.values():
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def tied_args() -> Any:
    return dataclasses.replace(
        qwen3.get_train_spec().model_args["debugmodel"],
        n_layers=1,
        dim=32,
        n_heads=4,
        n_kv_heads=2,
        head_dim=8,
        hidden_dim=64,
        max_seq_len=64,
        vocab_size=VOCABULARY,
    )


def expert_args() -> Any:
    return dataclasses.replace(
        deepseek_v3.get_train_spec().model_args["debugmodel"],
        n_layers=3,
        n_dense_layers=1,
        dim=32,
        n_heads=4,
        inter_dim=64,
        moe_inter_dim=32,
        kv_lora_rank=16,
        qk_nope_head_dim=8,
        qk_rope_head_dim=8,
        v_head_dim=8,
        max_seq_len=64,
        vocab_size=VOCABULARY,
        moe_args=MoEArgs(num_experts=4, num_shared_experts=1, top_k=2, load_balance_coeff=1e-3),
    )


if "small_tied" not in _extra_train_specs:
    for name, module, args, more in (
        ("small_tied", qwen3, tied_args(), {}),
        ("small_experts", deepseek_v3, expert_args(), {}),
        ("small_own_loss", llama3, tiny_args(), {"build_loss_fn": build_smoothed_loss}),
        ("small_averaging", llama3, tiny_args(), {"parallelize_fn": parallelize_as_usual}),
    ):
        spec = dataclasses.replace(
            module.get_train_spec(),
            model_args={"tiny": args},
            build_metrics_processor_fn=build_recorded_metrics,
            **more,
        )
        register_train_spec(name, spec)
