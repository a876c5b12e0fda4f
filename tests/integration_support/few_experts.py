"""`experimental.custom_import` of a mixture of experts that is small enough for a test.

It is qwen3's, which unlike the others leaves `use_grouped_mm` as it is where there is no GPU.
"""

import dataclasses

from torchtitan.models.moe import MoEArgs
from torchtitan.models.qwen3 import get_train_spec
from torchtitan.protocols.train_spec import _extra_train_specs, register_train_spec

if "few_experts" not in _extra_train_specs:
    base = get_train_spec()
    args = dataclasses.replace(
        base.model_args["debugmodel_moe"],
        n_layers=2,
        dim=64,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        moe_inter_dim=64,
        moe_args=MoEArgs(num_experts=8, num_shared_experts=0, top_k=2, score_func="softmax"),
    )
    register_train_spec("few_experts", dataclasses.replace(base, model_args={"tiny": args}))
