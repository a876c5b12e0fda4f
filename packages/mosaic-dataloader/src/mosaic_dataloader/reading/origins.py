"""Which rows a run reads at a position: looked up, without moving the position."""

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from mosaic_dataloader.order.batches import Layout, own_rows

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset
    from mosaic_dataloader.order.sequence import EpochSequence


@dataclass(frozen=True)
class RowOrigin:
    """Where a row of a global batch comes from.

    Attributes:
        position: Its place in the order of the run.
        rank: The data-parallel rank that reads it.
        row: Its number among the rank's rows of the batch.
        epoch: The epoch it belongs to.
        stream: Name of the stream.
        sample: Number within the stream.
        shard: Path that the shard's file has, or will have once it is fetched.
        shard_number: Number of the shard over all streams.
        place: Number within the shard.
    """

    position: int
    rank: int
    row: int
    epoch: int
    stream: str
    sample: int
    shard: str
    shard_number: int
    place: int


def batch_origins(
    dataset: "StreamingTextDataset", timeline: "EpochSequence", layout: Layout, position: int
) -> list[RowOrigin]:
    """Rows of the global batch that begins at a position, rank after rank as they read them."""
    mixture = dataset.mixture
    ids, _ = timeline.rows(position, position + layout.global_batch)
    shards, places = mixture.locate(ids)
    streams = mixture.stream_of(ids)
    origins = []
    for rank in range(layout.world_size):
        own = own_rows(timeline, replace(layout, rank=rank), position, 1)[0]
        for row, index in enumerate(own.tolist()):
            stream, shard = int(streams[index]), int(shards[index])
            origins.append(
                RowOrigin(
                    position=position + index,
                    rank=rank,
                    row=row,
                    epoch=timeline.locate(position + index)[0],
                    stream=dataset.streams[stream].name,
                    sample=int(ids[index] - mixture.stream_offsets[stream]),
                    shard=shard_path(dataset, stream, shard),
                    shard_number=shard,
                    place=int(places[index]),
                )
            )
    return origins


def shard_path(dataset: "StreamingTextDataset", stream: int, shard: int) -> str:
    """Path that the file of a shard has, or will have once it is fetched.

    Args:
        dataset: The data.
        stream: Number of the stream.
        shard: Number of the shard over all streams.
    """
    opened = dataset.streams[stream]
    reader = opened.readers[shard - int(dataset.mixture.stream_shards[stream])]
    return os.path.join(opened.directory, reader.file_pairs[-1][0].basename)


def read_origin(
    dataset: "StreamingTextDataset", origin: RowOrigin
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels of a row, both int64[T]; fetches its shard where it is not there yet.

    Raises:
        MosaicDataError: The shard cannot be had or is damaged.
    """
    inputs, labels, _ = dataset.rows.batch([origin.shard_number], [origin.place])
    return inputs[0], labels[0]
