"""Parquet, Arrow and CSV: a document in each row, read by pyarrow a few rows at a time."""

import csv
import itertools
from collections.abc import Iterator
from typing import Any

import pyarrow
import pyarrow.csv
from pyarrow import types
from pyarrow.parquet import ParquetFile

from mosaic_prepare.documents import (
    Document,
    NotADocumentError,
    Piece,
    RejectedInput,
    decode,
)
from mosaic_prepare.opening import DAMAGE, opened, unpacked
from mosaic_prepare.options import PrepareOptions

_BATCH_ROWS = 256
_BUFFER_BYTES = 1 << 20
_ARROW_FILE_MAGIC = b"ARROW1"
_TEXT_TYPES = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_binary,
    types.is_large_binary,
    types.is_null,
)


def read_parquet(piece: Piece, options: PrepareOptions) -> Iterator[Document]:
    """Documents of a Parquet file's row groups whose data begins in the piece."""
    with opened(piece.file) as stream:
        try:
            # Buffered and not read ahead: only as much of a column is held as a batch needs.
            parquet = ParquetFile(stream, buffer_size=_BUFFER_BYTES, pre_buffer=False)
            check_columns(parquet.schema_arrow, options)
        except (NotADocumentError, *DAMAGE):
            if piece.start:
                return  # the file's first piece reports it
            raise
        row = 1
        for number in range(parquet.metadata.num_row_groups):
            group = parquet.metadata.row_group(number)
            if _owns(piece, group.column(0).data_page_offset):
                batches = parquet.iter_batches(
                    _BATCH_ROWS, [number], list(options.text_columns), use_threads=False
                )
                yield from rows_of(batches, piece, options, itertools.count(row))
            row += group.num_rows


def read_arrow(piece: Piece, options: PrepareOptions) -> Iterator[Document]:
    """Documents of an Arrow file, whose record batches are dealt to its pieces.

    A stream can be read from its beginning only: all of it belongs to the first piece.
    """
    with opened(piece.file) as stream:
        is_file = stream.read(len(_ARROW_FILE_MAGIC)) == _ARROW_FILE_MAGIC
        if piece.start and not is_file:
            return
        stream.seek(0)
        try:
            source = (
                pyarrow.PythonFile(stream, mode="r")
                if piece.file.remote
                else pyarrow.memory_map(piece.file.url)
            )
            reader: Any = (pyarrow.ipc.open_file if is_file else pyarrow.ipc.open_stream)(source)
            check_columns(reader.schema, options)
        except (NotADocumentError, *DAMAGE):
            if piece.start:
                return  # the file's first piece reports it
            raise
        if not is_file:
            yield from rows_of(reader, piece, options, itertools.count(1))
            return
        count = reader.num_record_batches
        for number in range(count):
            if _owns(piece, number * piece.file.size // count):
                batch, unit = reader.get_batch(number), f"record batch {number + 1}, row"
                yield from rows_of([batch], piece, options, itertools.count(1), unit)


def read_delimited(piece: Piece, options: PrepareOptions, *, delimiter: str) -> Iterator[Document]:
    """Documents of a file of delimited values (CSV, TSV) with a line of column names."""
    rejected: list[Document] = []
    refused: set[int] = set()

    def refuse(bad: Any) -> str:
        why = f"has {bad.actual_columns} values for {bad.expected_columns} columns"
        # The line of names is not a row.
        refused.add(bad.number - 1)
        rejected.append(RejectedInput(piece.file, "row", bad.number - 1, why))
        return "skip"

    with unpacked(piece.file) as stream:
        first = stream.read(_BUFFER_BYTES)
    text = first.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    names = next(csv.reader(text.splitlines(), delimiter=delimiter), [])
    check_columns(pyarrow.schema([(name, pyarrow.binary()) for name in names]), options)
    with unpacked(piece.file) as stream:
        reader = pyarrow.csv.open_csv(
            stream,
            # A row must fit into a block.
            pyarrow.csv.ReadOptions(
                use_threads=False, block_size=options.max_document_bytes + _BUFFER_BYTES
            ),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=refuse
            ),
            pyarrow.csv.ConvertOptions(
                check_utf8=False,
                include_columns=list(options.text_columns),
                column_types={name: pyarrow.binary() for name in options.text_columns},
            ),
        )
        numbers = (number for number in itertools.count(1) if number not in refused)
        for batch in reader:
            yield from rejected
            rejected.clear()
            yield from rows_of([batch], piece, options, numbers)
        yield from rejected


def check_columns(schema: Any, options: PrepareOptions) -> None:
    """Check that the columns are there, once each, and hold text."""
    for column in options.text_columns:
        if column not in schema.names:
            raise NotADocumentError(
                f"has no column {column!r}; it has {', '.join(schema.names)} (choose with "
                f"text_columns)"
            )
        if schema.names.count(column) > 1:
            raise NotADocumentError(f"has two columns {column!r}; rename one")
        kind = schema.field(column).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if not any(test(kind) for test in _TEXT_TYPES):
            raise NotADocumentError(f"column {column!r} holds {kind}, not text")


def rows_of(
    batches: Any, piece: Piece, options: PrepareOptions, numbers: Iterator[int], unit: str = "row"
) -> Iterator[Document]:
    """Documents of Arrow tables or record batches; null is empty.

    Args:
        batches: They hold a document in each row.
        piece: Where they are from.
        options: Which columns make up a document.
        numbers: The rows' numbers, for messages.
        unit: What these count.
    """
    between = options.column_separator.encode()
    for batch in batches:
        columns = []
        for name in options.text_columns:
            column = batch.column(name)
            if types.is_dictionary(column.type):
                column = column.cast(column.type.value_type)
            # As bytes: one row that is not UTF-8 must not spoil the others.
            columns.append(column.cast(pyarrow.large_binary()).to_pylist())
        for *values, number in zip(*columns, numbers, strict=False):
            try:
                yield decode(between.join(value for value in values if value), options)
            except NotADocumentError as error:
                yield RejectedInput(piece.file, unit, number, str(error))


def _owns(piece: Piece, place: int) -> bool:
    return piece.start <= place and (piece.stop is None or place < piece.stop)
