"""The model's TrainSpec with Mosaic data, as a rank trains it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def register_spec(config: "MosaicJobConfig") -> str:
    """Register the Mosaic variant of `model.name`; may be called any number of times.

    Returns:
        The name under which TorchTitan finds it.

    Raises:
        TrainSpecError: There is no such text model (see `find_model`).
    """
    from torchtitan.protocols.train_spec import get_train_spec

    from mosaic_dataloader import (
        build_mosaic_dataloader,
        build_mosaic_tokenizer,
        build_mosaic_validation_dataloader,
    )
    from mosaic_trainspec import log_data_metrics, patch_spec, register_mosaic_train_spec
    from mosaic_trainspec.checks import find_model

    vocab_size = find_model(config).vocab_size

    def build_dataloader(**options: Any) -> Any:
        return build_mosaic_dataloader(**options, vocab_size=vocab_size)

    def build_validation_dataloader(**options: Any) -> Any:
        loader = build_mosaic_validation_dataloader(**options, vocab_size=vocab_size)
        streams = loader.by_stream()
        return streams if len(streams) > 1 else loader

    # The data package knows nothing of TorchTitan: its loaders and tokenizers have the methods of
    # TorchTitan's base classes without being derived from them.
    load_tokenizer: Any = build_mosaic_tokenizer
    name = register_mosaic_train_spec(
        config.model.name,
        build_dataloader_fn=build_dataloader,
        build_tokenizer_fn=load_tokenizer,
        build_validation_dataloader_fn=build_validation_dataloader,
    )
    spec = get_train_spec(name)
    log_data_metrics(spec)
    patch_spec(spec)
    return name
