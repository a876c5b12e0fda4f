"""Where the data set goes: a directory that appears in one step, or an object store.

Both hold the shards of a unit in `SPLIT/UNIT/` (`SPLIT` only where the data set is split) and then,
in `.prepare/UNIT.json`, its note: the unit counts when that is there. `.prepare/job.json` holds the
options that decide what a unit's shards are. A directory is filled beside its place, as
`.NAME.partial`, and renamed in the end; in a store, the index comes last.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.util.secrets import redacted
from mosaic_prepare.manifest import FILE_NAME, finished_facts, read_manifest
from mosaic_prepare.opening import reason

logger = logging.getLogger("mosaic_prepare")

# One attempt to upload and its repetitions, a second, two and four apart.
_ATTEMPTS = 4
# Notes that are fetched from a store at a time.
_AT_A_TIME = 16
_NOTES = ".prepare"


class Output(ABC):
    """Where the data set goes, and the notes of what is done. An output travels to workers.

    Args:
        name: The directory or URL, for messages.
        locked: What only one run at a time may make; a store is locked on this machine only.
        scratch: Where folders for units are made.
        prefix: How their names begin.
    """

    def __init__(self, name: str, locked: Path, scratch: Path, prefix: str):
        self.name = name
        self._locked, self._scratch, self._prefix = locked, scratch, prefix

    @abstractmethod
    def summary(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """What the finished data set holds; None if it does not exist yet."""

    @abstractmethod
    def publish(self, units: Sequence[str], files: Mapping[str, str]) -> None:
        """All units are there: add these files, the manifest last, and make the data set appear."""

    @abstractmethod
    def abort(self, *, everything: bool = False) -> None:
        """After an error: remove what is of no use to the next run."""

    @abstractmethod
    def restart_hint(self) -> str:
        """What a user can do to drop an interrupted run."""

    @abstractmethod
    def _load(self, name: str) -> bytes | None:
        """A file's contents, if it is there."""

    @abstractmethod
    def _put(self, folder: Path, note: str) -> None:
        """Put the files of a folder in their places, and its note last."""

    @contextmanager
    def lock(self, *, clears: bool) -> Iterator[None]:
        """Let no other run prepare it; clears away what a run that was killed was writing."""
        with directory_lock(self._locked):
            for left in list(self._scratch.glob(f"{self._prefix}*")) if clears else ():
                shutil.rmtree(left, ignore_errors=True)
            yield

    @contextmanager
    def new_folder(self) -> Iterator[Path]:
        """An empty folder for a unit; what is left in it at the end is removed."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=self._scratch, prefix=self._prefix, ignore_cleanup_errors=True
        ) as made:
            yield Path(made)

    def commit(self, unit: str, folder: Path, note: Mapping[str, Any]) -> None:
        """Put a unit in its place."""
        name = f"{_NOTES}/{unit}.json"
        write_text(folder / name, json.dumps(note))
        self._put(folder, name)

    def notes(self, units: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The notes of those units that are done, by name."""
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            texts = pool.map(lambda unit: self._load(f"{_NOTES}/{unit}.json"), units)
            return {u: json.loads(t) for u, t in zip(units, texts, strict=True) if t is not None}

    def read_job(self) -> dict[str, Any] | None:
        """The job of a run that was interrupted; None if there is none."""
        text = self._load(f"{_NOTES}/job.json")
        return json.loads(text) or None if text else None

    def save_job(self, job: Mapping[str, Any]) -> None:
        """Note what is being prepared."""
        with self.new_folder() as folder:
            write_text(folder / _NOTES / "job.json", json.dumps(job))
            self._put(folder, f"{_NOTES}/job.json")


