"""What lies in shared memory though no process holds it: only a restart frees that."""

import time
from pathlib import Path

PLACE = Path("/dev/shm")
# From closing a segment to removing its name.
MOMENT = 1.0


def segments() -> set[tuple[str, int]]:
    """Names and inodes: a name may be given again."""
    found = set()
    for path in PLACE.iterdir():
        try:
            found.add((path.name, path.stat().st_ino))
        except FileNotFoundError:
            continue
    return found


def orphans(before: set[tuple[str, int]]) -> set[str]:
    """Segments made since ``before`` that no living process has mapped, and that stay.

    Other tests run beside the caller and hold segments of their own for as long as they
    please, so that neither a new name nor its staying tells anything by itself.
    """
    left = segments() - before
    deadline = time.monotonic() + MOMENT
    while left and time.monotonic() < deadline:
        left = {(name, inode) for name, inode in left & segments() if not _is_mapped(name)}
        time.sleep(0.05)
    return {name for name, _ in left}


def _is_mapped(name: str) -> bool:
    wanted = str(PLACE / name)
    for maps in Path("/proc").glob("[0-9]*/maps"):
        try:
            lines = maps.read_text(errors="replace").splitlines()
        except OSError:  # a process that ended, or another user's
            continue
        if any(line.endswith(wanted) for line in lines):
            return True
    return False
