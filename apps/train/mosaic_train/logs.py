"""Who prints what: launcher and ranks write to one console."""

import logging
import os
import sys
import warnings
from typing import Any

from mosaic_trainspec.torchtitan_patches.loss_rank import loss_rank

_FORMAT = "[titan] %(asctime)s - %(name)s - %(levelname)s - %(message)s"


def init_launcher_logs() -> None:
    """The launcher's own messages, in TorchTitan's format; other libraries' only from warnings."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _leave_row_lengths_to_the_checks()
    for name in ("mosaic_train", "mosaic_dataloader", "mosaic_config", "mosaic_prepare"):
        logging.getLogger(name).setLevel(logging.INFO)


def print_log_line(text: str) -> None:
    """Print a line as the log has it, before there is a log or whatever its level is."""
    record = logging.LogRecord("mosaic_train", logging.INFO, __file__, 0, text, None, None)
    print(logging.Formatter(_FORMAT).format(record), flush=True)


def init_rank_logs(config: Any, rank: int, world_size: int, *, launcher: bool) -> None:
    """TorchTitan's log; informational lines only from the rank that has the loss.

    `LOG_RANK` (a list such as `0,4`, as TorchTitan's own start script has it) chooses others.
    Warnings and errors are printed by every rank, with its number; those about the data only once,
    by rank 0 where no `launcher` has printed them.
    """
    from torchtitan.tools.logging import init_logger

    init_logger()
    _leave_row_lengths_to_the_checks()
    if launcher or rank:
        logging.getLogger("mosaic_dataloader.at_start").setLevel(logging.ERROR)
    if not os.environ.get("LOG_RANK"):
        # In a pipeline the others have none to print. TorchTitan looks here too, and warns of a
        # loss that nobody sees.
        os.environ["LOG_RANK"] = str(loss_rank(config, world_size))
    root = logging.getLogger()
    if str(rank) not in os.environ["LOG_RANK"].split(","):
        root.setLevel(logging.WARNING)
    if not config.checkpoint.last_save_in_hf:
        root.addFilter(_not_about_hf_assets)
    if rank:
        formatter = logging.Formatter(_FORMAT.replace("[titan]", f"[titan] [rank {rank}]"))
        for handler in root.handlers:
            handler.setFormatter(formatter)
        # Python warnings of libraries are the same on every rank.
        warnings.simplefilter("ignore")
    # TorchTitan sets timeouts through a torch function that has been renamed since.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*_set_pg_timeout")


def _leave_row_lengths_to_the_checks() -> None:
    """The checks report them once; the loader would in every process that opens the data."""
    logging.getLogger("mosaic_dataloader.row_length").setLevel(logging.ERROR)


def _not_about_hf_assets(record: logging.LogRecord) -> bool:
    """Missing weights in Hugging Face's format matter only to those who want to save some."""
    return not record.getMessage().startswith("model.safetensors.index.json not found")
