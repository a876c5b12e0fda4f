"""Everything that can be known to be wrong before a rank starts, cheap things first."""

import logging
import time
from typing import TYPE_CHECKING

from mosaic_train.checks.checkpoint import check_checkpoint
from mosaic_train.checks.datasets import check_datasets
from mosaic_train.checks.device import check_device
from mosaic_train.checks.model import find_model
from mosaic_train.checks.parallel import check_parallel
from mosaic_train.checks.vocabulary import check_vocabulary
from mosaic_train.data import prepare_data

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig

logger = logging.getLogger("mosaic_train")


def prepare_and_check(config: "MosaicJobConfig", *, world_size: int) -> None:
    """Check the configuration, prepare the data, then check what the data decides.

    Args:
        config: The parsed configuration. It is not modified.
        world_size: Ranks of the whole run.

    Raises:
        TrainError: A mistake that the app finds. The packages' own errors pass through.
    """
    start = time.monotonic()
    model = find_model(config)
    check_device(config, model)
    layout = check_parallel(config, model, world_size)
    check_checkpoint(config)
    prepare_data(config)
    tokenizer = check_vocabulary(config, model)
    check_datasets(config, layout, tokenizer)
    logger.info("checked configuration and data in %.1f s", time.monotonic() - start)
