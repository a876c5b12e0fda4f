"""Does an epoch fill a batch, and the lanes in which documents are packed?"""

from mosaic_dataloader.checks.names import PYTHON, OptionNames
from mosaic_dataloader.loader import MosaicParallelAwareDataloader
from mosaic_dataloader.packing.lanes import default_lanes
from mosaic_dataloader.reading.document_length import rows_of_epoch

# Of fewer, the longest and the shortest lane are far apart.
_DOCUMENTS_PER_LANE = 10


def short_epoch(loader: MosaicParallelAwareDataloader, *, names: OptionNames = PYTHON) -> list[str]:
    """A mistake: an epoch has fewer samples than one global batch.

    Args:
        loader: The loader of any rank.
        names: What the caller's options are called.

    Returns:
        One line; none with packing, where a row holds many samples or a part of one.
    """
    samples = loader.mixture.epoch_samples
    batch = loader.batch_size * loader.dp_world_size
    if loader.dataset.packing or samples >= batch:
        return []
    return [
        f"an epoch has {samples:,} samples, fewer than one global batch of {batch:,} "
        f"({names.batch_size} {loader.batch_size} * {loader.dp_world_size} data-parallel rank(s)), "
        f"so that a batch would hold samples twice: add data, or lower {names.batch_size}"
    ]


def documents_per_lane(
    loader: MosaicParallelAwareDataloader, *, names: OptionNames = PYTHON
) -> list[str]:
    """A cost: an epoch has too few documents for the lanes in which they are packed.

    Each lane goes through the epochs at its own pace, so that with few documents some are read a
    second time before others are read once.

    Args:
        loader: The loader of any rank, of a run that does not resume another: a run keeps the
            lanes that it began with.
        names: What the caller's options are called.

    Returns:
        One line; none without packing.
    """
    dataset, ranks = loader.dataset, loader.dp_world_size
    if not dataset.packing:
        return []
    lanes = dataset.options.packing_lanes or default_lanes(ranks)
    documents = loader.mixture.epoch_samples
    # More lanes than ranks are there for more ranks later, which a single one for each does not.
    if documents >= _DOCUMENTS_PER_LANE * lanes or lanes == ranks:
        return []
    # A lane's first row begins with its own document, and all rows together hold an epoch.
    fresh = min(lanes, documents, rows_of_epoch(dataset.streams, loader.mixture, dataset.seq_len))
    repeated = (
        f"about {lanes - fresh:,} of the first {lanes:,} rows repeat earlier ones"
        if fresh < lanes
        else "some are read again before others are read at all"
    )
    fitting = ranks
    while 2 * fitting * _DOCUMENTS_PER_LANE <= documents:
        fitting *= 2
    return [
        f"an epoch of {documents:,} documents has {documents / lanes:.2g} for each of {lanes:,} "
        f"packing lanes, and {repeated}: set {names.dataset}packing_lanes = {fitting} when the run "
        f"begins, or add documents"
    ]
