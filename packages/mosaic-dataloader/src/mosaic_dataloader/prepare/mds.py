"""MDS shards out of whole arrays, byte for byte as mosaicml-streaming's own writer makes them.

Layout (mosaicml-streaming, `streaming/base/format/mds/writer.py`): `uint32` number of samples,
`uint32[samples + 1]` offsets, a header in JSON, then the samples. A sample of one column of no
fixed size is its `uint32` size and its value.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.unsignedinteger[Any]]

# Bytes that a sample takes besides itself: its offset.
_OFFSET_BYTES = 4


class ShardFormat:
    """What all shards of a data set have in common.

    Args:
        columns: Names and MDS encodings.
        compression: See `PrepareOptions`.
        hashes: See `PrepareOptions`.
        shard_bytes: Size limit of an uncompressed shard.

    Attributes:
        config: What the index tells of each shard.
        room: Bytes in a shard for samples and their offsets.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        compression: str | None,
        hashes: Sequence[str],
        shard_bytes: int,
    ):
        self.compression = compression
        self.hashes = sorted(hashes)
        self.config: dict[str, Any] = {
            "version": 2,
            "format": "mds",
            "compression": compression,
            "hashes": self.hashes,
            "size_limit": shard_bytes,
            "column_names": sorted(columns),
            "column_encodings": [columns[name] for name in sorted(columns)],
            "column_sizes": [None] * len(columns),
        }
        self._header = json.dumps(self.config, sort_keys=True).encode()
        self.room = shard_bytes - (4 + _OFFSET_BYTES + len(self._header))

    def fits(self, sizes: NDArray[np.uint32]) -> int:
        """How many of the samples, from the first on, one shard holds; at least one.

        Args:
            sizes: uint32[n], bytes of each sample.
        """
        ends = np.cumsum(sizes.astype(np.int64) + _OFFSET_BYTES)
        return max(1, int(np.searchsorted(ends, self.room, side="right")))

    def rows(self, sample_bytes: int) -> int:
        """How many samples of one size a shard holds; at least one."""
        return max(1, self.room // (sample_bytes + _OFFSET_BYTES))

    def pack(self, samples: bytes, sizes: NDArray[np.uint32]) -> bytes:
        """The bytes of a shard.

        Args:
            samples: The samples, end to end.
            sizes: uint32[n], bytes of each.
        """
        begin = 4 + _OFFSET_BYTES * (len(sizes) + 1) + len(self._header)
        offsets = np.zeros(len(sizes) + 1, np.uint32)
        np.cumsum(sizes, out=offsets[1:])
        offsets += np.uint32(begin)
        count = struct.pack("<I", len(sizes))
        return b"".join((count, offsets.tobytes(), self._header, samples))

    def names(self, number: int) -> tuple[str, str | None]:
        """File names of a shard: uncompressed, and compressed if it is."""
        raw = f"shard.{number:05}.mds"
        if self.compression is None:
            return raw, None
        from streaming.base.compression import get_compression_extension

        return raw, f"{raw}.{get_compression_extension(self.compression)}"


def token_sample(tokens: Tokens) -> bytes:
    """A sample of one column `ndarray:<dtype>`.

    Args:
        tokens: Token ids, shape `[n]`, n at least 1.
    """
    return _prefix(len(tokens), tokens.itemsize) + tokens.tobytes()


def text_sample(data: bytes) -> bytes:
    """A sample of one column `str`.

    Args:
        data: The text in UTF-8.
    """
    return struct.pack("<I", len(data)) + data


def row_samples(tokens: Tokens, seq_len: int) -> tuple[bytes, int]:
    """Samples of rows that overlap by one token.

    Args:
        tokens: Token ids, shape `[rows * seq_len + 1]`.
        seq_len: Targets in a row, T; a row has T+1 tokens.

    Returns:
        The samples, end to end, and the size of each.
    """
    rows = (len(tokens) - 1) // seq_len
    step = tokens.itemsize
    overlapping = np.lib.stride_tricks.as_strided(
        tokens, (rows, seq_len + 1), (seq_len * step, step), writeable=False
    )
    prefix = np.frombuffer(_prefix(seq_len + 1, step), np.uint8)
    samples = np.empty((rows, row_bytes(seq_len, step)), np.uint8)
    samples[:, : len(prefix)] = prefix
    samples[:, len(prefix) :] = np.ascontiguousarray(overlapping).view(np.uint8)
    return samples.tobytes(), samples.shape[1]


def row_bytes(seq_len: int, itemsize: int) -> int:
    """Size of one row's sample."""
    return len(_prefix(seq_len + 1, itemsize)) + (seq_len + 1) * itemsize


def _prefix(count: int, itemsize: int) -> bytes:
    """What precedes the values of an array of one dimension: sample size, dimensions, shape."""
    code, kind = (0, "<B") if count < 1 << 8 else (1, "<H") if count < 1 << 16 else (2, "<I")
    shape = struct.pack(kind, count)
    size = 1 + len(shape) + count * itemsize
    return struct.pack("<IB", size, 1 << 2 | code) + shape
