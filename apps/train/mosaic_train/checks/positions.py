"""Are rows as long as the model, and validation, can take them?"""

from typing import TYPE_CHECKING

from mosaic_train.checks.model import ChosenModel
from mosaic_train.checks.report import Report
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_positions(config: "MosaicJobConfig", model: ChosenModel, report: Report) -> None:
    """Compare the row lengths with the positions that the model knows.

    TorchTitan's models take `training.seq_len` for their maximum, whatever the flavor says, so that
    longer rows only cost quality; but validation cannot exceed it.

    Raises:
        TrainError: Validation rows are longer than training rows.
    """
    most = getattr(model.args, "max_seq_len", None)
    if most is None:
        return
    length = config.training.seq_len
    if length > most:
        report.warn(
            f"training.seq_len {length} exceeds the {most} positions that {model.name} is made "
            "for: later positions get rotations that it was not tuned for, and weights trained "
            f"elsewhere do not know them; {most} or less has no such cost"
        )
    if config.validation.enable and config.validation.seq_len > length:
        raise TrainError(
            f"validation.seq_len {config.validation.seq_len} exceeds training.seq_len {length}, "
            f"for which {model.name} computes its positions: set it to {length} or less"
        )
