"""What was met on the way."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class Counts:
    """Counts of one split.

    Attributes:
        documents: Documents written.
        empty: Documents left out because they hold no text or no token.
        skipped: Pieces of input left out because they are no documents.
        tokens: Tokens written, with those between documents.
        text_bytes: UTF-8 bytes of the documents written.
        largest: Largest token id; -1 where there is none.
    """

    documents: int = 0
    empty: int = 0
    skipped: int = 0
    tokens: int = 0
    text_bytes: int = 0
    largest: int = -1

    def add(self, other: "Counts") -> None:
        """Count what another counted."""
        self.documents += other.documents
        self.empty += other.empty
        self.skipped += other.skipped
        self.tokens += other.tokens
        self.text_bytes += other.text_bytes
        self.largest = max(self.largest, other.largest)

    def as_json(self) -> dict[str, Any]:
        """For a journal or a manifest."""
        return asdict(self)
