"""Can the checkpoint that TorchTitan is about to load be resumed, and does it hold this model?

Its distributed checkpoints are loaded by key, in every rank at once; a missing key ends there in a
long traceback that names neither the cause nor the remedy.
"""

import re
import warnings
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mosaic_trainspec.checks.model import ChosenModel, MetaModel
from mosaic_trainspec.errors import TrainSpecError

if TYPE_CHECKING:
    from torchtitan.config import JobConfig

# The parts of a full checkpoint besides the model, as TorchTitan names them.
_PARTS = ("optimizer", "lr_scheduler", "train_state", "dataloader")


def check_checkpoint(config: "JobConfig") -> None:
    """Look at the keys of the checkpoint, if there is one, for what is to be loaded.

    Whether the loader can use the state that was saved for it, or has one, is for its owner to say.
    """
    if not config.checkpoint.enable:
        return
    excluded = set(config.checkpoint.exclude_from_loading)
    unknown = excluded - {"model", *_PARTS}
    if unknown:
        raise TrainSpecError(
            f"checkpoint.exclude_from_loading: {', '.join(sorted(unknown))} is not a part of a "
            f"checkpoint; the parts are model, {', '.join(_PARTS)}"
        )
    folder, resumes = checkpoint_to_load(config)
    if folder is None or not resumes:
        return
    if not is_distributed(folder):
        _refuse_to_resume(config, folder)
    wanted = set(_PARTS) - excluded
    missing = wanted & missing_parts(folder)
    # A loader whose state is empty leaves no key.
    if not missing - {"dataloader"}:
        return
    if missing == wanted and not own_folder(config).exists():
        raise TrainSpecError(
            f"checkpoint.initial_load_path {str(folder)!r} holds the model only: set "
            "checkpoint.initial_load_model_only = true"
        )
    if missing == wanted:
        raise TrainSpecError(
            f"checkpoint {folder} holds the model only (checkpoint.last_save_model_only was true) "
            "and cannot be resumed: start a new run from it with --checkpoint.initial_load_path "
            f"{folder} and another --checkpoint.folder; set checkpoint.last_save_model_only = "
            "false in runs that are to be resumed"
        )
    raise TrainSpecError(
        f"checkpoint {folder} has no {', '.join(sorted(missing))}: leave it out with "
        f"--checkpoint.exclude_from_loading {','.join(sorted(missing | excluded))}"
    )


def check_steps_left(config: "JobConfig", checkpoint: Path | None, steps_done: int) -> None:
    """Check that the run, unless it only loads, has a step left to train."""
    steps = config.training.steps
    if checkpoint is None or steps_done < steps or config.checkpoint.load_only:
        return
    raise TrainSpecError(
        f"nothing is left to train: checkpoint {checkpoint} is at step {steps_done:,}, and "
        f"training.steps is {steps:,}; raise training.steps to continue, or choose another "
        "checkpoint.folder to start over"
    )


def missing_parts(folder: Path) -> set[str]:
    """The parts of a full checkpoint, besides the model, that a distributed checkpoint lacks."""
    return set(_PARTS) - {key.partition(".")[0] for key in saved_entries(folder)}


def own_folder(config: "JobConfig") -> Path:
    """Where the run keeps its checkpoints."""
    return Path(config.job.dump_folder, config.checkpoint.folder)


def saves_checkpoints(config: "JobConfig") -> bool:
    """Whether checkpoints are written."""
    return config.checkpoint.enable and not config.checkpoint.load_only


