"""The model of a configuration: is there one, how large is it, and which weights has it?"""

import copy
import difflib
import importlib
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mosaic_trainspec.errors import TrainSpecError

if TYPE_CHECKING:
    from torchtitan.config import JobConfig

# An experiment with its own section, [hf_transformers], which says what to build.
_BACKEND = "transformers_modeling_backend"


@dataclass(frozen=True)
class ChosenModel:
    """The model of a configuration.

    Attributes:
        name: Name and flavor, for messages.
        spec: TorchTitan's TrainSpec of it, which has the arguments of all flavors.
        args: The flavor's model arguments, with what a section of the model's own says.
    """

    name: str
    spec: Any
    args: Any

    @property
    def attention(self) -> str:
        """The kind of its attention: "sdpa", "flex" or "varlen"."""
        return str(getattr(self.args, "attn_type", "sdpa"))

    @property
    def vocab_size(self) -> int | None:
        """Token ids that it embeds; None if its arguments do not say, or there are none."""
        return getattr(self.args, "vocab_size", None)

    @property
    def is_gpt_oss(self) -> bool:
        """Whether it is TorchTitan's gpt_oss, which has limits of its own."""
        return str(self.spec.model_cls.__module__).startswith("torchtitan.models.gpt_oss.")


def find_model(config: "JobConfig") -> ChosenModel:
    """Look the model up, whether its Mosaic variant is registered yet or not.

    Raises:
        TrainSpecError: `experimental.custom_import` cannot be imported, the name is unknown or not
            a text model's, the flavor is unknown, or a section that the model needs is missing or
            wrong.
    """
    from mosaic_trainspec.registry import find_base_spec

    if config.experimental.custom_import:
        _import_custom(config.experimental.custom_import)
    _, spec = find_base_spec(config.model.name)
    flavor = config.model.flavor
    if flavor not in spec.model_args:
        near = difflib.get_close_matches(flavor, spec.model_args, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise TrainSpecError(
            f"model.flavor {flavor!r} of {config.model.name} is not known: {hint}"
            f"known are {', '.join(spec.model_args)}"
        )
    args = _resolved_args(config, spec.model_args[flavor])
    return ChosenModel(f"{config.model.name} {flavor}", spec, args)


def _import_custom(module: str) -> None:
    """Import `experimental.custom_import`, which may register the very model that is named."""
    # As under `torchrun -m`, the working directory is looked into, too.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise TrainSpecError(
            f"experimental.custom_import {module!r}: no module named {error.name!r} here or on "
            "PYTHONPATH: set PYTHONPATH, or correct it"
        ) from error


def _builds_from_own_section(config: "JobConfig") -> bool:
    """Whether the model is an experiment with its own section that says what to build."""
    return config.model.name.removesuffix("_mosaic") == _BACKEND


def _resolved_args(config: "JobConfig", args: Any) -> Any:
    """A flavor's arguments as the trainer will have them, where its own section decides them."""
    if not _builds_from_own_section(config):
        return args
    section: Any = getattr(config, "hf_transformers", None)
    if section is None:
        module = f"torchtitan.experiments.{_BACKEND}.job_config"
        raise TrainSpecError(
            f"model.name {_BACKEND!r} needs its own section [hf_transformers]: set "
            f"job.custom_config_module = {module!r} and hf_transformers.model"
        )
    if not section.model:
        raise TrainSpecError(f"model.name {_BACKEND!r} needs hf_transformers.model: set it")
    resolved = copy.deepcopy(args)
    try:
        resolved.update_from_config(config)
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise TrainSpecError(
            f"hf_transformers.model {section.model!r} cannot be read ({reason}): set it to the "
            "name or the folder of a Hugging Face model"
        ) from error
    return resolved


@dataclass(frozen=True)
class MetaModel:
    """What a model is made of.

    Attributes:
        parameters: Numbers that are trained.
        shapes: The shape of each weight that a checkpoint holds, by name.
    """

    parameters: int
    shapes: dict[str, tuple[int, ...]]


def build_meta_model(config: "JobConfig", model: ChosenModel) -> MetaModel | None:
    """Build the model as TorchTitan will, on the meta device, where it takes no memory.

    None for an experiment that fetches what it builds from the Hugging Face hub, and for a wrong
    `training.dtype`, which `check_options` reports.
    """
    import torch
    from torchtitan.config import TORCH_DTYPE_MAP
    from torchtitan.tools.logging import logger
    from torchtitan.tools.utils import set_default_dtype

    if _builds_from_own_section(config) or config.training.dtype not in TORCH_DTYPE_MAP:
        return None
    # The spec is shared with the other checks.
    args = copy.deepcopy(model.args)
    # The ranks repeat its warnings.
    before, logger.disabled = logger.disabled, True
    try:
        args.update_from_config(config)
        with torch.device("meta"), set_default_dtype(TORCH_DTYPE_MAP[config.training.dtype]):
            built = model.spec.model_cls(args)
    except NotImplementedError as error:
        raise TrainSpecError(f"{model.name} cannot be built: {error}") from error
    finally:
        logger.disabled = before
    return MetaModel(
        parameters=sum(p.numel() for p in built.parameters() if p.requires_grad),
        shapes={
            name: tuple(value.shape)
            for name, value in built.state_dict().items()
            if isinstance(value, torch.Tensor)
        },
    )
