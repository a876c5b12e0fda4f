"""Where documents end in rows of tokens, and each token's position in its document.

Pure functions on arrays. A batch of B rows of T tokens is taken as one run of B*T tokens, so that
everything is computed for the whole batch at once. An *end* is the place, in that run, of the last
token of a document: the label at that very place would predict the next document's first token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.order.mixture import Int64Array


@dataclass(frozen=True)
class Boundaries:
    """What is done about the documents of a row.

    Attributes:
        positions: Whether batches hold each token's position in its document.
        mask: Whether the label that would predict the next document's first token is ignored.
        eos_id: The token that ends a document where the data do not say; None if it is not known.
    """

    positions: bool
    mask: bool
    eos_id: int | None


def ends_in_rows(
    inputs: Int64Array, eos_id: int | None, stored: Mapping[int, NDArray[Any]]
) -> Int64Array:
    """Ends of the documents in a batch.

    Args:
        inputs: int64[B, T], token ids.
        eos_id: The token that ends a document; None if it is not known.
        stored: By row, the ends that the data store: integer[n], places in the row, in any order.
            Places outside the row are ignored. In rows that are missing here, documents end with
            ``eos_id``.

    Returns:
        int64[K], ascending.
    """
    if not stored:
        return _eos_places(inputs, eos_id)
    length = inputs.shape[1]
    rows = sorted(stored)
    joined = joined_ends([stored[row] for row in rows], rows, length)
    if len(rows) == len(inputs):
        return joined
    others = np.setdiff1d(np.arange(len(inputs)), rows)
    row, place = np.divmod(_eos_places(inputs[others], eos_id), length)
    return np.sort(np.concatenate([joined, others[row] * length + place]))


def joined_ends(ends: Sequence[NDArray[Any]], rows: Sequence[int], length: int) -> Int64Array:
    """Ends of several rows as places in the run of their batch, int64[K], ascending.

    Those outside of their row's T tokens mean nothing; the rows' numbers are ascending.
    """
    if not ends:
        return np.empty(0, np.int64)
    places = np.concatenate(ends)
    begins = np.array([row * length for row in rows], np.int64)
    found: Int64Array = begins.repeat([len(own) for own in ends]) + places
    found = found[(places >= 0) & (places < length)]
    found.sort()
    return found


def positions_from_ends(ends: Int64Array, shape: tuple[int, int]) -> Int64Array:
    """Each token's position in its document, int64[B, T].

    It is 0 at the first token of a document and of a row. ``ends`` are int64[K], ascending; see the
    module.
    """
    count, length = shape
    if not len(ends):
        positions = np.empty(shape, np.int64)
        positions[...] = _places(length)
        return positions
    total = count * length
    starts = np.concatenate([np.arange(0, total + 1, length), ends + 1])
    starts.sort()
    # A document that ends with its row is followed by an empty one before the next row's start.
    # numpy's functions of the same names take some microseconds more than these methods.
    begun = starts[:-1].repeat(starts[1:] - starts[:-1])
    return np.subtract(_places(total), begun, out=begun).reshape(shape)


@lru_cache(maxsize=4)
def _places(total: int) -> Int64Array:
    places = np.arange(total)
    places.flags.writeable = False
    return places


def _eos_places(inputs: Int64Array, eos_id: int | None) -> Int64Array:
    if eos_id is None:
        return np.empty(0, np.int64)
    found: Int64Array = (inputs.reshape(-1) == eos_id).nonzero()[0]
    return found
