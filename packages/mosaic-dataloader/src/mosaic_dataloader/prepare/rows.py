"""Collecting what the workers made until it fills a shard."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.prepare.encode import Part
from mosaic_dataloader.prepare.mds import ShardFormat, Tokens, row_bytes, row_samples, token_sample

Sizes = NDArray[np.uint32]


class Buffer(Protocol):
    """Collects units (tokens, or samples) and gives them back as shards."""

    def append(self, part: Part, skip: int) -> int:
        """Take in a block's part.

        Args:
            part: What the worker made of it.
            skip: Units to leave out at its beginning; no more than there are.

        Returns:
            Units in the part, with those left out.
        """

    def take(self, *, last: bool) -> tuple[bytes, Sizes, int] | None:
        """A full shard, or, as the last one, what is left; None if there is none.

        Returns:
            The samples end to end, the size of each, and the units that are done with.
        """

    def units(self, part: Part) -> int:
        """Units in a part."""


class RowBuffer:
    """Cuts one long sequence of tokens so that every token but the first is a target exactly once.

    A row has `seq_len + 1` tokens: as many inputs, and targets one position on, as a step trains
    on. It therefore starts with the last token of the row before. Only the last may be shorter; it
    has at least two tokens, since a single one has no target.

    Args:
        seq_len: Targets in a row.
        dtype: Type of the token ids.
        shards: Their format.
    """

    def __init__(self, seq_len: int, dtype: np.dtype[Any], shards: ShardFormat):
        self._seq_len = seq_len
        self._dtype = dtype
        self._targets = shards.rows(row_bytes(seq_len, dtype.itemsize)) * seq_len
        self._parts: list[Tokens] = []
        self._held = 0

    def units(self, part: Part) -> int:
        """See `Buffer`."""
        return len(part.data) // self._dtype.itemsize

    def append(self, part: Part, skip: int) -> int:
        """See `Buffer`."""
        tokens: Tokens = np.frombuffer(part.data, self._dtype)
        self._parts.append(tokens[skip:])
        self._held += len(tokens) - skip
        return len(tokens)

    def take(self, *, last: bool) -> tuple[bytes, Sizes, int] | None:
        """See `Buffer`. A row's last token is not done with: the next row begins with it."""
        full = self._held > self._targets
        if not full and not (last and self._held > 1):
            return None
        tokens = self._parts[0] if len(self._parts) == 1 else np.concatenate(self._parts)
        targets = min(self._targets, len(tokens) - 1)
        self._parts = [tokens[targets:]] if full else []
        self._held -= targets if full else self._held
        rest = targets % self._seq_len
        samples, size = row_samples(tokens[: targets - rest + 1], self._seq_len)
        sizes = [size] * (targets // self._seq_len)
        if rest:
            short = token_sample(tokens[targets - rest : targets + 1])
            samples += short
            sizes.append(len(short))
        return samples, np.array(sizes, np.uint32), targets


class SampleBuffer:
    """Collects samples of any size.

    Args:
        shards: Their format.
    """

    def __init__(self, shards: ShardFormat):
        self._shards = shards
        self._data: list[memoryview] = []
        self._sizes: list[Sizes] = []
        self._held = 0

    def units(self, part: Part) -> int:
        """See `Buffer`."""
        assert part.sizes is not None
        return len(part.sizes)

    def append(self, part: Part, skip: int) -> int:
        """See `Buffer`."""
        assert part.sizes is not None
        self._data.append(memoryview(part.data)[int(part.sizes[:skip].sum()) :])
        self._sizes.append(part.sizes[skip:])
        self._held += int(part.sizes[skip:].sum()) + 4 * (len(part.sizes) - skip)
        return len(part.sizes)

    def take(self, *, last: bool) -> tuple[bytes, Sizes, int] | None:
        """See `Buffer`. A shard is full when the next sample does not fit."""
        if not self._held or (not last and self._held <= self._shards.room):
            return None
        sizes = np.concatenate(self._sizes)
        count = self._shards.fits(sizes)
        if count == len(sizes) and not last:
            return None
        data = self._data[0] if len(self._data) == 1 else memoryview(b"".join(self._data))
        end = int(sizes[:count].sum())
        self._data, self._sizes = [data[end:]], [sizes[count:]]
        self._held -= end + 4 * count
        return bytes(data[:end]), sizes[:count], count
