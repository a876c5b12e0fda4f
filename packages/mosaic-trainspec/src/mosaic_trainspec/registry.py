"""Registration under ``<name>_mosaic``, where ``model.name`` finds it."""

import difflib

from torchtitan import experiments, models
from torchtitan.protocols import train_spec as titan_registry
from torchtitan.protocols.train_spec import (
    DataLoaderBuilder,
    MetricsProcessorBuilder,
    TokenizerBuilder,
    TrainSpec,
)

from mosaic_trainspec.errors import TrainSpecError
from mosaic_trainspec.transform import get_mosaic_train_spec, require_text_spec
from mosaic_trainspec.validator import ValidationDataLoaderBuilder

_SUFFIX = "_mosaic"

# TorchTitan specs known to need more than token ids, with what they need. They are refused by name,
# because importing them only to look pulls in (or fails on) image libraries.
_NON_TEXT_SPECS = {
    "flux": "images",
    "vlm": "images next to the text",
}

# What this package registered, by registered name: tells our own entries in TorchTitan's registry
# from a spec that somebody else happened to register under the same name.
_ours: dict[str, TrainSpec] = {}


def register_mosaic_train_spec(
    name: str,
    *,
    build_dataloader_fn: DataLoaderBuilder,
    build_tokenizer_fn: TokenizerBuilder,
    build_validation_dataloader_fn: ValidationDataLoaderBuilder | None = None,
    build_metrics_processor_fn: MetricsProcessorBuilder | None = None,
) -> str:
    """Register the Mosaic variant of a TorchTitan spec and return its name, ``"<name>_mosaic"``.

    May be called any number of times; the latest builders count. Each call makes a new spec of the
    base, without what ``patch_spec`` and ``log_data_metrics`` have changed of the one before: call
    these after the last registration. A name that already is the Mosaic variant's
    (``"llama3_mosaic"``) stands for its base.

    Args:
        name: A model, an experiment or a registered spec, as in ``model.name``. A spec that
            ``experimental.custom_import`` registers is known once that is imported, which
            ``check_job`` does.
        build_dataloader_fn: See ``get_mosaic_train_spec``, as for the other builders.
        build_tokenizer_fn: Called with the job config.
        build_validation_dataloader_fn: Needed only if validation is enabled.
        build_metrics_processor_fn: ``None`` keeps the base's.

    Returns:
        The registered name, to be put into ``model.name``.

    Raises:
        TrainSpecError: The name is unknown or not a text spec, a module that the spec needs is
            missing, ``"<name>_mosaic"`` is somebody else's spec, or a builder is not callable.
    """
    registered_name, base_spec = find_base_spec(name)
    spec = get_mosaic_train_spec(
        base_spec,
        build_dataloader_fn=build_dataloader_fn,
        build_tokenizer_fn=build_tokenizer_fn,
        build_validation_dataloader_fn=build_validation_dataloader_fn,
        build_metrics_processor_fn=build_metrics_processor_fn,
    )
    # TorchTitan's registry has no way to replace an entry: register_train_spec refuses a name
    # that is taken, and a second call in one process (a notebook, a test) must not keep the
    # builders of the first. So its dict is written here.
    titan_registry._extra_train_specs[registered_name] = _ours[registered_name] = spec
    return registered_name


def find_base_spec(name: str) -> tuple[str, TrainSpec]:
    """The name of a model's Mosaic variant, and the text spec that it is made from.

    Args:
        name: As for ``register_mosaic_train_spec``.

    Raises:
        TrainSpecError: As there, except for the builders.
    """
    base_name = _base_name(name)
    registered_name = base_name + _SUFFIX
    taken = titan_registry._extra_train_specs.get(registered_name)
    if taken is not None and taken is not _ours.get(registered_name):
        raise TrainSpecError(
            f"a TrainSpec named '{registered_name}' was registered by other code: "
            f"register that one under another name, or '{base_name}' under one"
        )
    spec = _load_base_spec(base_name)
    require_text_spec(spec)
    return registered_name, spec


def _base_name(name: str) -> str:
    """Strip the suffix unless the suffixed name is itself a spec."""
    if name.endswith(_SUFFIX) and name not in _known_names():
        return name.removesuffix(_SUFFIX)
    return name


def _known_names() -> set[str]:
    """Every name that TorchTitan can look up, without this package's own."""
    specs = titan_registry._extra_train_specs
    foreign = {name for name, spec in specs.items() if spec is not _ours.get(name)}
    return foreign | models._supported_models | experiments._supported_experiments


def _load_base_spec(name: str) -> TrainSpec:
    known = _known_names()
    text_names = sorted(
        known_name
        for known_name in known
        if known_name not in _NON_TEXT_SPECS or known_name in titan_registry._extra_train_specs
    )
    if name not in known:
        nearest = difflib.get_close_matches(name, text_names, n=1, cutoff=0.5)
        hint = f"did you mean '{nearest[0]}'? " if nearest else ""
        raise TrainSpecError(
            f"model.name '{name}' is not known: {hint}known are {', '.join(text_names)}"
        )
    if name not in text_names:
        raise TrainSpecError(
            f"model.name '{name}' is not a text model (it needs {_NON_TEXT_SPECS[name]}), and "
            f"Mosaic streams hold rows of token ids: known text models are {', '.join(text_names)}"
        )
    try:
        return titan_registry.get_train_spec(name)
    except ModuleNotFoundError as error:
        raise TrainSpecError(
            f"model.name '{name}' needs the Python module '{error.name}', which is not installed: "
            "install it or choose another model"
        ) from error
    except ImportError as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TrainSpecError(
            f"model.name '{name}' cannot be imported ({reason}): install a version of "
            f"'{error.name or 'what it needs'}' that fits, or choose another model"
        ) from error
