"""From the command line to an exit code: as launcher, or as one rank."""

import dataclasses
import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mosaic_train.environment import RankEnvironment, find_rank_environment
from mosaic_train.errors import (
    EXIT_FAILURE,
    EXIT_USER_ERROR,
    TrainError,
    is_user_error,
    naming_file,
    print_error,
)
from mosaic_train.logs import print_log_line
from mosaic_train.parent_death import end_with_launcher

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

USAGE = """\
usage: apps/train --config-path FILE [--nproc-per-node N] [--section.key VALUE ...]
       apps/train --config-path FILE --check [...]
       apps/train --config-path FILE --inspect-data [N] [--at-step K] [--nodes M] [...]
       apps/train --config-path FILE --export DIR [--at-step K] [...]

Train a TorchTitan model on MosaicML streams.

  --config-path FILE    TOML file with the configuration (the same as --job.config_file)
  --nproc-per-node N    processes to start on this machine; default: one per GPU, or one without.
                        Under torchrun or srun this process is itself a rank, and N is not allowed
  --check               train nothing: run every check that precedes the first step (and make the
                        data that [mosaic_prepare] asks for), and print the plan. Here and with
                        --inspect-data, --nproc-per-node may be any number of ranks
  --inspect-data [N]    train nothing: run the same checks, print the streams, how the run uses them
                        and N rows (4) of a step, decoded; save a picture of row lengths and stream
                        shares
  --export DIR          train nothing: write the last checkpoint as a Hugging Face folder (weights,
                        config, tokenizer), load it with transformers and print a sample
  --at-step K           the step to look at; default: the first that would be trained. With packing,
                        all rows between the checkpoint, or the beginning, and it are read. With
                        --export: the step of the checkpoint
  --nodes M             with --inspect-data: machines, each of which has equally many ranks (1)
  --step-time SECONDS, --bandwidth BYTES
                        with --inspect-data: how long a step takes, and how much a machine
                        downloads in a second (500mb), to forecast what is fetched in an hour and
                        how long a cold start takes
  --section.key VALUE   overrides a key of the file, as in --training.steps 100; a switch is written
                        --checkpoint.enable or --checkpoint.no-enable; keys of your own streams are
                        --mosaic_dataloader.dataset.streams.NAME.KEY VALUE
  --help [SECTION]      this text, or the options of a section with their values in the file
  --help-all            the options of all sections
"""


