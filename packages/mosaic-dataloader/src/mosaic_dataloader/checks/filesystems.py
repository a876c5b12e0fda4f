"""Which kind of file system a directory is on."""

import os
import re
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")

# Those whose bytes come over a network. Kinds of "fuse" differ by what follows the dot.
_NETWORK = {
    *("9p", "afs", "beegfs", "ceph", "cifs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs"),
    *("nfs", "nfs4", "ocfs2", "orangefs", "panfs", "pvfs2", "smb3", "smbfs", "wekafs"),
}
_LOCAL_FUSE = {"fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.ntfs-3g", "fuse.mergerfs"}


def filesystem_type(directory: str) -> str | None:
    """The kernel's name for the file system that a directory is on, such as "ext4" or "nfs4".

    Args:
        directory: It, or its nearest parent that exists, is looked at.

    Returns:
        None where the kernel does not say (systems other than Linux).
    """
    try:
        mounts = _MOUNTS.read_text().splitlines()
    except OSError:
        return None
    path = os.path.realpath(directory)
    best, found = -1, None
    for line in mounts:
        before, _, after = line.partition(" - ")
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split()[4])
        inside = path == place or path.startswith(place.rstrip("/") + "/")
        # Of several mounts on one place, the last one is seen.
        if inside and len(place) >= best:
            best, found = len(place), after.split()[0]
    return found


def network_filesystem(directory: str) -> str | None:
    """The kernel's name for a directory's file system, if reading from it goes over a network.

    Args:
        directory: It, or its nearest parent that exists, is looked at.

    Returns:
        A name such as "nfs4"; None for a local file system, and where the kernel does not say.
    """
    kind = filesystem_type(directory)
    if kind is None or kind in _LOCAL_FUSE:
        return None
    return kind if kind in _NETWORK or kind.startswith("fuse.") else None
