"""Can the checkpoint that TorchTitan is about to load be resumed, and does it hold this model?

Its distributed checkpoints are loaded by key, in every rank at once; a missing key ends there in a
long traceback that names neither the cause nor the remedy.
"""

import re
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mosaic_train.checks.model import ChosenModel, MetaModel
from mosaic_train.errors import TrainError

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# The parts of a full checkpoint besides the model, as TorchTitan names them.
DATALOADER = "dataloader"
_PARTS = ("optimizer", "lr_scheduler", "train_state", DATALOADER)
# The keys of our loader's state; the lanes are those of packing.
POSITION = f"{DATALOADER}.mosaic"
_LANE = f"{DATALOADER}.lane_"


def check_checkpoint(config: "MosaicJobConfig") -> None:
    """Look at the keys of the checkpoint, if there is one, for what is to be loaded."""
    if not config.checkpoint.enable:
        return
    excluded = set(config.checkpoint.exclude_from_loading)
    unknown = excluded - {"model", *_PARTS}
    if unknown:
        raise TrainError(
            f"checkpoint.exclude_from_loading: {', '.join(sorted(unknown))} is not a part of a "
            f"checkpoint; the parts are model, {', '.join(_PARTS)}"
        )
    folder, resumes = checkpoint_to_load(config)
    if folder is None or not resumes:
        return
    if not _is_distributed(folder):
        _refuse_to_resume(config, folder)
    wanted = set(_PARTS) - excluded
    missing = wanted & missing_parts(folder)
    if missing and missing == wanted:
        raise TrainError(
            f"checkpoint {folder} holds the model only (checkpoint.last_save_model_only was true) "
            "and cannot be continued: start a new run from it with --checkpoint.initial_load_path "
            f"{folder} and another --checkpoint.folder; set checkpoint.last_save_model_only = "
            "false in runs that are to be continued"
        )
    if missing:
        raise TrainError(
            f"checkpoint {folder} has no {', '.join(sorted(missing))}: leave it out with "
            f"--checkpoint.exclude_from_loading {','.join(sorted(missing | excluded))}"
        )
    if DATALOADER not in excluded:
        if POSITION not in saved_entries(folder):
            raise TrainError(
                f"checkpoint {folder} was written with another data loader, whose position means "
                "nothing here: start the data from the beginning with "
                f"--checkpoint.exclude_from_loading {','.join(sorted(excluded | {DATALOADER}))}"
            )
        _check_lanes(config, folder, len(lane_keys(folder)))


def missing_parts(folder: Path) -> set[str]:
    """The parts of a full checkpoint, besides the model, that a distributed checkpoint lacks."""
    return set(_PARTS) - {key.partition(".")[0] for key in saved_entries(folder)}


def keep_lanes(config: "MosaicJobConfig") -> None:
    """Set `packing_lanes`, where it is left open, to the lanes of the checkpoint to continue.

    A run keeps the lanes that it began with. The loader would read them from its saved state, but
    torch's distributed checkpoint asks for the keys of the present lanes before that.
    """
    dataset = config.mosaic_dataloader.dataset
    if not dataset.packing or dataset.packing_lanes is not None:
        return
    folder = checkpoint_to_resume(config)
    if folder is not None and DATALOADER not in config.checkpoint.exclude_from_loading:
        dataset.packing_lanes = len(lane_keys(folder)) or None


def lane_keys(folder: Path) -> list[str]:
    """The keys of a checkpoint's packing lanes; none without packing, or of another loader."""
    return [key for key in saved_entries(folder) if key.startswith(_LANE)]


def _check_lanes(config: "MosaicJobConfig", folder: Path, lanes: int) -> None:
    """Torch would end in a long traceback over a lane that the checkpoint does not have."""
    dataset = config.mosaic_dataloader.dataset
    if not dataset.packing:
        return  # the loader says what it finds
    if not lanes:
        raise TrainError(
            f"checkpoint {folder} was written without packing: set "
            "mosaic_dataloader.dataset.packing = false, or start the data from the beginning with "
            f"--checkpoint.exclude_from_loading {DATALOADER}"
        )
    if dataset.packing_lanes not in (None, lanes):
        raise TrainError(
            f"mosaic_dataloader.dataset.packing_lanes is {dataset.packing_lanes}, but checkpoint "
            f"{folder} has {lanes}: a run keeps the lanes that it began with, so leave "
            "packing_lanes out"
        )


