"""Keys of mosaicml-streaming and llm-foundry that this loader leaves out on purpose."""

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
    "packing_ratio": "is llm-foundry's for finetuning, which there is none of here; remove it",
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


def reason_for_key(path: Path, key: str) -> str | None:
    """Return why a known key of mosaicml-streaming has no place at a path, or None."""
    if not path or path[0] not in _SECTIONS or key not in _REASONS:
        return None
    trainer = "validation" if path[0] == _VALIDATION else "training"
    return _REASONS[key].format(section=path[0], batch_size=f"{trainer}.local_batch_size")


def reason_for_value(path: Path, value: Any) -> str | None:
    """Return why a known value of mosaicml-streaming is not taken by a key, or None."""
    if path and path[0] in _SECTIONS and path[-1] == "partition_algo" and value == "orig":
        return 'the order is always elastic, so "orig" has no meaning; use "relaxed" or remove it'
    return None
