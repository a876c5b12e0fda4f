"""Which files are the documents, in an order that does not depend on the machine's file system."""

import glob
import hashlib
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mosaic_dataloader.errors import MosaicDataError

PYTHON_STDLIB = "python-stdlib"

# Installed packages are not the standard library, and test data is not what anyone writes.
_STDLIB_LEFT_OUT = frozenset(
    {"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"}
)


@dataclass(frozen=True)
class Source:
    """One text file.

    Attributes:
        name: Its path as it counts for order and identity: relative to the library's root, or as
            the glob gave it.
        path: Where it is.
        size: Its size in bytes.
    """

    name: str
    path: Path
    size: int


def list_sources(pattern: str) -> list[Source]:
    """Find the documents, sorted by name.

    Args:
        pattern: `"python-stdlib"` or a glob of files.

    Raises:
        MosaicDataError: Nothing matches.
    """
    if pattern == PYTHON_STDLIB:
        return _stdlib_sources(Path(sysconfig.get_path("stdlib")))
    found = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    sources = [_source(name, Path(name)) for name in found if os.path.isfile(name)]
    if not sources:
        hint = (
            f"; for a directory give a glob such as {os.path.join(pattern, '**', '*.txt')!r}"
            if os.path.isdir(os.path.expanduser(pattern))
            else f"; give a glob of text files, or {PYTHON_STDLIB!r}"
        )
        raise MosaicDataError(f"prepare: input {pattern!r} matches no file{hint}")
    return sources


def fingerprint(sources: Sequence[Source]) -> str:
    """Name the selection by its file names and sizes; contents are not read."""
    digest = hashlib.sha256()
    for source in sources:
        digest.update(f"{source.name}\0{source.size}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_text(source: Source) -> str | None:
    """Read a document as it stands, line ends included; None if it is not UTF-8.

    Raises:
        MosaicDataError: The file cannot be read.
    """
    try:
        return source.path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return None
    except OSError as error:
        raise MosaicDataError(f"prepare: cannot read {source.path}: {error.strerror}") from error


def _source(name: str, path: Path) -> Source:
    return Source(name=name, path=path, size=path.stat().st_size)


def _stdlib_sources(root: Path) -> list[Source]:
    sources = [_source(path.relative_to(root).as_posix(), path) for path in _python_files(root)]
    if not sources:
        raise MosaicDataError(
            f"prepare: this Python has no library sources under {root}; give a glob of text files"
        )
    return sorted(sources, key=lambda source: source.name)


def _python_files(root: Path) -> Iterator[Path]:
    for directory, subdirectories, files in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if name not in _STDLIB_LEFT_OUT]
        yield from (Path(directory, name) for name in files if name.endswith(".py"))
