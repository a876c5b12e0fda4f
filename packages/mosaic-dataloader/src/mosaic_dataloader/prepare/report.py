"""What came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What a data set holds.

    Attributes:
        output: The MDS directory or URL.
        tokenizer: Directory or name of the tokenizer that the tokens were made with; empty for
            text.
        created: False when everything was there already.
        documents: Documents written.
        skipped: Pieces of input left out because they are no documents.
        empty: Documents left out because they hold no text.
        tokens: Tokens, with those between documents; 0 for text.
        text_bytes: UTF-8 bytes of the documents.
        samples: Rows, or documents.
        shards: Shard files.
        splits: The same numbers for each split; a single one of no name where it is not split.
    """

    output: Path | str
    tokenizer: str
    created: bool
    documents: int
    skipped: int
    empty: int
    tokens: int
    text_bytes: int
    samples: int
    shards: int
    splits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