class LocalOutput(Output):
    """A directory, by its absolute path."""

    def __init__(self, path: Path):
        self._path = path
        self._partial = path.parent / f".{path.name}.partial"
        super().__init__(str(path), path, self._partial / "tmp", "")

    def summary(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """See `Output`."""
        facts = read_manifest(self._path, options, setting="output")
        if facts is not None and (self._path / _NOTES).exists():
            # A run that was killed at its very end has left them.
            self._clean()
            _lock_path(self._path).unlink(missing_ok=True)
        return facts

    def read_job(self) -> dict[str, Any] | None:
        """See `Output`. One that has finished no unit may be replaced by another."""
        return super().read_job() if any(self._partial.glob(f"{_NOTES}/unit-*")) else None

    def publish(self, units: Sequence[str], files: Mapping[str, str]) -> None:
        """See `Output`."""
        for folder in list(self._partial.glob("**/unit-*/")):
            # Of input that has changed since then, or without any sample.
            if folder.name not in units or not any(folder.iterdir()):
                shutil.rmtree(folder)
        for name, text in files.items():
            write_text(self._partial / name, text)
        flush_to_disk(self._partial)
        os.rename(self._partial, self._path)
        sync(self._path.parent)
        self._clean()

    def abort(self, *, everything: bool = False) -> None:
        """See `Output`."""
        if everything or self.read_job() is None:
            shutil.rmtree(self._partial, ignore_errors=True)

    def restart_hint(self) -> str:
        """See `Output`."""
        return f"delete {self._partial} to restart"

    def _clean(self) -> None:
        for name in (_NOTES, "tmp"):
            shutil.rmtree(self._path / name, ignore_errors=True)

    def _load(self, name: str) -> bytes | None:
        try:
            return (self._partial / name).read_bytes()
        except FileNotFoundError:
            return None

    def _put(self, folder: Path, note: str) -> None:
        flush_to_disk(folder)
        for source in sorted(folder.glob("**/unit-*/")):
            place = self._partial / source.relative_to(folder)
            place.parent.mkdir(exist_ok=True)
            if place.exists():
                # Made before its file changed, or left by a process that was killed.
                os.rename(place, Path(tempfile.mkdtemp(dir=self._scratch)) / place.name)
            os.rename(source, place)
            sync(place.parent)
        place = self._partial / note
        place.parent.mkdir(exist_ok=True)
        os.replace(folder / note, place)
        sync(place.parent)


class RemoteOutput(Output):
    """An object store, through mosaicml-streaming's clients and with their credentials.

    Args:
        url: Where the data set goes.
        work: Local directory for shards on their way.
    """

    def __init__(self, url: str, work: Path):
        self._url = url
        mark = f"mosaic-prepare-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
        super().__init__(redacted(url), work / mark, work, f"{mark}-")

    def summary(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """See `Output`."""
        text = self._load(FILE_NAME)
        if text is not None:
            return finished_facts(text, self.name, options, setting="output")
        for name in ("index.json", "train/index.json"):
            # A run that was killed between index and manifest has left its job.
            if self._load(name) is not None and self.read_job() is None:
                raise MosaicDataError(
                    f"prepare: {self.name} holds a data set that prepare did not write; "
                    f"choose another output"
                )
        return None

    def publish(self, units: Sequence[str], files: Mapping[str, str]) -> None:
        """See `Output`."""
        with self.new_folder() as folder:
            for name, text in files.items():
                write_text(folder / name, text)
            self._upload(folder, list(files))

    def abort(self, *, everything: bool = False) -> None:
        """See `Output`."""
        if everything:
            self.save_job({})

    def restart_hint(self) -> str:
        """See `Output`."""
        return f"delete {self.name}/{_NOTES}/job.json to restart"

    def _load(self, name: str) -> bytes | None:
        from mosaic_dataloader.storage.mosaicml import fetch_bytes

        try:
            return fetch_bytes(f"{self._url}/{name}")
        except Exception as error:
            # Each store's client has errors of its own.
            raise MosaicDataError(
                f"prepare: cannot read {self.name}/{name}: {reason(error)}"
            ) from error

    def _put(self, folder: Path, note: str) -> None:
        paths = sorted(path for path in folder.glob("**/unit-*/*") if path.is_file())
        self._upload(folder, [*(path.relative_to(folder).as_posix() for path in paths), note])

    def _upload(self, folder: Path, names: Sequence[str]) -> None:
        from streaming.base.storage.upload import UPLOADERS

        scheme = self._url.split("://")[0]
        if scheme not in UPLOADERS:
            known = ", ".join(f"{name}://" for name in UPLOADERS if name and ":" not in name)
            raise MosaicDataError(
                f"prepare: output {self.name!r}: cannot write to {scheme}://; use a directory or "
                f"{known}"
            )
        try:
            uploader = _uploader(self._url, os.environ.get("S3_ENDPOINT_URL"))
            uploader.local = str(folder)
            for name in names:
                uploader.upload_file(name)
        except Exception as error:
            # As above.
            raise MosaicDataError(
                f"prepare: cannot write to {self.name}: {reason(error)}; correct that, and run the "
                f"same command again to resume"
            ) from error


@lru_cache(maxsize=1)
def _uploader(url: str, endpoint: str | None) -> Any:
    """A client of this process: making one takes longer than an upload."""
    from streaming.base.storage.upload import CloudUploader

    with tempfile.TemporaryDirectory() as folder:
        return CloudUploader.get((folder, url), keep_local=True, retry=_ATTEMPTS)


@contextmanager
def directory_lock(target: Path) -> Iterator[None]:
    """Hold the lock for making `target`; waits while another process holds it.

    The kernel drops the lock when its holder dies, however it dies. A holder removes the file at
    the end; a process that gets the lock of a file that was removed tries again with a new one.
    """
    path = _lock_path(target)
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
            _wait_for_lock(handle, target)
            if _is_at(path, handle):
                try:
                    yield
                finally:
                    if _is_at(path, handle):
                        os.unlink(path)
                return


def _lock_path(target: Path) -> Path:
    return target.parent / f".{target.name}.lock"


def _wait_for_lock(handle: IO[str], target: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logger.info("waiting for another process that is preparing %s", target)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        # Lustre, NFS and FUSE may be mounted without locks.
        logger.warning(
            "the file system of %s has no locks (%s): start no second run of the same output "
            "beside this one",
            target,
            error.strerror,
        )


def _is_at(path: Path, handle: IO[str]) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


def flush_to_disk(directory: Path) -> None:
    """A rename must not become durable before the contents: a power cut would keep the name."""
    for parent, _, names in os.walk(directory):
        for name in names:
            sync(Path(parent, name))
        sync(Path(parent))


def sync(path: Path) -> None:
    """Make sure that a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a file, and its directory if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
