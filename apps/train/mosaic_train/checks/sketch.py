"""The model without its values: how large it is, and which weights it has."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mosaic_train.checks.model import ChosenModel, builds_from_own_section
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


@dataclass(frozen=True)
class Sketch:
    """What a model is made of.

    Attributes:
        parameters: Numbers that are trained.
        shapes: The shape of each weight that a checkpoint holds, by name.
    """

    parameters: int
    shapes: dict[str, tuple[int, ...]]


def sketch_model(config: "MosaicJobConfig", model: ChosenModel) -> Sketch | None:
    """Build the model as TorchTitan will, on the meta device, where it takes no memory.

    Returns:
        None for an experiment that fetches what it builds from the Hugging Face hub.

    Raises:
        TrainError: TorchTitan refuses this combination of model and configuration.
    """
    if builds_from_own_section(config):
        return None
    import torch
    from torchtitan.config import TORCH_DTYPE_MAP
    from torchtitan.tools.logging import logger
    from torchtitan.tools.utils import set_default_dtype

    # The spec is shared with whoever looks at it next.
    args = copy.deepcopy(model.args)
    # What it warns of, the ranks warn of.
    before, logger.disabled = logger.disabled, True
    try:
        args.update_from_config(config)
        with torch.device("meta"), set_default_dtype(TORCH_DTYPE_MAP[config.training.dtype]):
            built = model.spec.model_cls(args)
    except NotImplementedError as error:
        raise TrainError(f"{model.name} cannot be built: {error}") from error
    finally:
        logger.disabled = before
    return Sketch(
        parameters=sum(p.numel() for p in built.parameters() if p.requires_grad),
        shapes={
            name: tuple(value.shape)
            for name, value in built.state_dict().items()
            if isinstance(value, torch.Tensor)
        },
    )
