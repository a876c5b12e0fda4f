"""Documents, and what is found in their place."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mosaic_prepare.inputs import InputFile
from mosaic_prepare.opening import line_at_byte


@dataclass(frozen=True)
class DatasetName:
    """What `datasets.load_dataset` is called with.

    Attributes:
        name: Name on the hub, or a directory.
        config: Name of its configuration.
        split: Which split; None: `train`, or a saved data set that is not split.
        kwargs: Further keywords.
    """

    name: str
    config: str | None = None
    split: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As messages call it."""
        return f"data set {self.name!r}" + (f" ({self.config})" if self.config else "")


@dataclass(frozen=True)
class ReadOptions:
    """How documents are found in the input.

    Attributes:
        columns: Columns of a record that make up its document.
        column_separator: Put between several columns.
        separator: What lies between the documents of a text file; None: a file is a document.
        max_document_bytes: Size of the largest document that is taken.
        dataset: The data set, where the input is one.
    """

    columns: tuple[str, ...] = ("text",)
    column_separator: str = "\n\n"
    separator: str | None = None
    max_document_bytes: int = 64 << 20
    dataset: DatasetName | None = None


@dataclass(frozen=True)
class Piece:
    """A part of the input that is read from its beginning to its end.

    Attributes:
        file: The file, or what stands for a part of a data set.
        format: Name of its format.
        start: First byte that is its own: it holds the records that begin in `[start, stop)`.
            Of a data set, its first row, or the number of its shard.
        stop: Where the next piece begins; None: the end of the file.
    """

    file: InputFile
    format: str
    start: int = 0
    stop: int | None = None

    @property
    def size(self) -> int:
        """Bytes of input, as stored; 0 where nobody knows."""
        stop = self.file.size if self.stop is None else self.stop
        return max(self.file.size if self.format == "dataset" else stop - self.start, 0)


@dataclass(frozen=True)
class Rejected:
    """A part of the input that is not a document.

    Attributes:
        file: Where it is.
        unit: What `number` counts: `row` (from 1), `byte` (from 0); empty for the file.
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


Document = str | Rejected


class NotADocumentError(ValueError):
    """Why a part of the input is not a document, as the end of a sentence."""


def decode(data: bytes, options: ReadOptions) -> str:
    """The text of a document."""
    if len(data) > options.max_document_bytes:
        raise NotADocumentError(
            f"is a document of {len(data):,} bytes, more than max_document_bytes = "
            f"{options.max_document_bytes}"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise NotADocumentError("is not UTF-8 text") from None
