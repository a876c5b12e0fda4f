"""Text files and JSON Lines: records with a delimiter between them."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO

from mosaic_prepare.documents import (
    Document,
    NotADocumentError,
    Piece,
    RejectedInput,
    decode,
)
from mosaic_prepare.opening import opened, read_exactly, unpacked
from mosaic_prepare.options import PrepareOptions

_CHUNK_BYTES = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_text(piece: Piece, options: PrepareOptions) -> Iterator[Document]:
    """Documents of a text file: the file, or what lies between separators."""
    if options.document_separator is not None:
        yield from _documents(
            piece, options, options.document_separator, decode, "correct document_separator"
        )
        return
    limit = options.max_document_bytes
    # One byte more than is allowed, to see whether there is more.
    with unpacked(piece.file) as stream:
        data = read_exactly(stream, limit + 1)
    if len(data) > limit:
        raise NotADocumentError(
            f"is one document of more than {limit:,} bytes; say what separates its documents "
            f"(document_separator) or raise the limit (max_document_bytes)"
        )
    yield decode(data.removeprefix(_BYTE_ORDER_MARK), options)


def read_jsonl(piece: Piece, options: PrepareOptions) -> Iterator[Document]:
    """Documents of a JSON Lines file; blank lines are passed over."""
    hint = "set input_format if this is not JSON Lines"
    return _documents(piece, options, "\n", _json_document, hint)


def _documents(
    piece: Piece,
    options: PrepareOptions,
    delimiter: str,
    parse: Callable[[bytes, PrepareOptions], str | None],
    hint: str,
) -> Iterator[Document]:
    """What `parse` makes of each record; nothing of those for which it returns None."""
    limit = options.max_document_bytes
    for offset, data in _records(piece, delimiter.encode(), limit):
        try:
            if data is None or len(data) > limit:
                raise NotADocumentError(
                    f"is longer than max_document_bytes = {limit} ({hint}, or raise that)"
                )
            text = parse(data if offset else data.removeprefix(_BYTE_ORDER_MARK), options)
            if text is not None:
                yield text
        except NotADocumentError as error:
            yield RejectedInput(piece.file, "byte", offset, str(error))


def _json_document(line: bytes, options: PrepareOptions) -> str | None:
    # Files with such a mark each may have been joined.
    line = line.removeprefix(_BYTE_ORDER_MARK).strip()
    if not line:
        return None
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise NotADocumentError("is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise NotADocumentError(f"is not JSON ({error.msg} at column {error.colno})") from None
    except ValueError:
        # Python reads no integer of more than some thousand digits.
        raise NotADocumentError("is not JSON that can be read (a number is too long)") from None
    except RecursionError:
        raise NotADocumentError("is nested too deeply") from None
    if not isinstance(record, Mapping):
        raise NotADocumentError(f"holds a {type(record).__name__}, not an object with columns")
    texts: list[str] = []
    for column in options.text_columns:
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
        data = options.column_separator.join(texts).encode()
    except UnicodeEncodeError:
        # JSON can spell halves of surrogate pairs.
        raise NotADocumentError("contains half of a surrogate pair") from None
    return decode(data, options)


def _records(piece: Piece, delimiter: bytes, limit: int) -> Iterator[tuple[int, bytes | None]]:
    """The records that begin in a piece, with the byte at which each does.

    Of one that is longer than `limit`, None may be in its place, so that it is not held.
    """
    if piece.stop is None and not piece.start:
        with unpacked(piece.file) as stream:
            yield from _split(stream, 0, None, delimiter, limit)
        return
    with opened(piece.file) as stream:
        begin = _border(stream, piece.start, delimiter)
        end = None if piece.stop is None else _border(stream, piece.stop, delimiter)
        stream.seek(begin)
        yield from _split(stream, begin, end, delimiter, limit)


def _border(stream: IO[bytes], place: int, delimiter: bytes) -> int:
    r"""Where the first record at or after byte `place` begins; the end of the file if none does.

    Pieces of a file meet at the end of a delimiter that no earlier one overlaps ("\n\n" occurs
    twice in "\n\n\n"), so that they find the records that a single reader would.
    """
    if not place:
        return 0
    width = len(delimiter)
    # Enough before it to find a delimiter that ends there, and one that overlaps that.
    position = max(0, place - 2 * width + 1)
    stream.seek(position)
    data, searched = b"", 0
    while chunk := stream.read(_CHUNK_BYTES):
        data += chunk
        while (found := data.find(delimiter, searched)) >= 0:
            end = found + width
            alone = data.find(delimiter, max(0, found - width + 1), end - 1) < 0
            if alone and position + end >= place:
                return position + end
            searched = found + 1
        searched = max(searched, len(data) - width + 1)
        # The bytes before that show whether a delimiter stands alone are kept.
        passed = max(0, searched - width + 1)
        data, position, searched = data[passed:], position + passed, searched - passed
    return position + len(data)


def _split(
    stream: IO[bytes], position: int, end: int | None, delimiter: bytes, limit: int
) -> Iterator[tuple[int, bytes | None]]:
    """The records of `stream`, which is at byte `position` of the file, up to byte `end`."""
    # `data` begins at byte `position`, and with it the present record unless that is too long.
    data, searched, too_long = bytearray(), 0, False
    # What a decoder has made before it meets damage; `read` would lose it.
    read = getattr(stream, "read1", stream.read)
    while True:
        at = position + len(data)
        chunk = read(_CHUNK_BYTES if end is None else min(_CHUNK_BYTES, end - at))
        if not chunk:
            break
        data += chunk
        begin = 0
        while (found := data.find(delimiter, searched)) >= 0:
            if not too_long:
                yield position + begin, bytes(data[begin:found])
            begin = searched = found + len(delimiter)
            too_long = False
        searched = max(begin, len(data) - len(delimiter) + 1)
        if not too_long and searched - begin > limit:
            yield position + begin, None
            too_long = True
        if too_long:
            begin = searched
        del data[:begin]
        position, searched = position + begin, searched - begin
    # Nothing after a last delimiter is not a document.
    if data and not too_long:
        yield position, bytes(data)
