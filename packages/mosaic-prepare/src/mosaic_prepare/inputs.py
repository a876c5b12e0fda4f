"""Which files are the input, in an order that does not depend on the machine's file system."""

import glob
import logging
import os
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.secrets import redacted
from mosaic_prepare.opening import COMPRESSIONS, reason

logger = logging.getLogger("mosaic_prepare")

PYTHON_STDLIB = "python-stdlib"

# Installed packages are not the standard library, and test data is not typical source code.
_STDLIB_LEFT_OUT = frozenset(
    {"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"}
)
# fsspec's paths of these lack the host that the URL had.
_WITH_HOST = frozenset({"ftp", "hdfs", "sftp", "smb", "ssh", "webhdfs"})
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified")


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file.

    Attributes:
        name: How it counts for order, identity and messages; holds no secret.
        url: Its path or fsspec URL.
        size: Bytes as stored; -1 where the store does not say.
        stamp: Changes when the file does: its modification time or its ETag, as far as known.
    """

    name: str
    url: str
    size: int
    stamp: str

    @property
    def remote(self) -> bool:
        """Whether fsspec opens it."""
        return "://" in self.url

    @property
    def compression(self) -> str | None:
        """By its suffix."""
        return COMPRESSIONS.get(PurePosixPath(self.url).suffix.lower())

    @property
    def suffix(self) -> str:
        """In lower case, without that of a compression."""
        path = PurePosixPath(self.url)
        return (path.with_suffix("") if self.compression else path).suffix.lower()


def list_files(patterns: Sequence[str]) -> list[InputFile]:
    """Find the input files: pattern by pattern, sorted by name within each.

    A file that is met by several names (links, another spelling) is taken once, by the first.
    """
    found: dict[object, InputFile] = {}
    for pattern in patterns:
        if pattern == PYTHON_STDLIB:
            files = _stdlib_files(Path(sysconfig.get_path("stdlib")))
        elif "://" in pattern and not pattern.startswith("file://"):
            files = ((file.url, file) for file in _remote_files(pattern))
        else:
            files = _local_files(pattern.removeprefix("file://"))
        for identity, file in files:
            found.setdefault(identity, file)
    return list(found.values())


def _local_files(pattern: str) -> Iterator[tuple[object, InputFile]]:
    pattern = os.path.expanduser(pattern)
    # A path that exists is meant as it is, whatever characters are in it.
    names = [pattern] if os.path.lexists(pattern) else sorted(set(_glob(pattern)))
    dangling = [name for name in names if not os.path.exists(name)]
    files = [name for name in names if os.path.isfile(name)]
    if dangling:
        more = f", and {len(dangling) - 1} more" if len(dangling) > 1 else ""
        logger.warning("left out: %s is a link to a file that does not exist%s", dangling[0], more)
    if not files:
        hint = (
            f"for a directory give a glob such as {os.path.join(pattern, '**', '*.txt')!r}"
            if os.path.isdir(pattern)
            else f"give a glob of files, a URL, or {PYTHON_STDLIB!r}"
        )
        raise MosaicDataError(f"prepare: input {pattern!r} matches no file; {hint}")
    for name in files:
        yield _local_file(name, name)


def _local_file(name: str, path: str) -> tuple[object, InputFile]:
    status = os.stat(path)
    identity = (status.st_dev, status.st_ino)
    # Other processes may run in another directory.
    url = os.path.abspath(path)
    return identity, InputFile(name, url, status.st_size, str(status.st_mtime_ns))


def _glob(pattern: str) -> Iterator[str]:
    """Paths that match a pattern, dangling links included.

    Where `**` stands, `glob.glob` would follow a link to a directory above itself some forty times,
    and two of them forever.
    """
    anchor = "/" if pattern.startswith("/") else ""
    parts = [part for part in pattern.split("/") if part]
    if "**" not in parts:
        yield from glob.iglob(anchor + "/".join(parts))
        return
    place = parts.index("**")
    above, below = anchor + "/".join(parts[:place]), parts[place + 1 :] or ["*"]
    for top in glob.iglob(above) if above else ("",):
        for directory in _directories(top, ()):
            yield from _glob(os.path.join(glob.escape(directory), *below))


def _directories(directory: str, above: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """A directory and those below it that are not hidden, without links to those above."""
    try:
        status = os.stat(directory or ".")
        entries = list(os.scandir(directory or "."))
    except OSError:
        return  # not a directory, or one that may not be read: nothing matches in it
    here = (status.st_dev, status.st_ino)
    if here in above:
        return
    yield directory
    for entry in entries:
        if entry.is_dir() and not entry.name.startswith("."):
            yield from _directories(os.path.join(directory, entry.name), (*above, here))


def _remote_files(pattern: str) -> list[InputFile]:
    import fsspec

    shown = redacted(pattern)
    if pattern.startswith("memory://"):
        raise MosaicDataError(
            f"prepare: input {shown!r} is in the memory of one process, where others cannot "
            f"read it; write it to files"
        )
    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        found: dict[str, dict[str, Any]] = filesystem.glob(path, detail=True)
    except ImportError as error:
        # It says which package to install.
        raise MosaicDataError(f"prepare: cannot read {shown}: {error}") from error
    except Exception as error:
        # Every store has errors of its own.
        raise MosaicDataError(f"prepare: cannot list {shown}: {reason(error)}") from error
    names = sorted(name for name, info in found.items() if info.get("type") != "directory")
    if not names:
        raise MosaicDataError(f"prepare: input {shown!r} matches no file")
    return [_remote_file(pattern, name, found[name]) for name in names]


def _remote_file(pattern: str, path: str, info: dict[str, Any]) -> InputFile:
    size = info.get("size")
    stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
    url = _url(pattern, path)
    return InputFile(redacted(url), url, -1 if size is None else int(size), stamp)


def _url(pattern: str, path: str) -> str:
    """The URL of one match. A chained one has its glob in the first part that has a scheme."""
    if "://" in path:
        return path
    parts = pattern.split("::")
    place = next(number for number, part in enumerate(parts) if "://" in part)
    scheme = parts[place].split("://")[0]
    if scheme in _WITH_HOST:
        host = parts[place].split("://")[1].split("/")[0]
        path = f"{host}{path}"
    parts[place] = f"{scheme}://{path}"
    return "::".join(parts)


def _stdlib_files(root: Path) -> Iterator[tuple[object, InputFile]]:
    names: list[str] = []
    for directory, subdirectories, files in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if name not in _STDLIB_LEFT_OUT]
        paths = (Path(directory, name) for name in files if name.endswith(".py"))
        names += [path.relative_to(root).as_posix() for path in paths]
    if not names:
        raise MosaicDataError(
            f"prepare: this Python has no library sources under {root}; give a glob of text files"
        )
    return (_local_file(f"{PYTHON_STDLIB}/{name}", str(root / name)) for name in sorted(names))
