"""Which specs are text specs: the only ones that rows of token ids can train."""

import inspect

from torchtitan.protocols.train_spec import TrainSpec

from mosaic_trainspec.errors import TrainSpecError

#: TorchTitan specs known to need more than token ids, with what they need. They are refused by
#: name, because importing them only to look pulls in (or fails on) image libraries.
NON_TEXT_SPECS = {
    "flux": "images",
    "vlm": "images next to the text",
}

# What is made from the token ids outside the model (gpt_oss has no default for its masks).
_MADE_FROM_TOKENS = ("attention_masks", "positions")


def refuse_non_text_spec(base_spec: TrainSpec) -> None:
    """Raise unless the spec's model can be trained on token ids alone.

    Judged by what the spec says of itself: a text spec builds a tokenizer, and its model's
    ``forward`` needs the token ids only. The size of the vocabulary is not a criterion:
    ``vlm`` has one, and ``transformers_modeling_backend`` learns its own only when training starts.

    Raises:
        TrainSpecError: The spec has no tokenizer builder, or its model needs further inputs.
    """
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