def own_folder(config: "MosaicJobConfig") -> Path:
    """Where the run keeps its checkpoints."""
    return Path(config.job.dump_folder, config.checkpoint.folder)


def checkpoint_to_load(config: "MosaicJobConfig") -> tuple[Path | None, bool]:
    """The checkpoint that TorchTitan will load, and whether it loads more of it than the model.

    The checkpoint is None for new weights, and for those of `model.hf_assets_path`.

    Raises:
        TrainError: A checkpoint is asked for that is not there.
    """
    checkpoint, folder = config.checkpoint, own_folder(config)
    if not checkpoint.enable:
        return None, False
    if not folder.exists():
        if checkpoint.load_step != -1:
            raise TrainError(
                f"checkpoint.load_step {checkpoint.load_step}: there is no checkpoint folder "
                f"{folder}: correct checkpoint.folder or job.dump_folder, or leave load_step out"
            )
        _check_initial(config)
        if not checkpoint.initial_load_path:
            return None, False
        return Path(checkpoint.initial_load_path), not checkpoint.initial_load_model_only
    steps = complete_steps(folder)
    step = checkpoint.load_step if checkpoint.load_step != -1 else max(steps, default=-1)
    if step == -1:
        if checkpoint.initial_load_path or checkpoint.initial_load_in_hf:
            raise TrainError(
                f"checkpoint folder {folder} exists and holds no complete checkpoint: TorchTitan "
                "would begin with random weights and not load checkpoint.initial_load_path; remove "
                "the folder, or choose another --checkpoint.folder"
            )
        return None, False
    if checkpoint.load_step != -1 and not (folder / f"step-{step}").is_dir():
        raise TrainError(
            f"checkpoint.load_step {step}: there is no checkpoint {folder / f'step-{step}'}; "
            f"complete steps in {folder}: {', '.join(map(str, steps)) or 'none'}"
        )
    # TorchTitan reads step 0, a seed checkpoint, as a model alone.
    return folder / f"step-{step}", step > 0


def checkpoint_to_resume(config: "MosaicJobConfig") -> Path | None:
    """The complete distributed checkpoint to resume, if there is one."""
    folder, resumes = checkpoint_to_load(config)
    return folder if folder is not None and resumes and _is_distributed(folder) else None


def _is_distributed(folder: Path) -> bool:
    """Whether a folder holds a complete checkpoint, and not one in Hugging Face's format."""
    return (folder / ".metadata").is_file()


def _check_initial(config: "MosaicJobConfig") -> None:
    """Check that there is a checkpoint where a new run is to take its weights from."""
    checkpoint = config.checkpoint
    option, initial = "checkpoint.initial_load_path", checkpoint.initial_load_path
    if not initial and checkpoint.initial_load_in_hf:
        option, initial = "model.hf_assets_path", config.model.hf_assets_path
    if not initial:
        return
    folder = Path(initial)
    if not folder.is_dir():
        raise TrainError(f"{option} {initial!r} is not a directory")
    in_hf = any(folder.glob("*.safetensors"))
    if checkpoint.initial_load_in_hf:
        if not in_hf:
            raise TrainError(
                f"{option} {initial!r} holds no *.safetensors, which "
                "checkpoint.initial_load_in_hf = true asks for: name a directory that does, or set "
                "it to false"
            )
        return
    if _is_distributed(folder):
        return
    if in_hf:
        raise TrainError(
            f"{option} {initial!r} holds weights in Hugging Face's format: set "
            "checkpoint.initial_load_in_hf = true"
        )
    steps = [step for step in complete_steps(folder) if _is_distributed(folder / f"step-{step}")]
    raise TrainError(
        f"{option} {initial!r} holds no checkpoint: "
        + (
            f"name one of those in it, such as {folder / f'step-{max(steps)}'}"
            if steps
            else "name the directory of one step, such as …/step-1000"
        )
    )


def _refuse_to_resume(config: "MosaicJobConfig", folder: Path) -> NoReturn:
    """Say why a step in the run's own folder is not a checkpoint that can be resumed."""
    own = own_folder(config)
    others = [s for s in complete_steps(own) if s and _is_distributed(own / f"step-{s}")]
    earlier = (
        f"continue from another one with --checkpoint.load_step {max(others)}" if others else ""
    )
    if not any(folder.glob("*.safetensors*")):
        raise TrainError(
            f"checkpoint {folder} was not written to its end: "
            + (earlier or "remove it to start over")
        )
    raise TrainError(
        f"checkpoint {folder} holds the model only, in Hugging Face's format "
        "(checkpoint.last_save_in_hf was true), and cannot be continued: "
        + (f"{earlier}, or " if earlier else "")
        + f"start a new run from it with --checkpoint.initial_load_path {folder}, "
        "--checkpoint.initial_load_in_hf and another --checkpoint.folder"
    )


