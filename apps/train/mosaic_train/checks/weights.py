"""Does the checkpoint hold the model that is to be trained?"""

from pathlib import Path
from typing import TYPE_CHECKING

from mosaic_train.checks.checkpoint import checkpoint_to_load, stored_shapes
from mosaic_train.checks.model import ChosenModel
from mosaic_train.checks.sketch import Sketch
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_weights(config: "MosaicJobConfig", model: ChosenModel, sketch: Sketch) -> None:
    """Compare the weights of the checkpoint that will be loaded with those of the model.

    Args:
        config: The configuration.
        model: The model that it names.
        sketch: Its weights.

    Raises:
        TrainError: One is missing there, or has another shape.
    """
    # Converters may rename weights, after which only they know what belongs together.
    if config.model.converters or "model" in config.checkpoint.exclude_from_loading:
        return
    folder = checkpoint_to_load(config)
    if folder is None:
        return
    stored = stored_shapes(folder)
    found = [
        f"{name} is {_size(stored[name])} there and {_size(shape)} here"
        for name, shape in sketch.shapes.items()
        if name in stored and stored[name] != shape
    ]
    found += [f"it has no {name}" for name in sketch.shapes if name not in stored]
    if found:
        more = f", and {len(found) - 1} more differences" if len(found) > 1 else ""
        raise TrainError(
            f"checkpoint {folder} holds another model than {model.name} ({found[0]}{more}): "
            f"{_remedy(config, folder)}, or restore model.name and model.flavor"
        )


def _remedy(config: "MosaicJobConfig", folder: Path) -> str:
    initial = config.checkpoint.initial_load_path
    if initial and folder == Path(initial):
        return "choose another checkpoint.initial_load_path"
    return "choose another checkpoint.folder"


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
