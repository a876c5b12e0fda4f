"""Directories that appear complete or not at all, made once however many processes ask."""

import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from mosaic_dataloader.errors import MosaicDataError

logger = logging.getLogger("mosaic_dataloader.prepare")


@contextmanager
def directory_lock(target: Path) -> Iterator[None]:
    """Hold the right to make `target`, waiting for whoever holds it now.

    The kernel drops the lock when its holder dies, however it dies. Who has ended its work removes
    the file, and who gets the lock on a file that was removed meanwhile begins anew: nobody else
    would meet it there.
    """
    path = target.parent / f".{target.name}.lock"
    with _locked(path, target) as handle:
        try:
            yield
        finally:
            if _is_at(path, handle.fileno()):
                os.unlink(path)


@contextmanager
def _locked(path: Path, target: Path) -> Iterator[IO[str]]:
    while True:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "w")  # noqa: SIM115
        except OSError as error:
            raise MosaicDataError(
                f"prepare: cannot write beside {target} ({error.strerror}); choose another "
                "directory"
            ) from error
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("waiting for another process that is preparing %s", target)
                fcntl.flock(handle, fcntl.LOCK_EX)
            if _is_at(path, handle.fileno()):
                yield handle
                return


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def publish(target: Path, build: Callable[[Path], None]) -> None:
    """Fill a directory beside `target`, then rename it to `target` in one step.

    The caller holds `directory_lock(target)`; so whatever has the temporary name was left by a
    process that was killed, and goes.

    Args:
        target: The directory to make; absent, or empty.
        build: Writes into the directory that it is given.

    Raises:
        MosaicDataError: The directory cannot be written.
    """
    partial = target.parent / f".{target.name}.partial"
    try:
        if partial.exists():
            logger.info("removing %s, left by a run that was interrupted", partial)
            shutil.rmtree(partial)
        partial.mkdir()
        try:
            build(partial)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush_to_disk(partial)
        os.rename(partial, target)
        sync(target.parent)
    except OSError as error:
        raise MosaicDataError(f"prepare: cannot write {target}: {error}") from error


def flush_to_disk(directory: Path) -> None:
    """A rename must not become durable before the contents: a power cut would keep the name."""
    for parent, _, names in os.walk(directory):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Have a file or directory on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
