"""What a call changes and opens below a directory, whoever does it and by whichever name."""

import hashlib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

_watched: list[set[str]] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _watched[-1].add(os.path.realpath(os.fsdecode(arguments[0])))


# Hooks cannot be removed; without a watch it does nothing.
sys.addaudithook(_hook)


@dataclass
class Seen:
    """What came of a watch.

    Attributes:
        changed: Names, relative to the root, of what was made, removed or changed.
        opened: Real paths of all files that were opened, wherever they are.
    """

    changed: set[str] = field(default_factory=set)
    opened: set[str] = field(default_factory=set)


def snapshot(root: Path) -> dict[str, tuple[int, int, str]]:
    """Mode, size and content (or target) of everything below a directory; links not followed."""
    found = {}
    for folder, directories, files in os.walk(root):
        for name in directories + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            content = ""
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
            size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
            found[os.path.relpath(path, root)] = (info.st_mode, size, content)
    return found


@contextmanager
def watch(root: Path) -> Iterator[Seen]:
    """Note what happens in the context; ``Seen`` is complete when it ends."""
    seen = Seen()
    before = snapshot(root)
    mapped = torch.from_file

    def from_file(path: str, *arguments: Any, **options: Any) -> torch.Tensor:
        # Opens the file by itself, which Python does not hear of.
        seen.opened.add(os.path.realpath(path))
        return mapped(path, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "from_file", from_file)
        _watched.append(seen.opened)
        try:
            yield seen
        finally:
            _watched.pop()
    after = snapshot(root)
    seen.changed = {
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    }
