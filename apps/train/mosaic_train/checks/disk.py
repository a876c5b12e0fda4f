"""Can the dump folder be written to, and has its disk room for the checkpoints to come?"""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from mosaic_dataloader.checks import network_filesystem
from mosaic_train.errors import TrainError
from mosaic_train.run_lock import lock_folder
from mosaic_trainspec.checks import (
    MetaModel,
    Report,
    bytes_per_parameter,
    complete_steps,
    own_folder,
    saves_checkpoints,
)

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

_GB = 1e9
# Of the copies of a parameter that a step keeps, all but the gradient are saved.
_SAVED = 3 / 4


def check_dump_folder(config: "MosaicJobConfig") -> None:
    """Check that no other run uses the dump folder, and that it can be written to."""
    if config.comm.mode != "default":  # a dry run, which writes nothing
        return
    lock_folder(config.job.dump_folder).close()
    if not config.checkpoint.enable:
        return
    # TorchTitan makes it; to TorchTitan its absence means a new run.
    folder = _nearest(own_folder(config))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise TrainError(
            f"checkpoint.folder {config.checkpoint.folder!r}: {folder} is not a directory that can "
            "be written to; choose another checkpoint.folder"
        )


def check_disk(
    config: "MosaicJobConfig", meta_model: MetaModel, machines: int, report: Report
) -> None:
    """Warn where the disk is too small for the checkpoints to come.

    Each of the run's machines writes its share of them.
    """
    from torchtitan.config import TORCH_DTYPE_MAP

    checkpoint = config.checkpoint
    if not saves_checkpoints(config) or checkpoint.interval < 1:
        return
    present = complete_steps(own_folder(config))
    steps_done = max(present, default=0) if checkpoint.load_step == -1 else checkpoint.load_step
    if steps_done >= config.training.steps:
        return
    # The last step is saved in any case.
    saves = -(-config.training.steps // checkpoint.interval) - steps_done // checkpoint.interval
    if checkpoint.keep_latest_k > 0:
        # The oldest one is removed when the newest is there.
        saves = max(1, min(saves, checkpoint.keep_latest_k + 1 - len(present)))
    full = int(bytes_per_parameter(config) * _SAVED)
    last = TORCH_DTYPE_MAP[checkpoint.export_dtype].itemsize
    each = last if checkpoint.last_save_model_only and saves == 1 else full
    disk = _nearest(own_folder(config))
    writers = 1 if network_filesystem(str(disk)) else machines
    size = meta_model.parameters * each // writers
    room = shutil.disk_usage(disk).free
    if saves * size <= room:
        return
    folder = config.job.dump_folder
    report.warn(
        f"job.dump_folder {folder} has {room / _GB:,.1f} GB of room, but a checkpoint of "
        f"{meta_model.parameters / 1e9:,.2f} billion parameters at {each} bytes takes "
        f"{size / _GB:,.1f} GB, and room for {saves} is needed: the disk will be full, and "
        f"training will stop, after {room // size} of them; choose a --job.dump_folder "
        "on a larger disk" + (", or lower checkpoint.keep_latest_k" if saves > 2 else "")
    )


def _nearest(folder: Path) -> Path:
    """A folder, or its nearest parent that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder
