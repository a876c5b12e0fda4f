"""What this machine computes with, and how much memory there is."""

import os
from pathlib import Path


def no_accelerator() -> bool:
    """Whether this machine has no device that TorchTitan would use."""
    from torch._utils import _get_available_device_type

    return _get_available_device_type() is None


def machine_bytes() -> int:
    """Memory that this process may use: the machine's, or its container's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = Path(path).read_text().strip()
        except OSError:
            continue
        if limit.isdecimal():
            total = min(total, int(limit))
    return total
