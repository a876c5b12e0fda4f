"""A checkpoint folder and a description of each model's own, where the configuration asks."""

import re
from typing import TYPE_CHECKING

from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def name_checkpoint_folder(config: "MosaicJobConfig") -> None:
    """Fill in `{model.name}` and `{model.flavor}` in `checkpoint.folder` and `job.description`.

    With them one file serves several models, none of which finds another's checkpoint.

    Raises:
        TrainError: The folder has something else in braces.
    """
    known = {"model.name": config.model.name, "model.flavor": config.model.flavor}

    def filled(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise TrainError(
                f"checkpoint.folder {config.checkpoint.folder!r}: {match[0]} is not known, only "
                f"{', '.join(f'{{{name}}}' for name in known)}"
            )
        return known[match[1]]

    config.checkpoint.folder = re.sub(r"\{([^{}]*)\}", filled, config.checkpoint.folder)
    # Any text; what is in braces there may be meant so.
    for name, value in known.items():
        config.job.description = config.job.description.replace(f"{{{name}}}", value)
