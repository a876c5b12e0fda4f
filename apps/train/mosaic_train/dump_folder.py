"""`job.dump_folder`: it can be written to, belongs to one run at a time, and has room."""

import errno
import fcntl
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mosaic_train.checks.checkpoint import complete_steps
from mosaic_train.checks.filesystems import filesystem_type, is_network
from mosaic_train.checks.memory import bytes_per_parameter
from mosaic_train.checks.report import Report
from mosaic_train.checks.sketch import Sketch
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

_LOCK = ".mosaic-train.lock"
# How long a run that is about to end, such as one that was interrupted, is waited for.
_PATIENCE = 3.0
_GB = 1e9
# Of the copies of a parameter that a step keeps, all but the gradient are saved.
_SAVED = 3 / 4
_FULL = (errno.ENOSPC, errno.EDQUOT)


class RunLock:
    """Holds a dump folder for this run, until the process ends or `release` is called.

    Rank 0 holds it, whatever machine it is on, so that a run of many machines is one. It is a
    POSIX lock: it works over NFS, and children do not inherit it.

    Args:
        folder: The dump folder; made if it is missing.

    Raises:
        TrainError: Another run holds it, or it cannot be made or written to.
    """

    def __init__(self, folder: str):
        path = Path(folder, _LOCK)
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            self._file: IO[str] = open(path, "a+", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise _cannot_write(folder, error) from error
        deadline = time.monotonic() + _PATIENCE
        while not self._locked(folder):
            if time.monotonic() > deadline:
                self._file.seek(0)
                holder = self._file.read(1000).strip() or "which has not said yet who it is"
                self._file.close()
                raise TrainError(
                    f"job.dump_folder {folder} is in use by another run ({holder}), whose "
                    "checkpoints and logs this one would mix with its own: wait for it to end, or "
                    "choose another --job.dump_folder"
                )
            time.sleep(0.1)
        try:
            self._file.truncate(0)
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            self._file.write(f"process {os.getpid()} on {socket.gethostname()} since {started}\n")
            self._file.flush()
        except OSError as error:
            raise _cannot_write(folder, error) from error

    def _locked(self, folder: str) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise TrainError(
                f"job.dump_folder {folder}: its file system cannot lock files "
                f"({error.strerror}), so that two runs could not be told apart: choose another "
                "--job.dump_folder"
            ) from error
        return True

    def release(self) -> None:
        """Let the folder go."""
        self._file.close()


def check_dump_folder(config: "MosaicJobConfig") -> None:
    """See that no other run is in the dump folder, and that it can be written to.

    Raises:
        TrainError: There is one, or it cannot.
    """
    if config.comm.mode != "default":  # a dry run, which writes nothing
        return
    RunLock(config.job.dump_folder).release()
    if not config.checkpoint.enable:
        return
    # It is TorchTitan that makes it, to which its absence means a new run.
    folder = _nearest(Path(config.job.dump_folder, config.checkpoint.folder))
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise TrainError(
            f"checkpoint.folder {config.checkpoint.folder!r}: {folder} is not a directory that can "
            "be written to; choose another checkpoint.folder"
        )


def check_disk(config: "MosaicJobConfig", sketch: Sketch, machines: int, report: Report) -> None:
    """Warn where the disk is too small for the checkpoints to come.

    Args:
        config: The configuration.
        sketch: The model's size.
        machines: Machines of the run, each of which writes its share.
        report: Where the warning goes.
    """
    from torchtitan.config import TORCH_DTYPE_MAP

    checkpoint = config.checkpoint
    if not checkpoint.enable or checkpoint.load_only or checkpoint.interval < 1:
        return
    present = complete_steps(config)
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
    disk = _nearest(Path(config.job.dump_folder, checkpoint.folder))
    writers = 1 if is_network(filesystem_type(str(disk))) else machines
    size = sketch.parameters * each // writers
    room = shutil.disk_usage(disk).free
    if saves * size <= room:
        return
    folder = config.job.dump_folder
    report.warn(
        f"job.dump_folder {folder} has {room / _GB:,.1f} GB of room, but a checkpoint of "
        f"{sketch.parameters / 1e9:,.2f} billion parameters at {each} bytes takes "
        f"{size / _GB:,.1f} GB, and room for {saves} is needed: the disk will be full, and "
        f"training will stop, after {room // size} of them; choose a --job.dump_folder "
        "on a larger disk" + (", or lower checkpoint.keep_latest_k" if saves > 2 else "")
    )


def explain_full_disk(error: BaseException, folder: str) -> str | None:
    """The line for a run that failed because a disk is full; None if it failed otherwise.

    Torch's own writers tell of it in words only, and wrap what other ranks have met.

    Args:
        error: What ended the run.
        folder: The dump folder.
    """
    causes = list(_causes(error))
    places = [
        str(cause.filename or folder)
        for cause in causes
        if isinstance(cause, OSError) and cause.errno in _FULL
    ]
    words = [os.strerror(number) for number in _FULL]
    told = any(word in str(cause) for cause in causes for word in words)
    failed = told or (any("write" in str(cause) for cause in causes) and _is_full(folder))
    if not places and not failed:
        return None
    place = places[0] if places else folder
    return (
        f"no space left on the disk of {place}: free some, or lower checkpoint.keep_latest_k, and "
        "start again; the run continues from its last complete checkpoint"
    )


def _nearest(folder: Path) -> Path:
    """A folder, or its nearest parent that exists."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _is_full(folder: str) -> bool:
    try:
        return shutil.disk_usage(folder).free < 1 << 20
    except OSError:
        return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it wraps, and what it was raised from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__]
        failures = getattr(cause, "failures", None)
        if isinstance(failures, dict):  # of torch's CheckpointException, by rank
            waiting += [each[0] for each in failures.values()]


def _cannot_write(folder: str, error: OSError) -> TrainError:
    return TrainError(
        f"job.dump_folder {folder}: it cannot be made or written to ({error.strerror}): choose "
        "another --job.dump_folder"
    )
