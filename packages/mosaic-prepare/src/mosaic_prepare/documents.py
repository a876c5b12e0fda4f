"""Documents, and what is found in their place."""

from dataclasses import dataclass

from mosaic_prepare.inputs import InputFile
from mosaic_prepare.opening import line_at_byte
from mosaic_prepare.options import PrepareOptions


@dataclass(frozen=True)
class Piece:
    """A part of the input that is read from its beginning to its end.

    Attributes:
        file: The file; of a data set, what stands for the part.
        format: Name of its format.
        start: Its first byte: a piece holds the records that begin in `[start, stop)`. Of a data
            set, its first row, or the number of its shard.
        stop: Where the next piece begins; None: the end of the file.
    """

    file: InputFile
    format: str
    start: int = 0
    stop: int | None = None

    @property
    def size(self) -> int:
        """Bytes of input, as stored; 0 where they are not known."""
        stop = self.file.size if self.stop is None else self.stop
        return max(self.file.size if self.format == "dataset" else stop - self.start, 0)


@dataclass(frozen=True)
class RejectedInput:
    """A part of the input that is not a document.

    Attributes:
        file: Where it is.
        unit: What `number` counts: `row` (from 1), `record batch 3, row` (from 1), `byte` (from 0);
            empty for the file.
        number: Where in the file.
        why: What is wrong, as the end of a sentence that begins with the place.
    """

    file: InputFile
    unit: str
    number: int
    why: str

    def __str__(self) -> str:
        """One line; a byte is reported as a line, for which the file is read up to there."""
        if self.unit == "byte":
            return f"{self.file.name}, line {line_at_byte(self.file, self.number)}: {self.why}"
        place = f", {self.unit} {self.number}" if self.unit else ""
        return f"{self.file.name}{place}: {self.why}"


Document = str | RejectedInput


class NotADocumentError(ValueError):
    """Why a part of the input is not a document, as the end of a sentence."""


def decode(data: bytes, options: PrepareOptions) -> str:
    """The text of a document.

    Raises:
        NotADocumentError: It is too long, or not UTF-8.
    """
    if len(data) > options.max_document_bytes:
        raise NotADocumentError(
            f"is a document of {len(data):,} bytes, more than max_document_bytes = "
            f"{options.max_document_bytes}"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise NotADocumentError("is not UTF-8 text") from None
