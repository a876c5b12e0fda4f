"""Keys that are left out on purpose, or that TorchTitan has renamed or dropped."""

from typing import Any

from mosaic_config.schema import Path

_VALIDATION = "mosaic_validation_dataloader"
_SECTIONS = ("mosaic_dataloader", _VALIDATION)

_ORDER = "is not supported: the order follows from the options in [{section}.dataset]; remove it"
_REASONS = {
    "replication": (
        "is not needed: ranks of one model replica get the same samples from the parallel mesh; "
        "remove it"
    ),
    "batch_size": "is not set here: use {batch_size}; remove it",
    "stream_name": "is not supported: streams are always streaming.Stream; remove it",
    "stream_config": (
        "is not supported: write a stream's options in [{section}.dataset.streams.<name>]"
    ),
    "timeout": (
        "is not supported: workers have no timeout; for downloads set download_timeout (seconds) "
        "in [{section}.dataset]"
    ),
    # llm-foundry's text loader.
    "device_batch_size": "is not set here: use {batch_size}; remove it",
    "tokenizer": "is not set here: name it in [mosaic_tokenizer]; remove it",
    "eos_token_id": (
        "is not set here: the tokenizer's own is used, and a model that masks documents asks it; "
        "remove it"
    ),
    "bos_token_id": "is not set here: the tokenizer's own is used; remove it",
    "override_eos_token_id_mismatch_error": (
        "is not needed: only the tokenizer says which token ends a document; remove it"
    ),
    "override_bos_token_id_mismatch_error": (
        "is not needed: only the tokenizer says which token begins a document; remove it"
    ),
    "mlm_probability": "is not supported: TorchTitan's models predict the next token; remove it",
    "seq_parallel_replication": (
        "is not needed: ranks of one model replica get the same samples from the parallel mesh; "
        "remove it"
    ),
    "packing_ratio": "is llm-foundry's option for finetuning, which is not supported; remove it",
    # torch's DataLoader.
    "sampler": _ORDER,
    "batch_sampler": _ORDER,
    "generator": "is not supported: set shuffle_seed in [{section}.dataset]",
    "collate_fn": "is not supported: a batch is always inputs and labels; remove it",
    "worker_init_fn": "is not supported: workers only read rows; remove it",
    "multiprocessing_context": "is not supported: workers are forked; remove it",
    "pin_memory_device": "is not needed: it is the rank's own device; remove it",
    "in_order": "is not supported: batches always come in order; remove it",
}

# Keys of older TorchTitans, and what 0.2.2 has in their place. A key that has only moved to another
# section is found there by its name.
_RENAMED = {
    "checkpoint.enable_checkpoint": "checkpoint.enable",
    "checkpoint.initial_load_model_weights_only": "checkpoint.initial_load_model_only",
    "checkpoint.last_save_in_safetensors_format": "checkpoint.last_save_in_hf",
    "checkpoint.last_save_model_weights_only": "checkpoint.last_save_model_only",
    "checkpoint.model_weights_only": "checkpoint.last_save_model_only",
    "experimental.pipeline_parallel_microbatches": "parallelism.pipeline_parallel_microbatch_size",
    "experimental.pipeline_parallel_split_points": "parallelism.module_fqns_per_model_part",
    "float8": "quantize.linear.float8",
    "float8.moe_fqns_prototype": "quantize.grouped_mm.float8.fqns",
    "job.print_args": "job.print_config",
    "lr_scheduler.lr_min": "lr_scheduler.min_lr_factor",
    "metrics.enable_color_printing": "metrics.disable_color_printing, with the opposite value",
    "metrics.rank_0_only": "metrics.save_for_all_ranks, with the opposite value",
    "mx": "quantize.linear.mx",
    "optimizer.fused": 'optimizer.implementation = "fused"',
    "parallelism.pipeline_parallel_split_points": "parallelism.module_fqns_per_model_part",
    "training.batch_size": "training.local_batch_size",
    "training.compile": "compile.enable",
    "training.data_parallel_degree": "parallelism.data_parallel_shard_degree",
    "training.debug_moe_force_load_balance": "debug.moe_force_load_balance",
    "training.enable_float8_linear": 'model.converters = ["quantize.linear.float8"]',
    "training.enable_loss_parallel": "parallelism.disable_loss_parallel, with the opposite value",
    "validation.batch_size": "validation.local_batch_size",
}
_DROPPED = {
    "checkpoint.interval_type": "checkpoint.interval counts steps",
    "experimental.enable_compiled_autograd": "TorchTitan has no such option any more",
    "job.use_for_integration_test": "TorchTitan has no such option any more",
    "model.attn_mask_type": 'the flavor decides, as in model.flavor = "debugmodel_flex_attn"',
    "model.norm_type": "the model decides",
    "model.use_flex_attn": 'the flavor decides, as in model.flavor = "debugmodel_flex_attn"',
    "parallelism.enable_compiled_autograd": "TorchTitan has no such option any more",
    "training.data_parallel_type": (
        "parallelism.data_parallel_shard_degree makes it FSDP, data_parallel_replicate_degree DDP"
    ),
}


def reason_for_key(path: Path, key: str) -> str | None:
    """Return why a known key is not taken at a path, and what to do; None for any other key."""
    name = ".".join((*path, key))
    if name in _RENAMED:
        return f"is an older TorchTitan's name: write {_RENAMED[name]}"
    if name in _DROPPED:
        return f"is an older TorchTitan's: {_DROPPED[name]}; remove it"
    if not path or path[0] not in _SECTIONS or key not in _REASONS:
        return None
    trainer = "validation" if path[0] == _VALIDATION else "training"
    return _REASONS[key].format(section=path[0], batch_size=f"{trainer}.local_batch_size")


def reason_for_value(path: Path, value: Any) -> str | None:
    """Return why a known value of mosaicml-streaming is not taken by a key, or None."""
    if path and path[0] in _SECTIONS and path[-1] == "partition_algo" and value == "orig":
        return 'the order is always elastic, so "orig" has no meaning; use "relaxed" or remove it'
    return None
