"""Starting the ranks of this machine with torch's elastic launcher."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from mosaic_train.errors import EXIT_FAILURE, EXIT_USER_ERROR, TrainError, print_error
from mosaic_train.parent_death import LAUNCHER_PID
from mosaic_trainspec.device import no_accelerator

logger = logging.getLogger("mosaic_train")

ENTRY_POINT = Path(__file__).resolve().parent.parent / "__main__.py"


def ranks_on_this_machine(wanted: int | None) -> int:
    """How many ranks to start: as asked, else one per GPU, else one.

    Raises:
        TrainError: More are wanted than there are GPUs.
    """
    import torch

    devices = torch.accelerator.device_count()
    if wanted is None:
        return max(devices, 1)
    if 0 < devices < wanted:
        raise TrainError(
            f"--nproc-per-node {wanted}, but this machine has {devices} "
            f"{torch.accelerator.current_accelerator()} device(s); use {devices} or fewer"
        )
    return wanted


def launch(count: int, argv: Sequence[str]) -> int:
    """Start `count` ranks with this command line, and return the exit code of them all."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logger.info("starting %d rank%s; importing takes a while", count, "s" if count > 1 else "")
    _set_rank_environment(count)
    _silence_elastic_reports()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        # The store gets a free port, so that several runs on a machine do not meet.
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        # Ranks write to this console. A folder for their logs would outlive a killed launcher.
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    try:
        elastic_launch(config, sys.executable)("-u", str(ENTRY_POINT), *argv)
    except ChildFailedError as error:
        if any(failure.exitcode == EXIT_USER_ERROR for failure in error.failures.values()):
            return EXIT_USER_ERROR  # the rank has reported it
        rank, failure = error.get_first_failure()
        print_error(TrainError(_how_it_ended(rank, failure.exitcode)))
        return EXIT_FAILURE
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _set_rank_environment(count: int) -> None:
    os.environ[LAUNCHER_PID] = str(os.getpid())
    # Left alone, every rank would start as many threads as the machine has cores.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    if no_accelerator():
        # Threads that wait for one another by spinning take the cores from those they wait for, as
        # soon as anything else runs on the machine: steps were seen to take three times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _silence_elastic_reports() -> None:
    """The ranks report what went wrong; the agent's report of many lines only buries that."""
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _how_it_ended(rank: int, code: int) -> str:
    if code >= 0:
        return f"rank {rank} failed with exit code {code}; see its traceback"
    name = signal.Signals(-code).name
    hint = "; often the machine ran out of memory" if name == "SIGKILL" else ""
    return f"rank {rank} was ended by {name}{hint}"
