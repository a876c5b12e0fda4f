"""What a loader will hand out at a position: looked up, without moving the run's position."""

from collections.abc import Callable, Generator
from itertools import islice

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.loader import MosaicParallelAwareDataloader
from mosaic_dataloader.order.mixture import Int64Array
from mosaic_dataloader.reading.origins import PreviewRow, RowOrigin
from mosaic_dataloader.sources import BatchSource
from mosaic_dataloader.state.progress import Progress

Report = Callable[[int, int], None]


def preview(
    loader: MosaicParallelAwareDataloader, position: int, report: Report | None = None
) -> Generator[PreviewRow, None, None]:
    """Rows of all ranks from a position on, batch by batch and without end.

    They are the rows that training is given. Of rows that are samples nothing is read but the
    order, until `PreviewRow.read` is called; in each batch they come rank after rank. Packed rows
    come in the order of the run: which documents they hold is known only when they are read, from
    the last row before ``position`` at which all lanes are known (see `PackedRows.preview`).

    Args:
        loader: The loader of any rank.
        position: The first row; global batches are counted from it.
        report: Called now and then while packed rows before ``position`` are read, with the rows
            read and the rows to read.

    Raises:
        MosaicDataError: The loader packs documents in finite passes. While iterating: the position
            lies before the present order, a loaded lane is damaged, or the data cannot be read.
    """
    source, progress = _source(loader)
    return source.preview(progress, position, report)


def origins(loader: MosaicParallelAwareDataloader, position: int) -> list[RowOrigin]:
    """Where the rows of a global batch come from, of all ranks, rank after rank.

    A packed row has several origins: a `DocumentOrigin` for each document, or part of one, in it.

    Args:
        loader: The loader of any rank.
        position: Where the global batch begins.

    Raises:
        MosaicDataError: As for `preview`.
    """
    size = loader.batch_size * loader.dp_world_size
    rows = list(islice(preview(loader, position), size))
    rows.sort(key=lambda one: (one.rank, one.row))
    return [origin for one in rows for origin in one.origins]


def stream_counts(loader: MosaicParallelAwareDataloader, position: int, batches: int) -> Int64Array:
    """What each stream gives to the global batches from a position on.

    Samples; of packed rows, which are of several streams, target tokens.

    Returns:
        int64[batches, streams].

    Raises:
        MosaicDataError: As for `preview`.
    """
    source, progress = _source(loader)
    return source.stream_counts(progress, position, batches)


def _source(loader: MosaicParallelAwareDataloader) -> tuple[BatchSource, Progress]:
    run = loader.run
    if not loader.infinite and not run.source.length_known:
        raise MosaicDataError(
            "packed rows are previewed in a loader that runs across epochs: make one with infinite "
            "= true"
        )
    return run.source, run.progress
