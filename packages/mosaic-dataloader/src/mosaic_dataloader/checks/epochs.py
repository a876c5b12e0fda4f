"""Does an epoch fill a batch?"""

from typing import TYPE_CHECKING

from mosaic_dataloader.checks.names import PYTHON, OptionNames

if TYPE_CHECKING:
    from mosaic_dataloader.loader import MosaicParallelAwareDataloader


def short_epoch(
    loader: "MosaicParallelAwareDataloader", *, names: OptionNames = PYTHON
) -> list[str]:
    """A mistake: an epoch has fewer samples than one global batch.

    Args:
        loader: The loader of any rank.
        names: What the caller's options are called.

    Returns:
        One line; none with packing, where a row holds many samples or a part of one.
    """
    samples = loader.dataset.mixture.epoch_samples
    batch = loader.batch_size * loader.dp_world_size
    if loader.dataset.packing or samples >= batch:
        return []
    return [
        f"an epoch has {samples:,} samples, fewer than one global batch of {batch:,} "
        f"({names.batch_size} {loader.batch_size} * {loader.dp_world_size} data-parallel rank(s)), "
        f"so that a batch would hold samples twice: add data, or lower {names.batch_size}"
    ]
