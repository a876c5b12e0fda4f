"""Packed rows of all ranks from a position on: made, without moving the run's position."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.order.batches import Layout
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.packing.bookkeeping import PackedBookkeeping
from mosaic_dataloader.packing.buffers import Piece
from mosaic_dataloader.packing.lanes import residue_of_rank
from mosaic_dataloader.packing.source import Pass, packed_batches
from mosaic_dataloader.reading.origins import RowOrigin, shard_path

if TYPE_CHECKING:
    from mosaic_dataloader.dataset import StreamingTextDataset

# Rows between two reports of how far the reading is.
_REPORTED = 1000

Progress = Callable[[int, int], None]


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
class PackedRow:
    """A packed row, and what it is made of.

    Attributes:
        position: Its number in the run, from 0.
        rank: The data-parallel rank that trains on it.
        row: Its number among the rank's rows of the global batch.
        lane: The lane that it is cut from.
        inputs: int64[T].
        labels: int64[T].
        targets: int64[streams], labels that are not ignored, by the streams of their documents.
        documents: The parts of the row's T+1 tokens, in their order.
    """

    position: int
    rank: int
    row: int
    lane: int
    inputs: torch.Tensor
    labels: torch.Tensor
    targets: Int64Array
    documents: tuple[DocumentOrigin, ...]


def preview_rows(
    dataset: "StreamingTextDataset",
    books: PackedBookkeeping,
    layout: Layout,
    position: int,
    *,
    predownload: int,
    progress: Progress | None = None,
) -> Iterator[PackedRow]:
    """Rows of the run in their order, without end; see `MosaicParallelAwareDataloader`.

    Args:
        dataset: The data.
        books: Where the run is; not changed.
        layout: Of a rank; global batches are counted from ``position`` on.
        position: The first row.
        predownload: Documents to fetch shards ahead for while reading up to ``position``.
        progress: Called now and then with rows read and rows to read up to ``position``.

    Raises:
        MosaicDataError: The row lies before the present order, or the data cannot be read.
    """
    if position < books.origin.samples:
        raise MosaicDataError(
            f"row {position} lies before row {books.origin.samples}, where the present order "
            f"begins; ask for a later one"
        )
    walk = books.reading_all_lanes(position)
    begin = walk.samples_seen
    ranks = {
        residue_of_rank(rank, layout.world_size, dataset.order_options.num_canonical_nodes): rank
        for rank in range(layout.world_size)
    }
    dataset.store.register()
    batches = packed_batches(
        dataset,
        walk,
        Pass(),
        batch_size=1,
        predownload=predownload if begin < position else 0,
        workers=None,
        under_way=0,
        pieces=True,
    )
    for number, batch in enumerate(batches, begin):
        if number < position:
            read = number + 1 - begin
            if progress and (read % _REPORTED == 0 or number + 1 == position):
                progress(read, position - begin)
            continue
        ((lane, pieces),) = batch.pieces
        row = (number - position) % layout.global_batch // layout.world_size
        rank = ranks[lane % layout.world_size]
        yield PackedRow(
            position=number,
            rank=rank,
            row=row,
            lane=lane,
            inputs=torch.from_numpy(batch.inputs[0]),
            labels=torch.from_numpy(batch.labels[0]),
            targets=batch.targets,
            documents=_documents(dataset, walk, lane, pieces, (number, rank, row)),
        )


def _documents(
    dataset: "StreamingTextDataset",
    books: PackedBookkeeping,
    lane: int,
    pieces: list[Piece],
    where: tuple[int, int, int],
) -> tuple[DocumentOrigin, ...]:
    position, rank, row = where
    lanes = np.full(len(pieces), lane, np.int64)
    numbers = np.array([piece.document for piece in pieces], np.int64)
    ids = books.locate(lanes, numbers)
    shards, places = dataset.mixture.locate(ids)
    return tuple(
        DocumentOrigin(
            position=position,
            rank=rank,
            row=row,
            epoch=books.origin.epoch + books.lanes.epoch(lane, piece.document),
            stream=dataset.streams[piece.stream].name,
            sample=sample - int(dataset.mixture.stream_offsets[piece.stream]),
            shard=shard_path(dataset, piece.stream, shard),
            shard_number=shard,
            place=place,
            document=document,
            begin=piece.begin,
            offset=piece.offset,
            tokens=piece.tokens,
            length=piece.length,
        )
        for piece, sample, shard, place, document in zip(
            pieces,
            ids.tolist(),
            shards.tolist(),
            places.tolist(),
            books.lanes.positions(lanes, numbers).tolist(),
            strict=True,
        )
    )
