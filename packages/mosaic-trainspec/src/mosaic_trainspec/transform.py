"""From one TrainSpec to another: data, tokenizer and validation replaced, the model kept."""

import copy
import dataclasses
import inspect
from functools import partial

from torchtitan.protocols.train_spec import (
    DataLoaderBuilder,
    MetricsProcessorBuilder,
    TokenizerBuilder,
    TrainSpec,
)

from mosaic_trainspec.errors import TrainSpecError
from mosaic_trainspec.validator import ValidationDataLoaderBuilder
from mosaic_trainspec.validator_builder import build_mosaic_validator

# What is made from the token ids outside the model (gpt_oss has no default for its masks).
_MADE_FROM_TOKENS = ("attention_masks", "positions")


def get_mosaic_train_spec(
    base_spec: TrainSpec,
    *,
    build_dataloader_fn: DataLoaderBuilder,
    build_tokenizer_fn: TokenizerBuilder,
    build_validation_dataloader_fn: ValidationDataLoaderBuilder | None = None,
    build_metrics_processor_fn: MetricsProcessorBuilder | None = None,
) -> TrainSpec:
    """Return a copy of ``base_spec`` that reads its data through the given builders.

    Model, parallelization, optimizer, loss and state dict adapter stay the base's. The copy has
    the base's own class, so that what a subclass adds (``fragment_fn`` of ``llama3_ft``) is kept.
    Its ``model_args`` are deep copies: TorchTitan's Trainer calls ``update_from_config`` on a
    flavor in place, which must not reach the base, whose flavors are module globals.

    Args:
        base_spec: A text spec. It is not modified.
        build_dataloader_fn: TorchTitan's data loader builder, called with the keywords
            ``dp_world_size``, ``dp_rank``, ``tokenizer`` and ``job_config``.
        build_tokenizer_fn: Called with the job config.
        build_validation_dataloader_fn: As ``build_dataloader_fn``, for a finite loader that gives
            equally many batches on every rank, or for a mapping of streams' names to such loaders:
            then the loss of each stream is logged beside that of all. Without a builder,
            ``validation.enable`` is refused when the validator is built.
        build_metrics_processor_fn: Replaces the base's, which is kept if this is ``None``.

    Returns:
        A new spec whose ``build_validator_fn`` builds a ``MosaicValidator``, also where the base
        has none.

    Raises:
        TrainSpecError: ``base_spec`` is not a TrainSpec or not a text spec, or a builder is not
            callable.
    """
    require_text_spec(base_spec)
    builders: dict[str, object] = {
        "build_dataloader_fn": build_dataloader_fn,
        "build_tokenizer_fn": build_tokenizer_fn,
        "build_validation_dataloader_fn": build_validation_dataloader_fn,
        "build_metrics_processor_fn": build_metrics_processor_fn,
    }
    optional = ("build_validation_dataloader_fn", "build_metrics_processor_fn")
    for name, builder in builders.items():
        if not callable(builder) and (builder is not None or name not in optional):
            raise TrainSpecError(
                f"{name} must be callable, not {type(builder).__name__}: pass the builder function"
            )

    # Copied one by one, so that flavors sharing an object (say MoE arguments) stop sharing it too.
    model_args = {flavor: copy.deepcopy(args) for flavor, args in base_spec.model_args.items()}
    return dataclasses.replace(
        base_spec,
        model_args=model_args,
        build_dataloader_fn=build_dataloader_fn,
        build_tokenizer_fn=build_tokenizer_fn,
        build_validator_fn=partial(
            build_mosaic_validator,
            model_args=model_args,
            build_validation_dataloader_fn=build_validation_dataloader_fn,
        ),
        build_metrics_processor_fn=build_metrics_processor_fn
        or base_spec.build_metrics_processor_fn,
    )


def require_text_spec(base_spec: TrainSpec) -> None:
    """Raise unless this is a TrainSpec whose model can be trained on token ids alone.

    Judged by what the spec says of itself: a text spec builds a tokenizer, and its model's
    ``forward`` needs the token ids only. The size of the vocabulary is not a criterion:
    ``vlm`` has one, and ``transformers_modeling_backend`` learns its own only when training starts.

    Raises:
        TrainSpecError: It is not a TrainSpec, has no tokenizer builder, or its model needs further
            inputs.
    """
    if not isinstance(base_spec, TrainSpec):
        raise TrainSpecError(
            f"base_spec must be a torchtitan TrainSpec, not {type(base_spec).__name__}: "
            "pass what torchtitan's get_train_spec returns"
        )
    model = getattr(base_spec.model_cls, "__name__", repr(base_spec.model_cls))
    if base_spec.build_tokenizer_fn is None:
        raise TrainSpecError(
            f"{model} is not a text model (its TrainSpec builds no tokenizer), and Mosaic streams "
            "hold rows of token ids: set model.name to a text model"
        )
    needed = _required_inputs(base_spec.model_cls)
    if len(needed) > 1:
        raise TrainSpecError(
            f"{model} is not a pure text model (beside '{needed[0]}' its forward needs "
            f"{', '.join(needed[1:])}), and Mosaic streams hold rows of token ids: "
            "set model.name to a text model"
        )


def _required_inputs(model_cls: type) -> list[str]:
    parameters = list(inspect.signature(model_cls.forward).parameters.values())[1:]  # type: ignore[attr-defined]
    return [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.name not in _MADE_FROM_TOKENS
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
