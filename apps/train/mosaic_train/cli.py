"""From the command line to an exit code: as launcher, or as one rank."""

import os
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mosaic_train.arguments import Arguments, names_config_file, parse_arguments
from mosaic_train.environment import RankEnvironment, find_rank_environment
from mosaic_train.errors import (
    EXIT_FAILURE,
    EXIT_USER_ERROR,
    TrainError,
    is_user_error,
    naming_file,
    print_error,
)
from mosaic_train.folders import name_checkpoint_folder
from mosaic_train.orphans import end_with_launcher

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def main(argv: Sequence[str]) -> int:
    """Run the app.

    Args:
        argv: The command line without the program.

    Returns:
        0 on success, 1 when training failed, 2 for a user's mistake (told in one line on stderr),
        128 + n when ended by signal n.
    """
    # Before the slow imports: the launcher may be killed while they run.
    end_with_launcher()
    try:
        arguments = parse_arguments(argv)
        rank = None if arguments.help else find_rank_environment(os.environ)
        return _as_launcher(arguments, argv) if rank is None else _as_rank(arguments, rank)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if not is_user_error(error):
            traceback.print_exc()
            return EXIT_FAILURE
        print_error(error)
        return EXIT_USER_ERROR


def _as_launcher(arguments: Arguments, argv: Sequence[str]) -> int:
    if arguments.help:
        from mosaic_train.help import print_help

        print_help(arguments)
        return 0
    config = _parse_config(arguments)

    from mosaic_train.launch import launch, ranks_on_this_machine
    from mosaic_train.logs import init_launcher_logs
    from mosaic_train.setup import prepare_and_check

    init_launcher_logs()
    if arguments.inspect_rows is not None:
        from mosaic_train.inspect.run import inspect_data

        with naming_file(config.job.config_file):
            inspect_data(
                config,
                # Any number: no rank is started.
                world_size=arguments.nproc_per_node or ranks_on_this_machine(None),
                rows=arguments.inspect_rows,
                step=arguments.at_step,
            )
        return 0
    count = ranks_on_this_machine(arguments.nproc_per_node)
    with naming_file(config.job.config_file):
        prepare_and_check(config, world_size=count, ranks_here=count)
    return launch(count, argv)


def _as_rank(arguments: Arguments, rank: RankEnvironment) -> int:
    # The launcher hands its ranks its own command line, this option included.
    if arguments.nproc_per_node is not None and not rank.launched_by_us:
        raise TrainError(
            f"--nproc-per-node is given, but {rank.source} has already started this rank; "
            f"remove it here and set the number of processes in {rank.source}"
        )
    if arguments.inspect_rows is not None:
        raise TrainError(
            f"--inspect-data starts no ranks, but {rank.source} has started this one: run it "
            f"without {rank.source}, with the number of ranks as --nproc-per-node"
        )
    rank.export(os.environ)

    from mosaic_train.rank import run_rank

    return run_rank(rank, lambda: _parse_config(arguments))


def _parse_config(arguments: Arguments) -> "MosaicJobConfig":
    if not names_config_file(arguments.config_args):
        raise TrainError("give a configuration: --config-path FILE (--help tells how)")

    from mosaic_config import MosaicConfigManager
    from mosaic_train.torchtitan_patches import check_torchtitan

    check_torchtitan()
    config: MosaicJobConfig = MosaicConfigManager().parse_args(arguments.config_args)
    with naming_file(config.job.config_file):
        name_checkpoint_folder(config)
    return config
