"""Hashes of shards, as mosaicml-streaming names and spells them.

Its own module for them imports the whole library, and with it PyTorch.
"""

import hashlib

import xxhash

# What Python has everywhere, without those whose digest has no fixed length.
KNOWN = sorted(
    {name for name in hashlib.algorithms_guaranteed if not name.startswith("shake_")}
    | xxhash.algorithms_available
)


def hash_of(kind: str, data: bytes) -> str:
    """The hash of some bytes, in hexadecimal.

    Args:
        kind: One of `KNOWN`.
        data: The bytes.
    """
    if kind in xxhash.algorithms_available:
        return str(getattr(xxhash, kind)(data).hexdigest())
    return hashlib.new(kind, data).hexdigest()
