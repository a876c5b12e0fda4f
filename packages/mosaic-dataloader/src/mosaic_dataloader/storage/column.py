"""Which column of a shard holds the tokens or the text, and how its values are encoded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.options import TOKEN_ENCODING_TYPES
from mosaic_dataloader.storage.contents import shown

TOKEN_COLUMN = "tokens"
TEXT_COLUMN = "text"
# Columns that a message names at most.
_LISTED = 12


@dataclass(frozen=True)
class Column:
    """The column that rows are read from.

    Attributes:
        name: ``tokens`` or ``text``.
        index: Its place among the shard's columns.
        kind: ``ndarray`` (dtype and shape as declared), ``bytes`` (raw token ids) or ``text``.
        dtype: Dtype of the token ids; None for text and where each value carries its own.
        has_shape: Whether each value begins with its shape (an ``ndarray`` of no fixed shape).
    """

    name: str
    index: int
    kind: str
    dtype: np.dtype[Any] | None
    has_shape: bool = False


def find_column(
    names: Sequence[str], encodings: Sequence[str], stream: str, token_encoding_type: str
) -> Column:
    """Choose the column to read: ``tokens`` where there is one, else ``text``.

    ``names`` and MDS ``encodings`` are those of the shard's columns, and ``token_encoding_type`` is
    the dtype of token ids in a ``bytes`` column (llm-foundry's option).

    Raises:
        MosaicDataError: There is neither column, or its encoding holds no token ids or text.
    """
    if TOKEN_COLUMN in names:
        index = names.index(TOKEN_COLUMN)
        return _token_column(index, encodings[index], stream, token_encoding_type)
    if TEXT_COLUMN in names:
        index = names.index(TEXT_COLUMN)
        if encodings[index] != "str":
            raise MosaicDataError(
                f'stream "{stream}": column "text" has encoding {shown(encodings[index])}, not '
                f'"str"; write it as text'
            )
        return Column(TEXT_COLUMN, index, "text", None)
    raise MosaicDataError(
        f'stream "{stream}" has the columns {_listed(names)}, but neither "tokens" nor "text"; '
        f"write one of them"
    )


def _token_column(index: int, encoding: str, stream: str, token_encoding_type: str) -> Column:
    kind, _, rest = encoding.partition(":")
    if kind == "bytes":
        return Column(TOKEN_COLUMN, index, "bytes", np.dtype(token_encoding_type))
    if kind == "ndarray":
        dtype, _, shape = rest.partition(":")
        if dtype and dtype not in TOKEN_ENCODING_TYPES:
            raise MosaicDataError(
                f'stream "{stream}": column "tokens" holds {_plain(dtype)} values; token ids need '
                f"an integer type"
            )
        return Column(TOKEN_COLUMN, index, "ndarray", np.dtype(dtype) if dtype else None, not shape)
    raise MosaicDataError(
        f'stream "{stream}": column "tokens" has encoding {shown(encoding)}; supported are '
        f'"ndarray:…" with an integer type and "bytes"'
    )


def _plain(text: str) -> str:
    """A text from an index, without quotes."""
    return shown(text)[1:-1]


def _listed(names: Sequence[str]) -> str:
    more = ["…"] if len(names) > _LISTED else []
    return ", ".join([*map(_plain, names[:_LISTED]), *more])
