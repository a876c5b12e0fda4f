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
            if data is None:
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
    r"""The records that begin in a piece, with the byte at which each does.

    Pieces of a file meet at the end of a delimiter that no other one overlaps ("\n\n" occurs twice
    in "\n\n\n"), so that they find the records that a single reader would.
    """
    if piece.stop is None and not piece.start:
        with unpacked(piece.file) as stream:
            yield from _split(stream, 0, None, delimiter, limit, skip=False)
        return
    with opened(piece.file) as stream:
        # Enough before it to find a delimiter that ends there, and one that overlaps that.
        begin = max(0, piece.start - 2 * len(delimiter) + 1)
        stream.seek(begin)
        yield from _split(stream, begin, piece, delimiter, limit, skip=piece.start > 0)


def _split(
    stream: IO[bytes],
    position: int,
    piece: Piece | None,
    delimiter: bytes,
    limit: int,
    *,
    skip: bool,
) -> Iterator[tuple[int, bytes | None]]:
    width = len(delimiter)
    # `data[0]` is byte `position` of the file; the present record begins at `data[begin]`.
    data, begin, searched = bytearray(), 0, 0
    dropping = False
    # What a decoder has made before it meets damage; `read` would lose it.
    read = getattr(stream, "read1", stream.read)
    while True:
        chunk = read(_CHUNK_BYTES)
        data += chunk
        while (found := data.find(delimiter, searched)) >= 0:
            end = found + width
            at = position + end
            alone = data.find(delimiter, max(0, found - width + 1), end - 1) < 0
            if skip:
                # What lies before belongs to the pieces before. Where no record begins in this
                # piece, it is read up to where one begins in a later one.
                skip = not (alone and piece is not None and at >= piece.start)
                searched = found + 1 if skip else end
            else:
                if not dropping:
                    yield position + begin, _held(data, begin, found, limit)
                dropping, searched = False, end
            begin = end
            if piece is not None and piece.stop is not None and alone and at >= piece.stop:
                return
        if not chunk:
            break
        searched = max(searched, len(data) - width + 1)
        if skip:
            begin = searched
        elif not dropping and searched - begin > limit:
            yield position + begin, None
            dropping = True
        # The bytes before that tell whether a delimiter stands alone are kept.
        keep = max(0, (searched if dropping else begin) - width + 1)
        del data[:keep]
        position += keep
        begin, searched = max(begin - keep, 0), searched - keep
    if not skip and not dropping and begin < len(data):
        # Nothing after a last delimiter is not a document.
        yield position + begin, _held(data, begin, len(data), limit)


def _held(data: bytearray, begin: int, end: int, limit: int) -> bytes | None:
    return bytes(data[begin:end]) if end - begin <= limit else None
