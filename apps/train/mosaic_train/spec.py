"""The model's TrainSpec with Mosaic data: the one place where the three packages meet."""

import importlib
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from mosaic_train.errors import TrainError
from mosaic_train.metrics.join import DataMetricsJoin

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def register_spec(config: "MosaicJobConfig") -> str:
    """Register the Mosaic variant of `model.name`; may be called any number of times.

    Returns:
        The name under which TorchTitan finds it.

    Raises:
        TrainError: `experimental.custom_import` cannot be imported.
        TrainSpecError: The model is unknown or no text model.
    """
    if config.experimental.custom_import:
        # It may register the very model that is named. As under `torchrun -m`, the working
        # directory is looked into, too.
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())
        try:
            importlib.import_module(config.experimental.custom_import)
        except ModuleNotFoundError as error:
            raise TrainError(
                f"experimental.custom_import {config.experimental.custom_import!r}: no module "
                f"named {error.name!r} here or on PYTHONPATH: set PYTHONPATH, or correct it"
            ) from error

    from mosaic_dataloader import (
        build_mosaic_dataloader,
        build_mosaic_tokenizer,
        build_mosaic_validation_dataloader,
    )
    from mosaic_trainspec import register_mosaic_train_spec

    # The data package knows nothing of TorchTitan: its loaders and tokenizers have the methods of
    # TorchTitan's base classes without being derived from them.
    builders: dict[str, Any] = {
        "build_dataloader_fn": build_mosaic_dataloader,
        "build_tokenizer_fn": build_mosaic_tokenizer,
        "build_validation_dataloader_fn": build_mosaic_validation_dataloader,
    }
    name = register_mosaic_train_spec(config.model.name, **builders)
    # Only now is it known what the model embeds, and which metrics processor the spec brings along.
    spec = registered_spec(name)
    vocab_size = vocabulary_of(spec.model_args.get(config.model.flavor))
    builders["build_validation_dataloader_fn"] = partial(
        build_mosaic_validation_dataloader, vocab_size=vocab_size
    )
    join = DataMetricsJoin(
        partial(build_mosaic_dataloader, vocab_size=vocab_size), spec.build_metrics_processor_fn
    )
    builders["build_dataloader_fn"] = join.build_dataloader
    builders["build_metrics_processor_fn"] = join.build_metrics_processor
    return register_mosaic_train_spec(name, **builders)


def vocabulary_of(model_args: Any) -> int | None:
    """Token ids that a model embeds; None if its arguments do not say, or there are none."""
    return getattr(model_args, "vocab_size", None)


def registered_spec(name: str) -> Any:
    """The spec under a name that `register_spec` returned."""
    from torchtitan.protocols.train_spec import get_train_spec

    return get_train_spec(name)
