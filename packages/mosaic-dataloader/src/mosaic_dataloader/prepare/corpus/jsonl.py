"""JSON Lines: a document in each line's object."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from mosaic_dataloader.prepare.corpus.blocks import (
    BLOCK_BYTES,
    Bad,
    Block,
    NotADocumentError,
    Position,
    Reading,
    decode,
)
from mosaic_dataloader.prepare.corpus.opening import InputFile, opened, read_exactly, unpacked

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LOOK_AHEAD = 1 << 16


@dataclass(frozen=True)
class LineRange:
    """The lines that begin in `[start, stop)` of an uncompressed file."""

    position: Position
    size: int
    file: InputFile
    start: int
    stop: int
    reading: Reading

    def documents(self) -> Iterator[str | Bad]:
        """See `Block`."""
        with opened(self.file) as stream:
            offset, data, too_long = _lines_from(stream, self)
        end = offset + len(data)
        for line in data.split(b"\n"):
            try:
                text = _document(line, self.reading)
                if text is not None:
                    yield text
            except NotADocumentError as error:
                yield Bad(self.file, "byte", offset, str(error))
            offset += len(line) + 1
        if too_long:
            yield Bad(self.file, "byte", end, _too_long(self.reading))


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file that cannot be entered in the middle.

    `too_long` is the number of the line after them, where that one is too long to be held.
    """

    position: Position
    size: int
    file: InputFile
    first: int
    data: bytes = field(repr=False)
    reading: Reading
    too_long: int | None = None

    def documents(self) -> Iterator[str | Bad]:
        """See `Block`."""
        for number, line in enumerate(self.data.split(b"\n"), self.first):
            try:
                text = _document(line, self.reading)
                if text is not None:
                    yield text
            except NotADocumentError as error:
                yield Bad(self.file, "line", number, str(error))
        if self.too_long is not None:
            yield Bad(self.file, "line", self.too_long, _too_long(self.reading))


def line_ranges(index: int, file: InputFile, reading: Reading) -> Iterator[Block]:
    """Blocks of a file that can be entered anywhere."""
    for start in range(0, file.size, BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, file.size)
        yield LineRange((index, start), stop - start, file, start, stop, reading)


def packed_lines(index: int, file: InputFile, reading: Reading) -> Iterator[Block]:
    """Blocks of a file that is read from its beginning.

    Raises:
        MosaicDataError: The file cannot be read.
    """
    line, chunk, told = 1, 0, 0
    rest = b""
    dropping = False
    with unpacked(file) as (stream, stored):
        while data := read_exactly(stream, BLOCK_BYTES):
            data = rest + data
            if dropping:
                end = data.find(b"\n") + 1
                data, line, dropping = (data[end:], line + 1, False) if end else (b"", line, True)
            end = data.rfind(b"\n") + 1
            whole, rest = data[:end], data[end:]
            first, line, too_long = line, line + whole.count(b"\n"), None
            if len(rest) > reading.max_document_bytes:
                rest, dropping, too_long = b"", True, line
            place = stored.tell()
            yield Lines((index, chunk), place - told, file, first, whole, reading, too_long)
            chunk, told = chunk + 1, place
        yield Lines((index, chunk), stored.tell() - told, file, line, rest, reading)


def _lines_from(stream: IO[bytes], block: LineRange) -> tuple[int, bytes, bool]:
    """Where in the file the block's lines begin, the lines, and whether one after them is left out.

    That one is too long to be held.
    """
    begin = block.start
    if begin:
        # The line that reaches into the range belongs to the block before; if the byte before the
        # range ends a line, that is all of it.
        stream.seek(begin - 1)
        data = read_exactly(stream, block.stop - begin + 1)
        end = data.find(b"\n") + 1
        if not end:
            return begin, b"", False
        begin, data = begin - 1 + end, data[end:]
        if begin == block.stop:
            return begin, b"", False
    else:
        data = read_exactly(stream, block.stop)
    if data.endswith(b"\n"):
        return begin, data, False
    parts = [data]
    whole = data.rfind(b"\n") + 1
    tail = len(data) - whole
    while more := read_exactly(stream, _LOOK_AHEAD):
        end = more.find(b"\n") + 1
        parts.append(more[:end] if end else more)
        if end:
            break
        tail += len(more)
        if tail > block.reading.max_document_bytes:
            return begin, data[:whole], True
    return begin, b"".join(parts), False


def _too_long(reading: Reading) -> str:
    return (
        f"is longer than max_document_bytes = {reading.max_document_bytes} (raise that, or, if "
        f"this is not JSON Lines, set input_format)"
    )


def _document(line: bytes, reading: Reading) -> str | None:
    """The document in a line; None for a line that is blank.

    Raises:
        NotADocumentError: There is none.
    """
    if len(line) > reading.max_document_bytes:
        # Wherever blocks begin and end.
        raise NotADocumentError(_too_long(reading))
    line = line.removeprefix(_BYTE_ORDER_MARK).strip()
    if not line:
        return None
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise NotADocumentError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise NotADocumentError(f"is not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise NotADocumentError("is nested too deeply") from None
    if not isinstance(record, Mapping):
        raise NotADocumentError(f"holds a {type(record).__name__}, not an object with columns")
    return _join(record, reading)


def _join(record: Mapping[str, object], reading: Reading) -> str:
    texts: list[str] = []
    for column in reading.columns:
        if column not in record:
            have = ", ".join(list(record)[:12]) or "none"
            raise NotADocumentError(
                f"has no column {column!r}; it has {have} (choose with text_columns)"
            )
        value = record[column]
        if not isinstance(value, str | None):
            raise NotADocumentError(f"column {column!r} holds a {type(value).__name__}, not text")
        if value:
            texts.append(value)
    try:
        data = reading.column_separator.join(texts).encode()
    except UnicodeEncodeError:
        # JSON can spell halves of surrogate pairs.
        raise NotADocumentError("spells half of a character (a lone surrogate)") from None
    return decode(data, reading)
