"""Parquet files: a document in each row."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.blocks import (
    BLOCK_BYTES,
    Bad,
    Block,
    Position,
    Reading,
    Texts,
)
from mosaic_dataloader.prepare.corpus.opening import InputFile, need_pyarrow, opened

# A row group of more is read here, bit by bit; a worker would hold all of it.
_LARGE_GROUP_BYTES = 8 * BLOCK_BYTES
_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class RowGroups:
    """Row groups `[start, stop)` of a file."""

    position: Position
    size: int
    file: InputFile
    start: int
    stop: int
    first: int
    reading: Reading

    def documents(self) -> Iterator[str | Bad]:
        """See `Block`."""
        with opened(self.file) as stream:
            groups = list(range(self.start, self.stop))
            number = self.first
            for texts in _batches(_parquet_file(stream), groups, self.reading):
                yield from Texts(
                    self.position, 0, self.file.name, number, texts, self.reading
                ).documents()
                number += len(texts)


def row_groups(index: int, file: InputFile, reading: Reading) -> Iterator[Block]:
    """Blocks of a Parquet file.

    Raises:
        MosaicDataError: It cannot be read, or lacks a column.
    """
    with opened(file) as stream:
        parquet = _parquet_file(stream)
        metadata = parquet.metadata
        check_columns(file.name, parquet.schema_arrow, reading)
        wanted = [
            i
            for i in range(metadata.num_columns)
            if metadata.schema.column(i).path.split(".")[0] in reading.columns
        ]
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        stored = sum(group.total_byte_size for group in groups) or 1
        start, first, size, weight = 0, 1, 0, 0
        rows = 0
        for number, group in enumerate(groups):
            text = sum(group.column(i).total_uncompressed_size for i in wanted)
            share = group.total_byte_size * max(file.size, 0) // stored
            if text > _LARGE_GROUP_BYTES:
                if size:
                    yield RowGroups((index, start), weight, file, start, number, first, reading)
                pieces = _pieces(parquet, (index, number), share, file, first + rows, reading)
                yield from pieces
                first, rows = first + rows + group.num_rows, 0
                start, size, weight = number + 1, 0, 0
                continue
            size, weight, rows = size + text, weight + share, rows + group.num_rows
            if size >= BLOCK_BYTES:
                yield RowGroups((index, start), weight, file, start, number + 1, first, reading)
                start, first, rows, size, weight = number + 1, first + rows, 0, 0, 0
        if start < len(groups):
            yield RowGroups((index, start), weight, file, start, len(groups), first, reading)


def texts_of(table: Any, reading: Reading) -> list[bytes]:
    """Documents of an Arrow table or record batch, in UTF-8; null is empty."""
    import pyarrow

    columns = []
    for name in reading.columns:
        column = table.column(name)
        if pyarrow.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        # As bytes: one row that is not UTF-8 must not spoil the others.
        columns.append(column.cast(pyarrow.large_binary()))
    if len(columns) == 1:
        return [value or b"" for value in columns[0].to_pylist()]
    between = reading.column_separator.encode()
    rows = zip(*(column.to_pylist() for column in columns), strict=True)
    return [between.join(value for value in row if value) for row in rows]


def check_columns(name: str, schema: Any, reading: Reading) -> None:
    """See that the columns are there and hold text.

    Raises:
        MosaicDataError: One does not.
    """
    from pyarrow import types

    tests = ("is_string", "is_large_string", "is_binary", "is_large_binary", "is_string_view")
    for column in reading.columns:
        if column not in schema.names:
            raise MosaicDataError(
                f"prepare: {name} has no column {column!r}; it has {', '.join(schema.names)} "
                f"(choose with text_columns)"
            )
        kind = schema.field(column).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if not types.is_null(kind) and not any(getattr(types, test)(kind) for test in tests):
            raise MosaicDataError(f"prepare: {name}, column {column!r} holds {kind}, not text")


def _pieces(
    parquet: Any, place: Position, share: int, file: InputFile, first: int, reading: Reading
) -> Iterator[Block]:
    """Blocks of one large row group, with their text."""
    held: list[bytes] = []
    size, chunk = 0, 0
    for texts in _batches(parquet, [place[-1]], reading):
        held += texts
        size += sum(map(len, texts))
        if size >= BLOCK_BYTES:
            yield Texts((*place, chunk), 0, file.name, first, held, reading)
            first, chunk = first + len(held), chunk + 1
            held, size = [], 0
    # Its share of the progress comes with the last piece.
    yield Texts((*place, chunk), share, file.name, first, held, reading)


def _batches(parquet: Any, groups: Sequence[int], reading: Reading) -> Iterator[list[bytes]]:
    columns = list(reading.columns)
    for batch in parquet.iter_batches(
        _BATCH_ROWS, row_groups=list(groups), columns=columns, use_threads=False
    ):
        yield texts_of(batch, reading)


def _parquet_file(stream: IO[bytes]) -> Any:
    need_pyarrow("the input is Parquet")
    from pyarrow.parquet import ParquetFile

    # Buffered and not read ahead: of a column chunk only as much is held as a batch needs.
    return ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
