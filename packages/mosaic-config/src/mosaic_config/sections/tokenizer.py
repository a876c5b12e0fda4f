"""`[mosaic_tokenizer]`: the Hugging Face tokenizer."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class MosaicTokenizer:
    """The tokenizer for text columns; rows stored as tokens need none."""

    name: str | None = None
    """Name on the Hugging Face Hub, or a local directory. None: the data holds tokens already."""

    kwargs: dict[str, Any] = field(default_factory=dict)
    """
    Keyword arguments for AutoTokenizer.from_pretrained. On the command line a value is read as
    TOML (2048, true, 0.5, [1, 2]) and, if it is none, as a string.
    """
