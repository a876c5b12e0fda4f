"""Which files are the input, in an order that does not depend on the machine's file system."""

import glob
import os
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.opening import InputFile, reason

PYTHON_STDLIB = "python-stdlib"

# Installed packages are not the standard library, and test data is not what anyone writes.
_STDLIB_LEFT_OUT = frozenset(
    {"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests"}
)
# File systems whose paths have lost the host of their URL.
_WITH_HOST = frozenset({"ftp", "hdfs", "sftp", "smb", "ssh", "webhdfs"})
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified")


def list_files(patterns: Sequence[str]) -> list[InputFile]:
    """Find the input files: pattern by pattern, sorted by name within each, none twice.

    Args:
        patterns: `"python-stdlib"`, globs of local files (`**` goes into subdirectories) and
            fsspec URLs, which may be globs too.

    Raises:
        MosaicDataError: A pattern matches nothing, or a store cannot be listed.
    """
    found: dict[str, InputFile] = {}
    for pattern in patterns:
        if pattern == PYTHON_STDLIB:
            files = _stdlib_files(Path(sysconfig.get_path("stdlib")))
        elif "://" in pattern and not pattern.startswith("file://"):
            files = _remote_files(pattern)
        else:
            files = _local_files(pattern.removeprefix("file://"))
        for file in files:
            found.setdefault(file.url, file)
    return list(found.values())


def _local_files(pattern: str) -> list[InputFile]:
    names = sorted(glob.glob(os.path.expanduser(pattern), recursive=True))
    files = [_local_file(name, name) for name in names if os.path.isfile(name)]
    if not files:
        hint = (
            f"; for a directory give a glob such as {os.path.join(pattern, '**', '*.txt')!r}"
            if os.path.isdir(os.path.expanduser(pattern))
            else f"; give a glob of files, a URL, or {PYTHON_STDLIB!r}"
        )
        raise MosaicDataError(f"prepare: input {pattern!r} matches no file{hint}")
    return files


def _local_file(name: str, path: str) -> InputFile:
    status = os.stat(path)
    return InputFile(name, path, status.st_size, str(status.st_mtime_ns))


def _remote_files(pattern: str) -> list[InputFile]:
    import fsspec

    if pattern.startswith("memory://"):
        raise MosaicDataError(
            f"prepare: input {pattern!r} is in the memory of one process, where others cannot "
            f"read it; write it to files"
        )
    try:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        found: dict[str, dict[str, Any]] = filesystem.glob(path, detail=True)
        names = sorted(name for name, info in found.items() if info.get("type") != "directory")
    except ImportError as error:
        # It says which package to install.
        raise MosaicDataError(f"prepare: cannot read {pattern}: {error}") from error
    except Exception as error:
        # Every store has errors of its own.
        raise MosaicDataError(f"prepare: cannot list {pattern}: {reason(error)}") from error
    if not names:
        raise MosaicDataError(f"prepare: input {pattern!r} matches no file")
    return [_remote_file(pattern, name, found[name]) for name in names]


def _remote_file(pattern: str, path: str, info: dict[str, Any]) -> InputFile:
    size = info.get("size")
    stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
    url = _url(pattern, path)
    return InputFile(url, url, -1 if size is None else int(size), stamp)


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


def _stdlib_files(root: Path) -> list[InputFile]:
    files = [_local_file(path.relative_to(root).as_posix(), str(path)) for path in _python(root)]
    if not files:
        raise MosaicDataError(
            f"prepare: this Python has no library sources under {root}; give a glob of text files"
        )
    return sorted(files, key=lambda file: file.name)


def _python(root: Path) -> Iterator[Path]:
    for directory, subdirectories, files in os.walk(root):
        subdirectories[:] = [name for name in subdirectories if name not in _STDLIB_LEFT_OUT]
        yield from (Path(directory, name) for name in files if name.endswith(".py"))