def _whole_number(flag: str, what: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise TrainError(f"{flag} must be {what}, 1 or more; got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise TrainError(f"--step-time must be a number of seconds, such as 0.25; got {text!r}")
    return seconds


def _folder(text: str) -> str:
    if not text or text.startswith("--"):
        raise TrainError("--export needs a folder to write to: --export DIR")
    return text


def _switch(flag: str, text: str) -> bool:
    if text:
        raise TrainError(f"{flag} takes no value, got {text!r}")
    return True


# The app's own options: how a value is read, and which one stands where none is given (None: it
# must be given).
_OPTIONS: dict[str, tuple[Callable[[str], Any], str | None]] = {
    "--help": (str, ""),
    "--help-all": (partial(_switch, "--help-all"), ""),
    "--nproc-per-node": (partial(_whole_number, "--nproc-per-node", "a number of processes"), None),
    "--check": (partial(_switch, "--check"), ""),
    "--inspect-data": (partial(_whole_number, "--inspect-data", "a number of rows"), "4"),
    "--export": (_folder, None),
    "--at-step": (partial(_whole_number, "--at-step", "the number of a step"), None),
    "--nodes": (partial(_whole_number, "--nodes", "a number of machines"), None),
    "--step-time": (_seconds, None),
    "--bandwidth": (str, None),
}
# What the app can do in place of training.
_INSTEAD = ("--check", "--inspect-data", "--export")


@dataclass(frozen=True)
class Arguments:
    """The command line, taken apart. `USAGE` says what the app's own options mean.

    Attributes:
        config_args: Arguments for the configuration parser, the file among them.
        instead: The option that asks for something else than training; None: train.
        help: The section whose options to list, or empty for how to use the command; None: no help.
    """

    config_args: list[str]
    instead: str | None
    help: str | None = None
    help_all: bool = False
    nproc_per_node: int | None = None
    check: bool = False
    inspect_data: int | None = None
    export: str | None = None
    at_step: int | None = None
    nodes: int = 1
    step_time: float | None = None
    bandwidth: str | None = None


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Split the command line.

    Raises:
        TrainError: One of the own options has no value, a wrong one, comes twice, or without the
            one that it belongs to.
    """
    found: dict[str, Any] = {}
    rest: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        written, joined, value = token.partition("=")
        flag = "--help" if written == "-h" else written.replace("_", "-")
        if flag not in _OPTIONS:
            rest.append(token)
            continue
        if flag in found:
            raise TrainError(f"{written} is given twice")
        read, default = _OPTIONS[flag]
        if not joined:
            follows = bool(tokens) and (default is None or not tokens[0].startswith("-"))
            value = tokens.pop(0) if follows else default or ""
        found[flag] = read(value)
    instead = [flag for flag in _INSTEAD if flag in found]
    if len(instead) > 1:
        raise TrainError(f"{' and '.join(instead)} are given: give one of them")
    if "--at-step" in found and not found.keys() & {"--inspect-data", "--export"}:
        raise TrainError(
            "--at-step belongs to --inspect-data and --export: add one of them, or leave --at-step "
            "out"
        )
    for flag in ("--nodes", "--step-time", "--bandwidth"):
        if flag in found and "--inspect-data" not in found:
            raise TrainError(f"{flag} belongs to --inspect-data: add it, or leave {flag} out")
    return Arguments(
        config_args=rest,
        instead=next(iter(instead), None),
        **{flag[2:].replace("-", "_"): value for flag, value in found.items()},
    )


# TorchTitan does not say what its sections are for.
SECTIONS = {
    "mosaic_dataloader": "training data: streams, their mixture and order, workers",
    "mosaic_validation_dataloader": "the same for validation data",
    "mosaic_tokenizer": "the tokenizer: a directory, or a name on the Hugging Face hub",
    "mosaic_prepare": "data that are made once, before training",
    "job": "folder for what a run writes",
    "model": "which model, in which size",
    "training": "batch sizes, row length, steps, precision",
    "optimizer": "Adam or AdamW and its rates",
    "lr_scheduler": "warmup and decay of the learning rate",
    "parallelism": "how ranks share the model: FSDP, HSDP, TP, PP, CP, EP",
    "checkpoint": "when to save, what to load",
    "validation": "whether, how often and on how many steps",
    "metrics": "logs, TensorBoard, Weights & Biases",
    "activation_checkpoint": "compute again what memory has no room for",
    "compile": "torch.compile",
    "quantize": "float8 and MX formats",
    "comm": "timeouts, traces, and dry runs without communication",
    "profiling": "traces of GPU activity, memory snapshots",
    "memory_estimation": "TorchTitan's estimate of peak memory",
    "fault_tolerance": "TorchFT's replica groups",
    "experimental": "a module of your own that registers a model",
    "debug": "seed, determinism",
}


def print_help(arguments: Arguments) -> None:
    """Print what is asked for.

    Raises:
        ConfigError: There is no such section, or the file has a mistake.
    """
    if not arguments.help:
        # Before the imports, which take seconds.
        print(USAGE, flush=True)

    from mosaic_config import MosaicConfigManager, MosaicJobConfig

    if arguments.help or arguments.help_all:
        MosaicConfigManager().print_section(arguments.help or None, arguments.config_args)
        return
    print("Sections, and how many options each has:\n")
    types = {field.name: field.type for field in dataclasses.fields(MosaicJobConfig)}
    for name, text in SECTIONS.items():
        print(f"  {name:<29} {_count(types[name]):>3}  {text}")
    print(
        "\nExamples:\n\n"
        "  uv run apps/train --help training\n"
        "  uv run apps/train --config-path apps/train/configs/debug.toml --training.steps 160"
    )


def _count(section: object) -> int:
    if not isinstance(section, type) or not dataclasses.is_dataclass(section):
        return 1
    return sum(_count(field.type) for field in dataclasses.fields(section))


def main(argv: Sequence[str]) -> int:
    """Run the app.

    Args:
        argv: The command line without the program.

    Returns:
        0 on success, 1 when training failed, 2 for a user's mistake (reported in one line on
        stderr), 128 + n when ended by signal n.
    """
    # Before the slow imports: the launcher may be killed while they run.
    end_with_launcher()
    trains = True
    try:
        arguments = parse_arguments(argv)
        trains = not (arguments.instead or arguments.help_all or arguments.help is not None)
        if arguments.help is not None or arguments.help_all:
            print_help(arguments)
            code = 0
        elif (rank := find_rank_environment(os.environ)) is None:
            code = _as_launcher(arguments, argv)
        else:
            code = _as_rank(arguments, rank)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and not trains:
            # `| head` has seen enough; what is left in the buffer goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 128 + signal.SIGPIPE
        if not is_user_error(error):
            traceback.print_exc()
            return EXIT_FAILURE
        print_error(error)
        return EXIT_USER_ERROR


def _as_launcher(arguments: Arguments, argv: Sequence[str]) -> int:
    _announce(arguments)
    config = _parse_config(arguments)

    from mosaic_train.launch import launch, ranks_on_this_machine
    from mosaic_train.logs import init_launcher_logs

    init_launcher_logs()
    with naming_file(config.job.config_file):
        if arguments.export:
            from mosaic_train.export import export

            export(config, arguments.export, arguments.at_step)
            return 0
        if arguments.instead:
            from mosaic_train.inspect import show_run

            # Any number: no rank is started.
            here = ranks_on_this_machine(None)
            ranks = arguments.nproc_per_node or here
            ranks_here = ranks if here == 1 else min(ranks, here)
            show_run(config, arguments, world_size=ranks, ranks_here=ranks_here)
            return 0

        from mosaic_train.setup import prepare_and_check

        count = ranks_on_this_machine(arguments.nproc_per_node)
        prepare_and_check(config, world_size=count, ranks_here=count)

    from mosaic_train.ending import print_end_of_run

    code = launch(count, argv)
    print_end_of_run(config, argv)
    return code


def _as_rank(arguments: Arguments, rank: RankEnvironment) -> int:
    # The launcher passes its own command line to its ranks, this option included.
    if arguments.nproc_per_node is not None and not rank.launched_by_us:
        raise TrainError(
            f"--nproc-per-node is given, but {rank.source} has already started this rank; "
            f"remove it here and set the number of processes in {rank.source}"
        )
    if arguments.instead:
        raise TrainError(
            f"{arguments.instead} starts no ranks, but {rank.source} has started this one: run it "
            f"without {rank.source}, with the number of ranks as --nproc-per-node"
        )
    os.environ.update(rank.variables)
    if not rank.rank and not rank.launched_by_us:
        # When it exits, the launcher ends the others, which are still importing.
        _announce(arguments)

    from mosaic_train.rank import run_rank

    return run_rank(rank, lambda: _parse_config(arguments))


def _announce(arguments: Arguments) -> None:
    """Report what needs no TorchTitan, and say what happens, before it is imported.

    Raises:
        ConfigError: The configuration is not a TOML file.
    """
    from mosaic_config.arguments import config_file
    from mosaic_config.toml_file import read_toml

    if path := config_file(arguments.config_args):
        read_toml(path)
        print_log_line(f"reading {path}; importing PyTorch and TorchTitan takes a while")


def _parse_config(arguments: Arguments) -> "MosaicJobConfig":
    from mosaic_config.arguments import config_file

    if config_file(arguments.config_args) is None:
        raise TrainError("give a configuration: --config-path FILE (see --help)")

    from mosaic_config import MosaicConfigManager
    from mosaic_trainspec import check_torchtitan

    check_torchtitan()
    config: MosaicJobConfig = MosaicConfigManager().parse_args(arguments.config_args)
    with naming_file(config.job.config_file):
        name_checkpoint_folder(config)
    return config


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