def complete_steps(folder: Path) -> list[int]:
    """Steps of which a folder has a complete checkpoint, as TorchTitan counts them, in order."""
    if not folder.is_dir():
        return []
    return sorted(
        int(match[1])
        for path in folder.iterdir()
        if (match := re.search(r"step-(\d+)", path.name))
        and any((path / probe).is_file() for probe in (".metadata", "model.safetensors.index.json"))
    )


def read_values(folder: Path, keys: list[str]) -> dict[str, Any]:
    """Read small entries of a checkpoint, which are not tensors."""
    values: dict[str, Any] = dict.fromkeys(keys, "")
    load_entries(folder, values)
    return values


def load_entries(folder: Path, values: dict[str, Any]) -> None:
    """Load entries of a checkpoint in place.

    Args:
        folder: The checkpoint.
        values: By key: tensors of the right shapes, which are filled, or anything else, which is
            replaced.

    Raises:
        TrainError: The checkpoint cannot be read.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.state_dict_loader import load

    try:
        with warnings.catch_warnings():
            # One process reads; torch warns that there is nobody to agree with.
            warnings.simplefilter("ignore")
            load(values, checkpoint_id=folder, no_dist=True)
    # A damaged file can raise anything; torch wraps it in what is not an `Exception`.
    except (Exception, CheckpointException) as error:
        cause: BaseException = error
        if isinstance(error, CheckpointException) and error.failures:
            cause = next(iter(error.failures.values()))[0]
        raise TrainError(
            f"checkpoint {folder} cannot be read ({type(cause).__name__}: "
            f"{' '.join(str(cause).split())}): choose another with --checkpoint.load_step"
        ) from error


def saved_entries(folder: Path) -> dict[str, Any]:
    """What a checkpoint says about each of its entries, by key."""
    status = (folder / ".metadata").stat()
    return _read_entries(folder, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=2)
def _read_entries(folder: Path, version: tuple[int, int]) -> dict[str, Any]:
    """Read it once for all checks: of a large model it is megabytes of pickle."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader

    try:
        return dict(FileSystemReader(str(folder)).read_metadata().state_dict_metadata)
    except Exception as error:  # unpickling a damaged file can raise anything
        raise TrainError(
            f"checkpoint {folder} cannot be read ({type(error).__name__}: {error}): remove it to "
            "continue from the one before, or choose another with --checkpoint.load_step"
        ) from error


def check_weights(config: "MosaicJobConfig", model: ChosenModel, meta_model: MetaModel) -> None:
    """Compare the weights of the checkpoint that will be loaded with those of the model."""
    # Converters may rename weights, after which only they know what belongs together.
    if config.model.converters or "model" in config.checkpoint.exclude_from_loading:
        return
    folder, _ = checkpoint_to_load(config)
    if folder is None or not _is_distributed(folder):
        return
    initial = config.checkpoint.initial_load_path
    given = initial and folder == Path(initial)
    compare_weights(
        folder, model, meta_model, f"checkpoint.{'initial_load_path' if given else 'folder'}"
    )


def compare_weights(folder: Path, model: ChosenModel, meta_model: MetaModel, option: str) -> None:
    """Compare the weights of a distributed checkpoint, which an option chooses, with a model's.

    Raises:
        TrainError: One is missing there, or has another shape.
    """
    entries = saved_entries(folder)
    stored = {name: tuple(each.size) for name, each in entries.items() if hasattr(each, "size")}
    found = [
        f"{name} is {_size(stored[name])} there and {_size(shape)} here"
        for name, shape in meta_model.shapes.items()
        if name in stored and stored[name] != shape
    ]
    found += [f"it has no {name}" for name in meta_model.shapes if name not in stored]
    if found:
        more = f", and {len(found) - 1} more differences" if len(found) > 1 else ""
        raise TrainError(
            f"checkpoint {folder} holds another model than {model.name} ({found[0]}{more}): "
            f"choose another {option}, or restore model.name and model.flavor"
        )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
