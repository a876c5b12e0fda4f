"""Cutting one long sequence of tokens into training rows."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.integer[Any]]


def join_documents(documents: Iterable[Tokens], eos_id: int) -> Iterator[Tokens]:
    """Put the end-of-text token between documents; pieces keep the documents' dtype.

    Args:
        documents: Token ids of each document, shape `[n]`, none empty.
        eos_id: The token between two documents.
    """
    for number, document in enumerate(documents):
        if number:
            yield np.array([eos_id], dtype=document.dtype)
        yield document


def cut_rows(pieces: Iterable[Tokens], seq_len: int) -> Iterator[Tokens]:
    """Cut the concatenated pieces so that every token but the first is a target exactly once.

    A row has `seq_len + 1` tokens: as many inputs, and targets one position on, as a step trains
    on. It therefore starts with the last token of the row before. Only the last may be shorter;
    it has at least two tokens, since a single one has no target.

    Args:
        pieces: Token ids, shape `[n]`, one dtype.
        seq_len: Targets in a row.
    """
    parts: list[Tokens] = []
    held = 0
    for piece in pieces:
        parts.append(piece)
        held += len(piece)
        if held <= seq_len:
            continue
        tokens = np.concatenate(parts)
        full = (held - 1) // seq_len
        for row in range(full):
            yield tokens[row * seq_len : (row + 1) * seq_len + 1]
        parts = [tokens[full * seq_len :]]
        held = len(parts[0])
    if held > 1:
        yield np.concatenate(parts)
