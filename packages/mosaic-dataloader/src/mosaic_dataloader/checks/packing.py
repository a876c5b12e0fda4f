"""Are there enough documents for the lanes in which they are packed?"""

from typing import TYPE_CHECKING

from mosaic_dataloader.packing.lanes import default_lanes
from mosaic_dataloader.reading.document_length import rows_of_epoch

if TYPE_CHECKING:
    from mosaic_dataloader.loader import MosaicParallelAwareDataloader

# Of fewer, the longest and the shortest lane are far apart.
_DOCUMENTS_PER_LANE = 10


def documents_per_lane(loader: "MosaicParallelAwareDataloader", *, prefix: str = "") -> list[str]:
    """See that an epoch has some documents for each lane.

    Lanes go through the epochs side by side and each at its own pace, so that with few documents
    some are read a second time before others are read once.

    Args:
        loader: The loader of any rank, of a run that does not continue another: a run keeps the
            lanes that it began with.
        prefix: What comes before the names of the data set's options.

    Returns:
        One line if there are not; none without packing.
    """
    dataset, ranks = loader.dataset, loader.dp_world_size
    if not dataset.packing:
        return []
    lanes = dataset.packing_lanes or default_lanes(ranks)
    documents = dataset.mixture.epoch_samples
    # More lanes than ranks are there for more ranks later, which a single one for each does not.
    if documents >= _DOCUMENTS_PER_LANE * lanes or lanes == ranks:
        return []
    # A lane's first row begins with a document of its own, and all rows together hold an epoch.
    fresh = min(lanes, documents, rows_of_epoch(dataset.streams, dataset.mixture, dataset.seq_len))
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
        f"packing lanes, and {repeated}: set {prefix}packing_lanes = {fitting} when the run "
        f"begins, or add documents"
    ]
