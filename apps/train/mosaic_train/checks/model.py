"""Is there such a model, in such a size?"""

import copy
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mosaic_train.errors import TrainError
from mosaic_train.spec import register_spec, registered_spec

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


# Experiments that are told in a section of their own what to build: section, key, its module.
_OWN_SECTIONS = {
    "transformers_modeling_backend": (
        "hf_transformers",
        "model",
        "torchtitan.experiments.transformers_modeling_backend.job_config",
    )
}


@dataclass(frozen=True)
class ChosenModel:
    """The model of a configuration.

    Attributes:
        name: Name and flavor, for messages.
        spec: Its TrainSpec.
        args: The flavor's model arguments, with what a section of the model's own says.
    """

    name: str
    spec: Any
    args: Any

    @property
    def flavors(self) -> Mapping[str, Any]:
        """All flavors by name."""
        flavors: Mapping[str, Any] = self.spec.model_args
        return flavors


def find_model(config: "MosaicJobConfig") -> ChosenModel:
    """Look the model up.

    Raises:
        TrainSpecError: The name is unknown, or not a text model's.
        TrainError: The flavor is unknown, or a section that the model needs is not as it must be.
    """
    spec = registered_spec(register_spec(config))
    flavor = config.model.flavor
    if flavor not in spec.model_args:
        near = difflib.get_close_matches(flavor, spec.model_args, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TrainError(
            f"model.flavor {flavor!r} of {config.model.name} is not known: {hint}"
            f"known are {', '.join(spec.model_args)}"
        )
    args = _settle(config, spec.model_args[flavor])
    return ChosenModel(f"{config.model.name} {flavor}", spec, args)


def builds_from_own_section(config: "MosaicJobConfig") -> bool:
    """Whether the model is an experiment that a section of its own tells what to build."""
    return config.model.name in _OWN_SECTIONS


def _settle(config: "MosaicJobConfig", args: Any) -> Any:
    """The arguments as the trainer will have them, where a section of its own decides them."""
    name = config.model.name
    if not builds_from_own_section(config):
        return args
    section, key, module = _OWN_SECTIONS[name]
    if not hasattr(config, section):
        raise TrainError(
            f"model.name {name!r} has a section [{section}] of its own: set "
            f"job.custom_config_module = {module!r} and {section}.{key}"
        )
    if not getattr(getattr(config, section), key):
        raise TrainError(f"model.name {name!r} needs {section}.{key}: set it")
    settled = copy.deepcopy(args)
    try:
        settled.update_from_config(config)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TrainError(
            f"{section}.{key} {getattr(getattr(config, section), key)!r} cannot be read "
            f"({reason}): set it to the name or the folder of a Hugging Face model"
        ) from error
    return settled
