"""JSON Lines: a document in each line's object."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO

from mosaic_dataloader.errors import MosaicDataError
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
            offset, data = _lines_from(stream, self)
        for line in data.split(b"\n"):
            try:
                text = _document(line, self.reading)
                if text is not None:
                    yield text
            except NotADocumentError as error:
                yield Bad(self.file, "byte", offset, str(error))
            offset += len(line) + 1


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file that cannot be entered in the middle."""

    position: Position
    size: int
    file: InputFile
    first: int
    data: bytes = field(repr=False)
    reading: Reading

    def documents(self) -> Iterator[str | Bad]:
        """See `Block`."""
        for number, line in enumerate(self.data.split(b"\n"), self.first):
            try:
                text = _document(line, self.reading)
                if text is not None:
                    yield text
            except NotADocumentError as error:
                yield Bad(self.file, "line", number, str(error))


def line_ranges(index: int, file: InputFile, reading: Reading) -> Iterator[Block]:
    """Blocks of a file that can be entered anywhere."""
    for start in range(0, file.size, BLOCK_BYTES):
        stop = min(start + BLOCK_BYTES, file.size)
        yield LineRange((index, start), stop - start, file, start, stop, reading)


def packed_lines(index: int, file: InputFile, reading: Reading) -> Iterator[Block]:
    """Blocks of a file that is read from its beginning.

    Raises:
        MosaicDataError: The file cannot be read, or a line is too long.
    """
    line, chunk, told = 1, 0, 0
    rest = b""
    with unpacked(file) as (stream, stored):
        while data := read_exactly(stream, BLOCK_BYTES):
            data = rest + data
            end = data.rfind(b"\n") + 1
            whole, rest = data[:end], data[end:]
            if len(rest) > reading.max_document_bytes:
                number = line + whole.count(b"\n")
                raise _too_long(Bad(file, "line", number, ""), reading)
            place = stored.tell()
            yield Lines((index, chunk), place - told, file, line, whole, reading)
            line, chunk, told = line + whole.count(b"\n"), chunk + 1, place
        yield Lines((index, chunk), stored.tell() - told, file, line, rest, reading)


def _lines_from(stream: IO[bytes], block: LineRange) -> tuple[int, bytes]:
    """The block's lines, and where in the file the first begins."""
    begin = block.start
    if begin:
        # The line that reaches into the range belongs to the block before; if the byte before the
        # range ends a line, that is all of it.
        stream.seek(begin - 1)
        data = read_exactly(stream, block.stop - begin + 1)
        end = data.find(b"\n") + 1
        if not end:
            return begin, b""
        begin, data = begin - 1 + end, data[end:]
        if begin == block.stop:
            return begin, b""
    else:
        data = read_exactly(stream, block.stop)
    if data.endswith(b"\n"):
        return begin, data
    parts = [data]
    tail = len(data) - (data.rfind(b"\n") + 1)
    while more := read_exactly(stream, _LOOK_AHEAD):
        end = more.find(b"\n") + 1
        parts.append(more[:end] if end else more)
        if end:
            break
        tail += len(more)
        if tail > block.reading.max_document_bytes:
            last = begin + sum(map(len, parts)) - tail
            raise _too_long(Bad(block.file, "byte", last, ""), block.reading)
    return begin, b"".join(parts)


def _too_long(where: Bad, reading: Reading) -> MosaicDataError:
    return MosaicDataError(
        f"prepare: {where}is longer than {reading.max_document_bytes:,} bytes; if this is JSON "
        f"Lines, raise max_document_bytes"
    )


def _document(line: bytes, reading: Reading) -> str | None:
    """The document in a line; None for a line that is blank.

    Raises:
        NotADocumentError: There is none.
    """
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
