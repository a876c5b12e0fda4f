"""What a store says about a file without sending its bytes: enough to notice that it was replaced.

S3, SFTP and directories say something here. Of the other stores the index itself is compared.
"""

import hashlib
import os
from typing import NamedTuple

# Of a note on a shard's version.
_DIGEST_BYTES = 16


class Version(NamedTuple):
    """One version of a file in a store.

    Attributes:
        content: Differs where the bytes differ: an ETag, or the size and time of a file.
        written: Differs where a file was written again, also with the same bytes.
    """

    content: str
    written: str = ""

    def digest(self) -> bytes:
        """What is noted of a shard's content."""
        return hashlib.sha256(self.content.encode()).digest()[:_DIGEST_BYTES]


def note_shard_version(directory: str, shard: int, version: Version) -> None:
    """Note what the store said of a shard's content when it was downloaded.

    All notes stand in one sparse file, 16 bytes a shard: a file for each would take a block of the
    disk for each, which a small cache has no room for. The caller holds the shard's lock.
    """
    # Others may write to a shared cache: whatever this may be a link to is left alone.
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(_path(directory), flags, 0o666)
    try:
        os.pwrite(file, version.digest(), shard * _DIGEST_BYTES)
    finally:
        os.close(file)


def read_shard_note(directory: str, shard: int) -> bytes | None:
    """What `note_shard_version` wrote for a shard; None where nothing was noted."""
    try:
        with open(_path(directory), "rb") as file:
            file.seek(shard * _DIGEST_BYTES)
            noted = file.read(_DIGEST_BYTES)
    except FileNotFoundError:
        return None
    return noted if any(noted) else None


def _path(directory: str) -> str:
    return os.path.join(directory, ".mosaic", "versions")
