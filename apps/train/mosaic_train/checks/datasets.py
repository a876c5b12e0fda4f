"""Can the data be opened, and does it hold what training needs?"""

from typing import TYPE_CHECKING, Any

from mosaic_train.checks.checkpoint import checkpoint_to_continue
from mosaic_train.checks.parallel import Layout

if TYPE_CHECKING:
    from mosaic_config import MosaicJobConfig


def check_datasets(config: "MosaicJobConfig", layout: Layout, tokenizer: Any) -> None:
    """Build the loaders as the first rank will, which opens the indexes and checks the columns.

    Raises:
        MosaicDataError: A directory, a column or an option is wrong.
    """
    from mosaic_dataloader import build_mosaic_dataloader, build_mosaic_validation_dataloader

    builders = [build_mosaic_dataloader]
    if config.validation.enable:
        builders.append(build_mosaic_validation_dataloader)
    for build in builders:
        loader = build(
            dp_world_size=layout.dp_world_size, dp_rank=0, tokenizer=tokenizer, job_config=config
        )
        # A checkpoint brings the order of its first run's layout with it.
        resumes = config.checkpoint.enable and checkpoint_to_continue(config) is not None
        if not (resumes and build is build_mosaic_dataloader):
            loader.check()
        # The launcher lives as long as the run, and must not hold on to a cache that ranks use.
        loader.dataset.close()
