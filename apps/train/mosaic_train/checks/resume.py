"""Will the loader take the position that the checkpoint holds, and is the batch still the same?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mosaic_train.errors import TrainError
from mosaic_trainspec.checks import (
    Report,
    check_checkpoint,
    checkpoint_to_resume,
    complete_steps,
    missing_parts,
    own_folder,
    read_values,
    saved_entries,
)

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig
    from mosaic_dataloader.inspect import Steps

_STEP = "train_state.step"
_DATALOADER = "dataloader"
# The keys of our loader's state; the lanes are those of packing.
_POSITION = f"{_DATALOADER}.mosaic"
_LANE = f"{_DATALOADER}.lane_"


def check_position(config: "MosaicJobConfig") -> None:
    """Look at the keys of the checkpoint, if there is one, for the data's position, too.

    Raises:
        TrainSpecError: TorchTitan could not load the checkpoint (see `check_checkpoint`).
        TrainError: It holds no position, or other lanes than the run asks for.
    """
    check_checkpoint(config)
    folder, excluded = checkpoint_to_resume(config), set(config.checkpoint.exclude_from_loading)
    if folder is None or _DATALOADER in excluded:
        return
    if _POSITION not in saved_entries(folder):
        found = (
            "holds no position of the data"
            if _DATALOADER in missing_parts(folder)
            else "was written with another data loader, whose position means nothing here"
        )
        raise TrainError(
            f"checkpoint {folder} {found}: start the data from the beginning with "
            f"--checkpoint.exclude_from_loading {','.join(sorted(excluded | {_DATALOADER}))}"
        )
    dataset, lanes = config.mosaic_dataloader.dataset, len(_lane_keys(folder))
    # Torch would end in a long traceback over a lane that the checkpoint does not have.
    if not dataset.packing:
        return  # the loader says what it finds
    if not lanes:
        raise TrainError(
            f"checkpoint {folder} was written without packing: set "
            "mosaic_dataloader.dataset.packing = false, or start the data from the beginning with "
            f"--checkpoint.exclude_from_loading {_DATALOADER}"
        )
    if dataset.packing_lanes not in (None, lanes):
        raise TrainError(
            f"mosaic_dataloader.dataset.packing_lanes is {dataset.packing_lanes}, but checkpoint "
            f"{folder} has {lanes}: a run keeps the lanes that it began with, so leave "
            "packing_lanes out"
        )


def keep_lanes(config: "MosaicJobConfig") -> None:
    """Set `packing_lanes`, where it is left open, to the lanes of the checkpoint to continue.

    A run keeps the lanes that it began with. The loader would read them from its saved state, but
    torch's distributed checkpoint asks for the keys of the present lanes before that.
    """
    dataset = config.mosaic_dataloader.dataset
    if not dataset.packing or dataset.packing_lanes is not None:
        return
    folder = checkpoint_to_resume(config)
    if folder is not None and _DATALOADER not in config.checkpoint.exclude_from_loading:
        dataset.packing_lanes = len(_lane_keys(folder)) or None


def _lane_keys(folder: Path) -> list[str]:
    """The keys of a checkpoint's packing lanes; none without packing, or of another loader."""
    return [key for key in saved_entries(folder) if key.startswith(_LANE)]


class Resumed(NamedTuple):
    """Where a run starts.

    Attributes:
        checkpoint: The checkpoint that it resumes from; None for a new run.
        steps_done: Steps that were trained before.
        data: Whether the data's position was loaded as well; else the data begins at its start.
    """

    checkpoint: Path | None
    steps_done: int
    data: bool


def resume_from_checkpoint(config: "MosaicJobConfig", loader: Any, report: Report) -> Resumed:
    """Load the checkpoint's data position into the first rank's loader, as each rank will.

    Warns where the global batch changes, or the data begins again.

    Raises:
        TrainSpecError: The checkpoint cannot be read.
        MosaicDataError: The loader refuses the position: data, options or layout have changed.
    """
    folder = checkpoint_to_resume(config)
    if folder is None:
        return Resumed(None, 0, data=False)
    excluded = config.checkpoint.exclude_from_loading
    saved_keys, keys = saved_entries(folder), []
    if _DATALOADER not in excluded and _POSITION in saved_keys:
        keys = [_POSITION, *_lane_keys(folder)]
    if "train_state" not in excluded and _STEP in saved_keys:
        keys.append(_STEP)
    saved = read_values(folder, keys)
    steps_done = int(saved.pop(_STEP, 0))
    if saved:
        prefix = f"{_DATALOADER}."
        loader.load_state_dict({key.removeprefix(prefix): saved[key] for key in saved})
        _warn_of_another_batch(config, loader, folder, steps_done, report)
    elif steps_done:
        report.warn(
            f"the run resumes at step {steps_done:,} of checkpoint {folder}, but its data begins "
            f"at the start, as in a new run (checkpoint.exclude_from_loading has {_DATALOADER}): "
            "what it has trained on comes again; leave that out, or set "
            "mosaic_dataloader.skip_samples to the samples to leave out"
        )
    return Resumed(folder, steps_done, data=bool(saved))


def _warn_of_another_batch(
    config: "MosaicJobConfig", loader: Any, folder: Path, steps_done: int, report: Report
) -> None:
    before = _rows_per_step(config, loader, steps_done)
    micro = loader.batch_size * loader.dp_world_size
    now = config.training.global_batch_size
    now = now if now > 0 else micro
    if before is None or before == now:
        return
    report.warn(
        f"the run in {folder} trained on {before} rows in a step and would now train on {now} "
        f"({loader.dp_world_size} data-parallel rank(s), training.local_batch_size "
        f"{loader.batch_size}, training.global_batch_size {config.training.global_batch_size}): "
        "its learning rate and schedule were chosen for the former; "
        + _to_keep(before, loader.dp_world_size, micro)
    )


def _to_keep(batch: int, ranks: int, micro: int) -> str:
    if batch % micro == 0:
        return f"set training.global_batch_size = {batch} to keep it"
    if batch % ranks == 0:
        return (
            f"set training.global_batch_size = {batch} and training.local_batch_size to "
            f"{batch // ranks}, or to a divisor of that, to keep it"
        )
    return f"to keep it, start a number of data-parallel ranks that divides {batch}"


def _rows_per_step(config: "MosaicJobConfig", loader: Any, steps_done: int) -> int | None:
    """Rows of a step of the run so far, by its last two checkpoints; None if unknown."""
    # What `skip` left out is in the position, and in no step.
    rows, steps = loader.samples_seen - loader.left_out, steps_done
    begin = rows - loader.counters().rows
    earlier = [step for step in complete_steps(own_folder(config)) if 0 < step < steps_done]
    if earlier:
        # Before that the run may have had another batch.
        folder = own_folder(config) / f"step-{earlier[-1]}"
        if _POSITION in saved_entries(folder):
            saved = json.loads(read_values(folder, [_POSITION])[_POSITION])
            left_out = sum(stop - start for start, stop in saved.get("left_out", ()))
            begin = saved["samples_seen"] - left_out
            steps -= earlier[-1]
    if steps < 1 or rows <= begin or (rows - begin) % steps:
        return None
    return int(rows - begin) // steps


def steps_of(config: "MosaicJobConfig", loader: Any, done: int) -> "Steps":
    """The steps of the run, of which some are done, for the checks and the inspection of its data.

    The loader is the first rank's, at the position where training starts.
    """
    from mosaic_dataloader.inspect import Steps

    rows = config.training.global_batch_size
    rows = rows if rows > 0 else loader.batch_size * loader.dp_world_size
    return Steps(loader, rows, config.training.steps, done, option="--at-step")
