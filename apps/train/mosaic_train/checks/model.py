"""The model of a configuration: is there one, how large is it, and which weights has it?"""

import copy
import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mosaic_train.errors import TrainError
from mosaic_train.spec import (
    builds_from_own_section,
    register_spec,
    registered_spec,
    resolved_args,
)

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


@dataclass(frozen=True)
class ChosenModel:
    """The model of a configuration.

    Attributes:
        name: Name and flavor, for messages.
        spec: Its TrainSpec, which has the arguments of all flavors.
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
    def is_gpt_oss(self) -> bool:
        """Whether it is TorchTitan's gpt_oss, which has limits of its own."""
        return str(self.spec.model_cls.__module__).startswith("torchtitan.models.gpt_oss.")


def find_model(config: "MosaicJobConfig") -> ChosenModel:
    """Look the model up.

    Raises:
        TrainSpecError: The name is unknown, or not a text model's.
        TrainError: The flavor is unknown, or a section that the model needs is wrong.
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
    args = resolved_args(config, spec.model_args[flavor])
    return ChosenModel(f"{config.model.name} {flavor}", spec, args)


@dataclass(frozen=True)
class MetaModel:
    """What a model is made of.

    Attributes:
        parameters: Numbers that are trained.
        shapes: The shape of each weight that a checkpoint holds, by name.
    """

    parameters: int
    shapes: dict[str, tuple[int, ...]]


def build_meta_model(config: "MosaicJobConfig", model: ChosenModel) -> MetaModel | None:
    """Build the model as TorchTitan will, on the meta device, where it takes no memory.

    None for an experiment that fetches what it builds from the Hugging Face hub.
    """
    if builds_from_own_section(config):
        return None
    import torch
    from torchtitan.config import TORCH_DTYPE_MAP
    from torchtitan.tools.logging import logger
    from torchtitan.tools.utils import set_default_dtype

    # The spec is shared with the other checks.
    args = copy.deepcopy(model.args)
    # The ranks repeat its warnings.
    before, logger.disabled = logger.disabled, True
    try:
        args.update_from_config(config)
        with torch.device("meta"), set_default_dtype(TORCH_DTYPE_MAP[config.training.dtype]):
            built = model.spec.model_cls(args)
    except NotImplementedError as error:
        raise TrainError(f"{model.name} cannot be built: {error}") from error
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
