"""One rank: TorchTitan's Trainer with the Mosaic variant of the model."""

import errno
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mosaic_train.checks.resume import keep_lanes
from mosaic_train.ending import print_end_of_run
from mosaic_train.environment import RankEnvironment
from mosaic_train.errors import (
    EXIT_FAILURE,
    EXIT_USER_ERROR,
    TrainError,
    is_user_error,
    naming_file,
    print_error,
)
from mosaic_train.logs import init_rank_logs
from mosaic_train.run_lock import lock_folder
from mosaic_train.setup import prepare_and_check
from mosaic_train.spec import register_spec
from mosaic_trainspec import patch_torchtitan

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

# All ranks find the same mistake. The others wait for rank 0 to report it, whose end makes the
# launcher end them. A mistake that only one of them finds is reported after this time.
SECONDS_FOR_RANK_0 = 5.0
_FULL = (errno.ENOSPC, errno.EDQUOT)


def run_rank(rank: RankEnvironment, parse_config: Callable[[], "MosaicJobConfig"]) -> int:
    """Train.

    Args:
        rank: Which rank this is; its variables are exported already.
        parse_config: Makes the configuration.

    Returns:
        The exit code. On failure the process ends here and now: threads that wait for a peer or a
        download must not keep it alive.
    """
    config: MosaicJobConfig | None = None
    try:
        config = parse_config()
        with naming_file(config.job.config_file):
            _get_ready(config, rank)
            # Held until this process ends. A dry run writes nothing.
            owns = not rank.rank and config.comm.mode == "default"
            _lock = lock_folder(config.job.dump_folder) if owns else None
        # Mistakes from here on are in the data and not in the file.
        _train(config)
    except BaseException as error:  # torch's checkpoint errors are not of type `Exception`
        if isinstance(error, KeyboardInterrupt) and config is not None:
            _print_end(config, rank)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        if config is not None and not is_user_error(error):
            full = explain_full_disk(error, config.job.dump_folder)
            error = error if full is None else TrainError(full)
        if is_user_error(error):
            if rank.rank:
                time.sleep(SECONDS_FOR_RANK_0)
            print_error(error)
            code = EXIT_USER_ERROR
        else:
            sys.stdout.flush()
            sys.stderr.write(f"[rank {rank.rank}] {traceback.format_exc()}")
            code = EXIT_FAILURE
        sys.stderr.flush()
        os._exit(code)
    _print_end(config, rank)
    return 0


def _print_end(config: "MosaicJobConfig", rank: RankEnvironment) -> None:
    """Say what was kept, where no launcher of ours does."""
    if not rank.rank and not rank.launched_by_us:
        print_end_of_run(config, None)


def _get_ready(config: "MosaicJobConfig", rank: RankEnvironment) -> None:
    world_size = int(os.environ["WORLD_SIZE"])
    init_rank_logs(config, rank.rank, world_size, launcher=rank.launched_by_us)
    if not rank.launched_by_us:
        ranks_here = int(os.environ["LOCAL_WORLD_SIZE"])
        log = rank.rank == 0
        prepare_and_check(config, world_size=world_size, ranks_here=ranks_here, log=log)
    keep_lanes(config)
    patch_torchtitan()
    config.model.name = register_spec(config)


def _train(config: "MosaicJobConfig") -> None:
    """What torchtitan's own main does once it has a configuration."""
    import torch
    from torchtitan.tools.logging import logger
    from torchtitan.train import Trainer

    # The elastic agent sets this to its default; TorchTitan sets its own, and warns of the other.
    if os.environ.get("TORCH_NCCL_ASYNC_ERROR_HANDLING") == "1":
        del os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"]
    trainer: Any = None
    try:
        trainer = Trainer(config)
        if config.comm.mode == "local_tensor":
            logger.info("Local tensor mode: the model is built, training is skipped")
        elif config.checkpoint.create_seed_checkpoint:
            trainer.checkpointer.save(curr_step=0, last_step=True)
            logger.info("Created seed checkpoint")
        else:
            trainer.train()
    finally:
        if trainer is not None:
            trainer.close()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    logger.info("Process group destroyed")


def explain_full_disk(error: BaseException, folder: str) -> str | None:
    """The line for a run that failed because a disk is full; None if it failed otherwise.

    Torch's own writers say so in words only, and wrap the errors of other ranks.

    Args:
        error: What ended the run.
        folder: The dump folder.
    """
    causes = list(_causes(error))
    places = [
        str(cause.filename or folder)
        for cause in causes
        if isinstance(cause, OSError) and cause.errno in _FULL
    ]
    words = [os.strerror(number) for number in _FULL]
    named = any(word in str(cause) for cause in causes for word in words)
    failed = named or (any("write" in str(cause) for cause in causes) and _is_full(folder))
    if not places and not failed:
        return None
    place = places[0] if places else folder
    return (
        f"no space left on the disk of {place}: free some, or lower checkpoint.keep_latest_k, and "
        "start again; the run continues from its last complete checkpoint"
    )


def _is_full(folder: str) -> bool:
    try:
        return shutil.disk_usage(folder).free < 1 << 20
    except OSError:
        return False


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error, what it wraps, and what it was raised from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop()
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__]
        failures = getattr(cause, "failures", None)
        if isinstance(failures, dict):  # of torch's CheckpointException, by rank
            waiting += [each[0] for each in failures.values()]
