"""Text files: each a document, or many with a separator between them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from mosaic_dataloader.prepare.corpus.blocks import (
    BLOCK_BYTES,
    Bad,
    Block,
    NotADocumentError,
    Position,
    Reading,
    decode,
)
from mosaic_dataloader.prepare.corpus.opening import InputFile, read_exactly, unpacked


@dataclass(frozen=True)
class WholeFiles:
    """Files that are a document each."""

    position: Position
    size: int
    files: tuple[InputFile, ...]
    reading: Reading

    def documents(self) -> Iterator[str | Bad]:
        """See `Block`."""
        limit = self.reading.max_document_bytes
        for file in self.files:
            # Read one byte more than is allowed, to see whether there is more.
            with unpacked(file) as (stream, _):
                data = read_exactly(stream, limit + 1)
            if len(data) > limit:
                yield Bad(
                    file,
                    "",
                    0,
                    f"is one document of more than {limit:,} bytes; say what separates its "
                    f"documents (document_separator) or raise the limit (max_document_bytes)",
                )
                continue
            try:
                yield decode(data, self.reading)
            except NotADocumentError as error:
                yield Bad(file, "", 0, str(error))


@dataclass(frozen=True)
class Pieces:
    """Documents cut out of one file.

    `too_long` is the number of the document after them, where that one is too long to be held.
    """

    position: Position
    size: int
    file: InputFile
    first: int
    pieces: Sequence[bytes] = field(repr=False)
    reading: Reading
    too_long: int | None = None

    def documents(self) -> Iterator[str | Bad]:
        """See `Block`."""
        for number, piece in enumerate(self.pieces, self.first):
            try:
                yield decode(piece, self.reading)
            except NotADocumentError as error:
                yield Bad(self.file, "document", number, str(error))
        if self.too_long is not None:
            why = (
                f"is longer than max_document_bytes = {self.reading.max_document_bytes} (correct "
                f"document_separator, or raise that)"
            )
            yield Bad(self.file, "document", self.too_long, why)


def whole_files(
    index: int, files: Iterable[InputFile], reading: Reading
) -> Iterator[tuple[int, Block]]:
    """Blocks of whole files.

    Args:
        index: Number of the first file.
        files: Consecutive files.
        reading: How to read them.

    Yields:
        The number of files and the block that holds them.
    """
    group: list[InputFile] = []
    size = 0
    for file in files:
        group.append(file)
        size += max(file.size, 0)
        # One whose size nobody knows may be large: it ends a block.
        if size >= BLOCK_BYTES or file.size < 0:
            yield len(group), WholeFiles((index,), size, tuple(group), reading)
            index += len(group)
            group, size = [], 0
    if group:
        yield len(group), WholeFiles((index,), size, tuple(group), reading)


def separated(index: int, file: InputFile, reading: Reading) -> Iterator[Block]:
    """Blocks of the documents in one file.

    Raises:
        MosaicDataError: The file cannot be read.
    """
    assert reading.separator is not None
    separator = reading.separator.encode()
    # A separator may have begun at the end of what was read.
    begun = len(separator) - 1
    number, chunk, told = 1, 0, 0
    rest = b""
    dropping = False
    with unpacked(file) as (stream, stored):
        while data := read_exactly(stream, BLOCK_BYTES):
            *pieces, rest = (rest + data).split(separator)
            first, number, too_long = number, number + len(pieces), None
            if dropping and pieces:
                pieces, first, dropping = pieces[1:], first + 1, False
            if not dropping and len(rest) - begun > reading.max_document_bytes:
                dropping, too_long = True, number
            if dropping:
                rest = rest[len(rest) - begun :]
            place = stored.tell()
            yield Pieces((index, chunk), place - told, file, first, pieces, reading, too_long)
            chunk, told = chunk + 1, place
        # Nothing after a last separator is no document.
        last = [rest] if rest and not dropping else []
        yield Pieces((index, chunk), stored.tell() - told, file, number, last, reading)
