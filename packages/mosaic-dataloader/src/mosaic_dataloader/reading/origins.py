"""Where the rows of a run come from, as it is looked up without moving the run's position."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from mosaic_dataloader.order.mixture import Int64Array, Mixture
from mosaic_dataloader.storage.streams import DataStream


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


@dataclass(frozen=True)
class DocumentOrigin(RowOrigin):
    """Where a part of a packed row comes from: a document, or a part of one.

    ``position`` is the row's; what is said of the sample is said of the document.

    Attributes:
        document: Position of the document in the order of documents.
        begin: Place in the row's T+1 tokens at which the part begins.
        offset: Place in the document of that token.
        tokens: Tokens of the part.
        length: Tokens of the whole document, its EOS included.
    """

    document: int
    begin: int
    offset: int
    tokens: int
    length: int


@dataclass(frozen=True)
class PreviewRow:
    """A row that the run will hand out.

    Attributes:
        position: Its place in the order of the run; of packed rows their number, from 0.
        rank: The data-parallel rank that trains on it.
        row: Its number among the rank's rows of the global batch.
        origins: Where it comes from: one sample, or the documents in it in their order.
        counts: int64[streams], what it adds to `stream_counts`.
        read: Gives its inputs and labels, both int64[T]; fetches what is not there yet, and may
            raise MosaicDataError.
        lane: The packing lane that it is cut from; None where documents are not packed.
    """

    position: int
    rank: int
    row: int
    origins: tuple[RowOrigin, ...]
    counts: Int64Array
    read: Callable[[], tuple[torch.Tensor, torch.Tensor]]
    lane: int | None = None


def sample_fields(
    streams: list[DataStream], mixture: Mixture, ids: Int64Array
) -> list[dict[str, Any]]:
    """The fields of a `RowOrigin` that follow from its sample, for each of int64[n] sample ids."""
    shards, places = mixture.locate(ids)
    found = []
    for sample, shard, place in zip(ids.tolist(), shards.tolist(), places.tolist(), strict=True):
        number, shard_in_stream = mixture.shard_in_stream(shard)
        found.append(
            {
                "stream": streams[number].name,
                "sample": sample - int(mixture.stream_offsets[number]),
                "shard": streams[number].path(shard_in_stream),
                "shard_number": shard,
                "place": place,
            }
        )
    return found
