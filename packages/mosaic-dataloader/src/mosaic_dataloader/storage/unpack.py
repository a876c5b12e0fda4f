"""Decompressing a shard, into no more bytes than its index says that it has.

What is compressed decides by itself what becomes of it: 34 KB of zstd can be 1.8 GB.
mosaicml-streaming's own functions return all of it. These write into a buffer of a given size and
stop where it is full.
"""

import cramjam
import numpy as np

from mosaic_dataloader.util.store_errors import CorruptShardError, one_line

# Those of mosaicml-streaming, by the names in an index. Snappy is its raw format there.
ALGORITHMS = {
    "br": cramjam.brotli.decompress_into,
    "bz2": cramjam.bzip2.decompress_into,
    "gz": cramjam.gzip.decompress_into,
    "snappy": cramjam.snappy.decompress_raw_into,
    "zstd": cramjam.zstd.decompress_into,
}


def unpack(packed: str, unpacked: str, compression: str, size: int) -> None:
    """Decompress a file by one of ``ALGORITHMS``, perhaps with a level after a colon.

    ``size`` is the bytes that it must have then. So much memory is used at most, and only as far as
    it is filled.

    Raises:
        CorruptShardError: It does not decompress, or not to so many bytes.
        OSError: A file cannot be read or written.
    """
    with open(packed, "rb") as file:
        data = file.read()
    # Memory that nothing was written to takes none.
    buffer = np.empty(size, np.uint8)
    try:
        length = ALGORITHMS[compression.partition(":")[0]](data, buffer.data)
    except cramjam.DecompressionError as error:
        # A full buffer is one reason of several, which the libraries word each in their own way.
        raise CorruptShardError(
            f"it does not unpack to the {size} bytes that its index says ({one_line(error)})"
        ) from error
    if length != size:
        raise CorruptShardError(f"it unpacks to {length} bytes where the index says {size}")
    with open(unpacked, "wb") as out:
        out.write(buffer.data)
