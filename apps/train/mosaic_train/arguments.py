"""The app's own option, taken off the command line before the rest is parsed."""

from collections.abc import Sequence
from dataclasses import dataclass

from mosaic_train.errors import TrainError

USAGE = """\
usage: apps/train --config-path FILE [--nproc-per-node N] [--section.key VALUE ...]

Train a TorchTitan model on MosaicML streams.

  --config-path FILE    TOML file with the configuration (the same as --job.config_file)
  --nproc-per-node N    processes to start on this machine; default: one per GPU, or one without.
                        Under torchrun or srun this process is itself a rank, and N is not allowed
  --section.key VALUE   overrides a key of the file; all are listed below
"""


@dataclass(frozen=True)
class Arguments:
    """The command line, taken apart.

    Attributes:
        config_args: Arguments for the configuration parser, the file among them.
        nproc_per_node: Ranks to start on this machine; None: to be decided.
        help: Whether to list the options and stop.
    """

    config_args: list[str]
    nproc_per_node: int | None
    help: bool


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Split the command line.

    Raises:
        TrainError: The own option has no value, a wrong one, or comes twice.
    """
    count: str | None = None
    rest: list[str] = []
    tokens = iter(argv)
    for token in tokens:
        flag, joined, value = token.partition("=")
        if flag.replace("_", "-") != "--nproc-per-node":
            rest.append(token)
            continue
        if count is not None:
            raise TrainError(f"{flag} is given twice")
        count = value if joined else next(tokens, "")
    return Arguments(
        config_args=rest,
        nproc_per_node=None if count is None else _number(count),
        help="--help" in rest or "-h" in rest,
    )


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise TrainError(f"--nproc-per-node must be a number of processes, 1 or more; got {text!r}")
    return int(text)


def names_config_file(config_args: Sequence[str]) -> bool:
    """Whether the command line says which TOML file to read."""
    flags = {argument.partition("=")[0].replace("-", "_") for argument in config_args}
    return bool(flags & {"__config_path", "__job.config_file"})
