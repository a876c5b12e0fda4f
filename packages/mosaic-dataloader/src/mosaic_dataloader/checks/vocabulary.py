"""Do the first samples of each stream hold token ids that the model embeds?"""

import os
from typing import TYPE_CHECKING

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.reading.vocabulary import check_first_samples
from mosaic_dataloader.storage.streams import DataStream

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset

# First shards that are fetched to look at their samples take no more than this together.
_FETCHED_BYTES = 256 << 20


def first_samples(dataset: "StreamingTextDataset", *, vocab_size: int | None = None) -> list[str]:
    """A mistake: the first samples of a stream hold token ids outside the model's vocabulary.

    A stream whose first shard is not on this machine is left out where fetching all such shards
    would take long; its rows are checked as they are trained on.

    Args:
        dataset: The data.
        vocab_size: Token ids that the model embeds; None finds only negative ones.

    Returns:
        A line for each stream that has some, or whose first shard cannot be read.
    """
    lines = []
    may_fetch = _FETCHED_BYTES
    for number, stream in enumerate(dataset.streams):
        if stream.column.kind == "text":
            continue
        if not _first_shard_is_here(stream):
            size = int(stream.readers[0].get_raw_size())
            if size > may_fetch:
                continue
            may_fetch -= size
        try:
            check_first_samples(dataset, number, vocab_size)
        except MosaicDataError as error:
            lines.append(str(error))
    return lines


def _first_shard_is_here(stream: DataStream) -> bool:
    file = stream.readers[0].file_pairs[-1][0].basename
    return os.path.exists(os.path.join(stream.directory, file))
