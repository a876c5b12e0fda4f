"""The model's TrainSpec with Mosaic data: the one place where the three packages meet."""

import copy
import importlib
import os
import sys
import weakref
from typing import TYPE_CHECKING, Any

from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# An experiment with its own section, [hf_transformers], which says what to build.
_BACKEND = "transformers_modeling_backend"


def register_spec(config: "MosaicJobConfig") -> str:
    """Register the Mosaic variant of `model.name`; may be called any number of times.

    Returns:
        The name under which TorchTitan finds it.

    Raises:
        TrainError: `experimental.custom_import` cannot be imported, or the section that says what
            to build is missing or wrong.
        TrainSpecError: The model is unknown, or not a text model.
    """
    if config.experimental.custom_import:
        _import_custom(config.experimental.custom_import)

    from mosaic_dataloader import (
        build_mosaic_dataloader,
        build_mosaic_tokenizer,
        build_mosaic_validation_dataloader,
    )
    from mosaic_trainspec import register_mosaic_train_spec

    # For the metrics processor, to which TorchTitan's Trainer does not pass the loader that it has
    # built before. Weak: the spec stays registered when the run is over.
    built: list[weakref.ref[Any]] = []

    def build_dataloader(**options: Any) -> Any:
        loader = build_mosaic_dataloader(**options, vocab_size=vocab_size)
        built[:] = [weakref.ref(loader)]
        return loader

    def build_validation_dataloader(**options: Any) -> Any:
        loader = build_mosaic_validation_dataloader(**options, vocab_size=vocab_size)
        streams = loader.by_stream()
        return streams if len(streams) > 1 else loader

    def build_metrics_processor(
        job_config: Any, parallel_dims: Any, *others: Any, **more: Any
    ) -> Any:
        from torchtitan.components import metrics

        from mosaic_train.metrics import DataMetrics

        build = base_build_metrics_processor or metrics.build_metrics_processor
        processor = build(job_config, parallel_dims, *others, **more)
        loader = built[0]() if built else None
        if loader is not None:  # else a trainer that has no data
            DataMetrics(processor, loader, job_config, parallel_dims)
        return processor

    # The data package knows nothing of TorchTitan: its loaders and tokenizers have the methods of
    # TorchTitan's base classes without being derived from them.
    load_tokenizer: Any = build_mosaic_tokenizer
    name = register_mosaic_train_spec(
        config.model.name,
        build_dataloader_fn=build_dataloader,
        build_tokenizer_fn=load_tokenizer,
        build_validation_dataloader_fn=build_validation_dataloader,
    )
    # Only now is it known what the model embeds, and which metrics processor the spec has.
    spec = registered_spec(name)
    args = spec.model_args.get(config.model.flavor)
    vocab_size = None if args is None else vocabulary_of(resolved_args(config, args))
    base_build_metrics_processor = spec.build_metrics_processor_fn
    spec.build_metrics_processor_fn = build_metrics_processor
    return name


def _import_custom(module: str) -> None:
    """Import `experimental.custom_import`, which may register the very model that is named."""
    # As under `torchrun -m`, the working directory is looked into, too.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise TrainError(
            f"experimental.custom_import {module!r}: no module named {error.name!r} here or on "
            "PYTHONPATH: set PYTHONPATH, or correct it"
        ) from error


def registered_spec(name: str) -> Any:
    """The spec under a name that `register_spec` returned."""
    from torchtitan.protocols.train_spec import get_train_spec

    return get_train_spec(name)


def vocabulary_of(model_args: Any) -> int | None:
    """Token ids that a model embeds; None if its arguments do not say, or there are none."""
    return getattr(model_args, "vocab_size", None)


def builds_from_own_section(config: "MosaicJobConfig") -> bool:
    """Whether the model is an experiment with its own section that says what to build."""
    return config.model.name.removesuffix("_mosaic") == _BACKEND


def resolved_args(config: "MosaicJobConfig", args: Any) -> Any:
    """A flavor's arguments as the trainer will have them, where its own section decides them.

    Raises:
        TrainError: That section is missing, or what it names cannot be read.
    """
    if not builds_from_own_section(config):
        return args
    section: Any = getattr(config, "hf_transformers", None)
    if section is None:
        module = f"torchtitan.experiments.{_BACKEND}.job_config"
        raise TrainError(
            f"model.name {_BACKEND!r} needs its own section [hf_transformers]: set "
            f"job.custom_config_module = {module!r} and hf_transformers.model"
        )
    if not section.model:
        raise TrainError(f"model.name {_BACKEND!r} needs hf_transformers.model: set it")
    resolved = copy.deepcopy(args)
    try:
        resolved.update_from_config(config)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TrainError(
            f"hf_transformers.model {section.model!r} cannot be read ({reason}): set it to the "
            "name or the folder of a Hugging Face model"
        ) from error
    return resolved
