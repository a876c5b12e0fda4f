"""What a run leaves behind when it ends, and the command that resumes it."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mosaic_train.logs import print_log_line
from mosaic_trainspec import TrainSpecError
from mosaic_trainspec.checks import (
    complete_steps,
    is_distributed,
    missing_parts,
    next_save,
    own_folder,
)

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# It was for the checkpoint that the run began with.
_EXCLUDED = "checkpoint.exclude_from_loading"


def print_end_of_run(config: "MosaicJobConfig", argv: Sequence[str] | None) -> None:
    """Print what `end_of_run` says."""
    try:
        lines = end_of_run(config, argv)
    except TrainSpecError as error:  # the checkpoint cannot be read; the run itself has ended
        lines = [str(error)]
    for line in lines:
        print_log_line(line)


def end_of_run(config: "MosaicJobConfig", argv: Sequence[str] | None) -> list[str]:
    """Say what was kept of a run that has ended or was interrupted, where, and how to resume it.

    Args:
        config: The configuration.
        argv: The app's command line; None where another launcher has started the ranks, whose own
            command line is not known.

    Returns:
        Lines for the log; none after a dry run, which keeps nothing.
    """
    checkpoint, steps = config.checkpoint, config.training.steps
    if config.comm.mode != "default":
        return []
    if not checkpoint.enable or checkpoint.load_only:
        option = "load_only = true" if checkpoint.enable else "enable = false"
        return [f"no checkpoint was kept: checkpoint.{option}"]
    kept = complete_steps(own_folder(config))
    if not kept:
        first = next_save(config, 0)
        return [f"no checkpoint was kept: the first one is saved after step {first:,}"]
    last = kept[-1]
    folder = own_folder(config) / f"step-{last}"
    # An earlier run may have gone further.
    of_all = f" of {steps:,}" if last <= steps else ""
    lines = [f"the last checkpoint is that of step {last:,}{of_all}: {folder}"]
    if not last:  # a seed checkpoint
        return lines
    if not is_distributed(folder) or missing_parts(folder):
        lines.append("it holds the weights alone, so that the run cannot be resumed from it")
        return lines
    changes = {}
    if checkpoint.load_step != -1:
        changes["checkpoint.load_step"] = "-1"
    if last >= steps:
        changes["training.steps"] = str(2 * last)
    lines.append(
        f"{'continue training' if last >= steps else 'resume'} with: {_command(argv, changes)}"
    )
    if checkpoint.exclude_from_loading and _EXCLUDED not in map(_option, argv or ()):
        lines.append(f"before that, remove {_EXCLUDED}: it would leave parts of the checkpoint out")
    return lines


def _command(argv: Sequence[str] | None, changes: Mapping[str, str]) -> str:
    """The command line with some options replaced."""
    options = [word for name, value in changes.items() for word in (f"--{name}", value)]
    if argv is None:
        return " ".join(["the same command", *(["and"] if options else []), *options])
    kept: list[str] = []
    dropping = False
    for word in argv:
        if word.startswith("--"):
            dropping = _option(word) in (_EXCLUDED, *changes)
        if not dropping:
            kept.append(word)
    # uv says so to what it runs.
    program = ["uv", "run"] if "UV" in os.environ else [Path(sys.executable).name]
    return shlex.join([*program, sys.argv[0], *kept, *options])


def _option(word: str) -> str:
    """The section and key that a word of the command line sets."""
    return word.partition("=")[0].removeprefix("--").replace("-", "_")
