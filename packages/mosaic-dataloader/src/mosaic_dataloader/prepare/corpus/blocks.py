"""Blocks: what a worker gets to do at a time.

A corpus is cut into blocks of a few MB in an order that depends on the input alone. Where a file
can be entered anywhere, a block says only which part it is, and the worker reads it; where it
cannot (compressed text, large row groups, streamed data sets), the block carries its text.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mosaic_dataloader.prepare.corpus.opening import InputFile, line_at_byte

# Input of one block. Enough for half a second of tokenizing, so that handing it out costs nothing;
# little enough to hold a few for each process.
BLOCK_BYTES = 2 << 20

# Blocks are in ascending order of position; the first number counts files or data set shards.
Position = tuple[int, ...]

FORMATS = ("auto", "text", "jsonl", "parquet", "dataset")


@dataclass(frozen=True)
class Reading:
    """How documents are found in the input.

    Attributes:
        format: One of `FORMATS`.
        columns: Columns of a record that make up its document.
        column_separator: What is put between several columns.
        separator: What lies between the documents of a text file; None: a file is a document.
        max_document_bytes: Size of the largest document, or line of JSON Lines, that is taken.
    """

    format: str = "auto"
    columns: tuple[str, ...] = ("text",)
    column_separator: str = "\n\n"
    separator: str | None = None
    max_document_bytes: int = 64 << 20


@dataclass(frozen=True)
class Bad:
    """A piece of input that is no document.

    Attributes:
        file: The file, or the name of a data set's shard.
        unit: What `number` counts: `line`, `row`, `document` (all from 1), `byte` (from 0); empty
            for a file as a whole.
        number: Where in the file.
        why: What is wrong, as the end of a sentence that begins with the place.
    """

    file: InputFile | str
    unit: str
    number: int
    why: str

    def __str__(self) -> str:
        """One line; a byte of a file is told as a line, for which the file is read."""
        unit, number, file = self.unit, self.number, self.file
        if unit == "byte" and isinstance(file, InputFile):
            unit, number = "line", line_at_byte(file, number)
        name = file.name if isinstance(file, InputFile) else file
        return f"{name}, {unit} {number}: {self.why}" if unit else f"{name}: {self.why}"


class NotADocumentError(ValueError):
    """Why a piece of input is no document, as the end of a sentence."""


def decode(data: bytes, reading: Reading) -> str:
    """The text of a document.

    Raises:
        NotADocumentError: It is not UTF-8, or too long.
    """
    if len(data) > reading.max_document_bytes:
        raise NotADocumentError(
            f"is a document of {len(data):,} bytes, more than max_document_bytes = "
            f"{reading.max_document_bytes}"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise NotADocumentError("is not UTF-8 text") from None


class Block(Protocol):
    """A part of the corpus; travels between processes."""

    @property
    def position(self) -> Position:
        """Where it lies in the corpus."""

    @property
    def size(self) -> int:
        """Bytes of input that it stands for, as they are stored."""

    def documents(self) -> Iterator[str | Bad]:
        """The documents in order, and what is none.

        Raises:
            MosaicDataError: The input cannot be read.
        """


@dataclass(frozen=True)
class Texts:
    """Documents that were read already.

    Attributes:
        position: See `Block`.
        size: See `Block`.
        name: Where they come from.
        first: Number of the first row, from 1.
        texts: The documents in UTF-8.
        reading: How they are read.
    """

    position: Position
    size: int
    name: str
    first: int
    texts: Sequence[bytes] = field(repr=False)
    reading: Reading

    def documents(self) -> Iterator[str | Bad]:
        """See `Block`."""
        for number, text in enumerate(self.texts, self.first):
            try:
                yield decode(text, self.reading)
            except NotADocumentError as error:
                yield Bad(self.name, "row", number, str(error))
