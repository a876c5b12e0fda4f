"""The two options that are the app's own, taken off the command line before the rest is parsed."""

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
        TrainError: An own option has no value, a wrong one, or comes twice.
    """
    own: dict[str, str] = {}
    rest: list[str] = []
    position = 0
    while position < len(argv):
        flag, joined, value = argv[position].partition("=")
        name = flag.replace("_", "-")
        position += 1
        if name not in ("--config-path", "--nproc-per-node"):
            rest.append(argv[position - 1])
            continue
        if not joined:
            if position == len(argv) or argv[position].startswith("--"):
                raise TrainError(f"{flag} needs a value")
            value = argv[position]
            position += 1
        if name in own:
            raise TrainError(f"{flag} is given twice")
        own[name] = value
    if "--config-path" in own:
        rest = ["--job.config_file", own["--config-path"], *rest]
    return Arguments(
        config_args=rest,
        nproc_per_node=_count(own.get("--nproc-per-node")),
        help="--help" in rest or "-h" in rest,
    )


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise TrainError(f"--nproc-per-node must be a number of processes, 1 or more; got {text!r}")
    return int(text)


def names_config_file(config_args: Sequence[str]) -> bool:
    """Whether the command line says which TOML file to read."""
    flags = {argument.partition("=")[0].replace("-", "_") for argument in config_args}
    return "__job.config_file" in flags
