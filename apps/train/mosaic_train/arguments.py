"""The app's own options, taken off the command line before the rest is parsed."""

from collections.abc import Sequence
from dataclasses import dataclass

from mosaic_train.errors import TrainError

USAGE = """\
usage: apps/train --config-path FILE [--nproc-per-node N] [--section.key VALUE ...]
       apps/train --config-path FILE --inspect-data [N] [--at-step K] [...]

Train a TorchTitan model on MosaicML streams.

  --config-path FILE    TOML file with the configuration (the same as --job.config_file)
  --nproc-per-node N    processes to start on this machine; default: one per GPU, or one without.
                        Under torchrun or srun this process is itself a rank, and N is not allowed
  --inspect-data [N]    train nothing: print the streams, what the run makes of them and N rows (4)
                        of a step, decoded; save a picture of row lengths and stream shares. Here
                        --nproc-per-node may be any number of ranks
  --at-step K           the step to look at; default: the first that would be trained. With packing,
                        all rows between the checkpoint, or the beginning, and it are read
  --section.key VALUE   overrides a key of the file, as in --training.steps 100; a switch is written
                        --checkpoint.enable or --checkpoint.no-enable; keys of a stream of yours are
                        --mosaic_dataloader.dataset.streams.NAME.KEY VALUE
  --help [SECTION]      this text, or the options of a section with their values in the file
  --help-all            the options of all sections
"""


@dataclass(frozen=True)
class Arguments:
    """The command line, taken apart.

    Attributes:
        config_args: Arguments for the configuration parser, the file among them.
        nproc_per_node: Ranks to start on this machine; None: to be decided.
        help: Whether to tell how the command is used, and stop.
        help_section: The section whose options to list for help.
        help_all: Whether to list those of all sections for help.
        inspect_rows: Rows to look at in place of training; None: train.
        at_step: The step to look at; None: the first.
    """

    config_args: list[str]
    nproc_per_node: int | None
    help: bool
    help_section: str | None = None
    help_all: bool = False
    inspect_rows: int | None = None
    at_step: int | None = None


_HELP = ("-h", "--help", "--help-all")
ROWS = 4
# What each of the app's own options is, and what it is worth without a number.
_COUNTS: dict[str, tuple[str, str | None]] = {
    "--nproc-per-node": ("a number of processes", None),
    "--inspect-data": ("a number of rows", str(ROWS)),
    "--at-step": ("the number of a step", None),
}


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Split the command line.

    Raises:
        TrainError: One of the own options has no value, a wrong one, comes twice, or without the
            one that it belongs to.
    """
    found: dict[str, int] = {}
    rest: list[str] = []
    helping = everything = False
    section: str | None = None
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        written, joined, value = token.partition("=")
        flag = written.replace("_", "-")
        if flag in _HELP:
            helping = True
            everything |= flag == "--help-all"
            if not joined and flag != "--help-all" and tokens and not tokens[0].startswith("-"):
                value = tokens.pop(0)
            section = value or section
            continue
        if flag not in _COUNTS:
            rest.append(token)
            continue
        if flag in found:
            raise TrainError(f"{written} is given twice")
        what, default = _COUNTS[flag]
        if not joined:
            follows = bool(tokens) and (default is None or tokens[0].isdecimal())
            value = tokens.pop(0) if follows else default or ""
        found[flag] = _number(flag, what, value)
    if "--at-step" in found and "--inspect-data" not in found:
        raise TrainError("--at-step belongs to --inspect-data: add it, or leave --at-step out")
    return Arguments(
        config_args=rest,
        nproc_per_node=found.get("--nproc-per-node"),
        help=helping,
        help_section=section,
        help_all=everything,
        inspect_rows=found.get("--inspect-data"),
        at_step=found.get("--at-step"),
    )


def _number(flag: str, what: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise TrainError(f"{flag} must be {what}, 1 or more; got {text!r}")
    return int(text)


def names_config_file(config_args: Sequence[str]) -> bool:
    """Whether the command line says which TOML file to read."""
    flags = {argument.partition("=")[0].replace("-", "_") for argument in config_args}
    return bool(flags & {"__config_path", "__job.config_file"})