def next_save(config: "JobConfig", done: int) -> int:
    """The step after which the next checkpoint is saved, when some are done."""
    checkpoint = config.checkpoint
    if not done and checkpoint.enable_first_step_checkpoint:
        return 1
    # The last step is saved in any case.
    return min(config.training.steps, (done // checkpoint.interval + 1) * checkpoint.interval)


def checkpoint_to_load(config: "JobConfig") -> tuple[Path | None, bool]:
    """The checkpoint that TorchTitan will load, and whether it loads more of it than the model.

    The checkpoint is None for new weights, and for those of `model.hf_assets_path`.

    Raises:
        TrainSpecError: A checkpoint is asked for that is not there.
    """
    checkpoint, folder = config.checkpoint, own_folder(config)
    if not checkpoint.enable:
        return None, False
    if not folder.exists():
        if checkpoint.load_step != -1:
            raise TrainSpecError(
                f"checkpoint.load_step {checkpoint.load_step}: there is no checkpoint folder "
                f"{folder}: correct checkpoint.folder or job.dump_folder, or leave load_step out"
            )
        _check_initial(config)
        if not checkpoint.initial_load_path:
            return None, False
        # Of weights in Hugging Face's format there is no more; to ask for it is another mistake.
        model_only = checkpoint.initial_load_model_only or checkpoint.initial_load_in_hf
        return Path(checkpoint.initial_load_path), not model_only
    steps = complete_steps(folder)
    step = checkpoint.load_step if checkpoint.load_step != -1 else max(steps, default=-1)
    if step == -1:
        if checkpoint.initial_load_path or checkpoint.initial_load_in_hf:
            raise TrainSpecError(
                f"checkpoint folder {folder} exists and holds no complete checkpoint: TorchTitan "
                "would begin with random weights and not load checkpoint.initial_load_path; remove "
                "the folder, or choose another --checkpoint.folder"
            )
        return None, False
    if checkpoint.load_step != -1 and not (folder / f"step-{step}").is_dir():
        raise TrainSpecError(
            f"checkpoint.load_step {step}: there is no checkpoint {folder / f'step-{step}'}; "
            f"complete steps in {folder}: {', '.join(map(str, steps)) or 'none'}"
        )
    # TorchTitan reads step 0, a seed checkpoint, as a model alone.
    return folder / f"step-{step}", step > 0


def checkpoint_to_resume(config: "JobConfig") -> Path | None:
    """The complete distributed checkpoint to resume, if there is one."""
    folder, resumes = checkpoint_to_load(config)
    return folder if folder is not None and resumes and is_distributed(folder) else None


def is_distributed(folder: Path) -> bool:
    """Whether a folder holds a complete checkpoint, and not one in Hugging Face's format."""
    return (folder / ".metadata").is_file()


def _check_initial(config: "JobConfig") -> None:
    """Check that there is a checkpoint where a new run is to take its weights from."""
    checkpoint = config.checkpoint
    option, initial = "checkpoint.initial_load_path", checkpoint.initial_load_path
    if not initial and checkpoint.initial_load_in_hf:
        option, initial = "model.hf_assets_path", config.model.hf_assets_path
    if not initial:
        return
    folder = Path(initial)
    if not folder.is_dir():
        raise TrainSpecError(f"{option} {initial!r} is not a directory")
    in_hf = any(folder.glob("*.safetensors"))
    if checkpoint.initial_load_in_hf:
        if not in_hf:
            raise TrainSpecError(
                f"{option} {initial!r} holds no *.safetensors, which "
                "checkpoint.initial_load_in_hf = true asks for: name a directory that does, or set "
                "it to false"
            )
        return
    if is_distributed(folder):
        return
    if in_hf:
        raise TrainSpecError(
            f"{option} {initial!r} holds weights in Hugging Face's format: set "
            "checkpoint.initial_load_in_hf = true"
        )
    steps = [step for step in complete_steps(folder) if is_distributed(folder / f"step-{step}")]
    raise TrainSpecError(
        f"{option} {initial!r} holds no checkpoint: "
        + (
            f"name one of those in it, such as {folder / f'step-{max(steps)}'}"
            if steps
            else "name the directory of one step, such as …/step-1000"
        )
    )


def _refuse_to_resume(config: "JobConfig", folder: Path) -> NoReturn:
    """Say why a step in the run's own folder is not a checkpoint that can be resumed."""
    own = own_folder(config)
    others = [s for s in complete_steps(own) if s and is_distributed(own / f"step-{s}")]
    earlier = f"resume from another one with --checkpoint.load_step {max(others)}" if others else ""
    if not any(folder.glob("*.safetensors*")):
        raise TrainSpecError(
            f"checkpoint {folder} is incomplete: " + (earlier or "remove it to start over")
        )
    raise TrainSpecError(
        f"checkpoint {folder} holds the model only, in Hugging Face's format "
        "(checkpoint.last_save_in_hf was true), and cannot be resumed: "
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
        TrainSpecError: The checkpoint cannot be read.
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
        raise TrainSpecError(
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
        raise TrainSpecError(
            f"checkpoint {folder} cannot be read ({type(error).__name__}: {error}): remove it to "
            "continue from the one before, or choose another with --checkpoint.load_step"
        ) from error


def check_weights(config: "JobConfig", model: ChosenModel, meta_model: MetaModel) -> None:
    """Compare the weights of the checkpoint that will be loaded with those of the model."""
    # Converters may rename weights, after which only they know what belongs together.
    if config.model.converters or "model" in config.checkpoint.exclude_from_loading:
        return
    folder, _ = checkpoint_to_load(config)
    if folder is None or not is_distributed(folder):
        return
    initial = config.checkpoint.initial_load_path
    given = initial and folder == Path(initial)
    compare_weights(
        folder, model, meta_model, f"checkpoint.{'initial_load_path' if given else 'folder'}"
    )


def compare_weights(folder: Path, model: ChosenModel, meta_model: MetaModel, option: str) -> None:
    """Compare the weights of a distributed checkpoint, which an option chooses, with a model's.

    Raises:
        TrainSpecError: One is missing there, or has another shape.
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
        raise TrainSpecError(
            f"checkpoint {folder} holds another model than {model.name} ({found[0]}{more}): "
            f"choose another {option}, or restore model.name and model.flavor"
        )


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a single number"
