"""Where the data set goes: a directory that appears in one step, or an object store.

A unit's folder is made under a name of its own and put in its place when it is complete. A unit
counts when its note is there. While a directory is being prepared, all lies beside it::

    .NAME.partial/job.json                options that decide what a unit's shards are
    .NAME.partial/units/UNIT/note.json    what came of a unit
    .NAME.partial/units/UNIT/SPLIT/UNIT/  its shards; SPLIT only where the data set is split
    .NAME.partial/tmp/                    folders that are being made
    .NAME.partial/data/                   the data set, while it is put together

In an object store a unit's shards go to `SPLIT/UNIT/`, where they stay, and then its note to
`.prepare/UNIT.json`. Readers find the data set by its index, which comes last.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.remote_file import fetch_bytes
from mosaic_dataloader.shards.secrets import redacted
from mosaic_prepare.manifest import FILE_NAME, finished_facts, read_manifest
from mosaic_prepare.opening import reason

logger = logging.getLogger("mosaic_prepare")

# One attempt to upload and its repetitions, a second, two and four apart.
_ATTEMPTS = 4
# Notes that are fetched from a store at a time.
_AT_A_TIME = 16
Job = dict[str, Any]


@dataclass(frozen=True)
class LocalOutput:
    """A directory.

    Attributes:
        path: Its path.
    """

    path: Path

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.path)

    @property
    def _work(self) -> Path:
        return self.path.parent / f".{self.path.name}.partial"

    def facts(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """Facts of the finished data set; None if there is none yet.

        Raises:
            MosaicDataError: What is there was made with other options, or not by `prepare`.
        """
        facts = read_manifest(self.path, options, setting="output")
        if facts is not None:
            # A run that was killed at its very end leaves it.
            shutil.rmtree(self._work, ignore_errors=True)
        return facts

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the right to prepare it; folders that a killed run left are removed."""
        with directory_lock(self.path):
            shutil.rmtree(self._work / "tmp", ignore_errors=True)
            yield

    def read_job(self) -> Job | None:
        """The job of an interrupted run that has finished a unit; None if there is none."""
        if not any(self._work.glob("units/*")):
            return None
        try:
            return dict(json.loads((self._work / "job.json").read_text()))
        except (OSError, ValueError) as error:
            raise MosaicDataError(
                f"prepare: cannot read {self._work / 'job.json'} ({reason(error)}); delete "
                f"{self._work} to restart"
            ) from error

    def save_job(self, job: Job) -> None:
        """Note what is being prepared."""
        self._work.mkdir(parents=True, exist_ok=True)
        _replace(self._work / "job.json", json.dumps(job))

    def restart_hint(self) -> str:
        """How to have an interrupted run forgotten."""
        return f"delete {self._work} to restart"

    def notes(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """The notes of those units that are done, by name."""
        found = {}
        for name in names:
            path = self._work / "units" / name / "note.json"
            if path.exists():
                found[name] = dict(json.loads(path.read_text()))
        return found

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """An empty folder for a unit, removed unless it was committed."""
        folder = self._work / "tmp" / uuid.uuid4().hex
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def commit(self, name: str, folder: Path, note: Mapping[str, Any]) -> None:
        """Put a unit in its place, in one step."""
        _write(folder / "note.json", json.dumps(note))
        flush_to_disk(folder)
        place = self._work / "units" / name
        place.parent.mkdir(exist_ok=True)
        while True:
            try:
                os.rename(folder, place)
                break
            except OSError:
                if not place.is_dir():
                    raise
                if self.notes([name]) == {name: note}:
                    return  # a process that was given up for lost has made it, too
                # One of its files has changed since.
                os.rename(place, self._work / "tmp" / uuid.uuid4().hex)
        sync(place.parent)

    def publish(
        self, names: Sequence[str], splits: Sequence[str], files: Mapping[str, str]
    ) -> None:
        """Put the data set together out of its units and have it appear in one step.

        Args:
            names: The units.
            splits: Sub-directories of the data set; one empty name where it is not split.
            files: Texts by name, among them the index.
        """
        data = self._work / "data"
        for split in splits:
            (data / split).mkdir(parents=True, exist_ok=True)
            # A run that was killed here has moved some already, perhaps of input that has changed.
            moved = {path.name for path in (data / split).glob("unit-*")}
            for name in moved - set(names):
                shutil.rmtree(data / split / name)
            for name in names:
                source, place = self._work / "units" / name / split / name, data / split / name
                if source.exists():
                    if name in moved:
                        shutil.rmtree(place)
                    os.rename(source, place)
                # Of a unit without a sample nothing need be shown.
                if place.exists() and not any(place.iterdir()):
                    place.rmdir()
        for name, text in files.items():
            _write(data / name, text)
        flush_to_disk(data)
        os.rename(data, self.path)
        sync(self.path.parent)
        shutil.rmtree(self._work, ignore_errors=True)

    def abort(self, *, everything: bool = False) -> None:
        """After an error: leave nothing that is of no use to the next run."""
        if everything or not any(self._work.glob("units/*")):
            shutil.rmtree(self._work, ignore_errors=True)


@dataclass(frozen=True)
class RemoteOutput:
    """An object store, through mosaicml-streaming's clients and with their credentials.

    Attributes:
        url: Where the data set goes.
        work: Local directory for shards on their way.
    """

    url: str
    work: Path

    @property
    def name(self) -> str:
        """For messages."""
        return redacted(self.url)

    def facts(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """See `LocalOutput`."""
        text = self._load(FILE_NAME)
        if text is not None:
            return finished_facts(text, self.name, options, setting="output")
        for name in ("index.json", "train/index.json"):
            # A run that was killed between its indexes has left its job.
            if self._load(name) is not None and self.read_job() is None:
                raise MosaicDataError(
                    f"prepare: {self.name} holds a data set that prepare did not write; "
                    f"choose another output"
                )
        return None

    @contextmanager
    def lock(self) -> Iterator[None]:
        """See `LocalOutput`. It holds on this machine only."""
        with directory_lock(self.work / hashlib.sha256(self.url.encode()).hexdigest()[:16]):
            yield

    def read_job(self) -> Job | None:
        """See `LocalOutput`."""
        text = self._load(".prepare/job.json")
        return dict(json.loads(text)) or None if text else None

    def save_job(self, job: Job) -> None:
        """See `LocalOutput`."""
        self._save(".prepare/job.json", json.dumps(job))

    def restart_hint(self) -> str:
        """See `LocalOutput`."""
        return f"delete {self.name}/.prepare/job.json to restart"

    def notes(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """See `LocalOutput`."""
        with ThreadPoolExecutor(_AT_A_TIME) as pool:
            texts = pool.map(lambda name: self._load(f".prepare/{name}.json"), names)
            return {n: json.loads(t) for n, t in zip(names, texts, strict=True) if t is not None}

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """See `LocalOutput`."""
        self.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.work, prefix="mosaic-prepare-") as folder:
            yield Path(folder)

    def commit(self, name: str, folder: Path, note: Mapping[str, Any]) -> None:
        """Upload a unit's shards, and its note after them."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        shards = [path.relative_to(folder).as_posix() for path in paths]
        last = f".prepare/{name}.json"
        _write(folder / last, json.dumps(note))
        self._upload(folder, [*shards, last])

    def publish(
        self, names: Sequence[str], splits: Sequence[str], files: Mapping[str, str]
    ) -> None:
        """See `LocalOutput`. The manifest, which comes last, says that all is there."""
        for name, text in files.items():
            self._save(name, text)

    def abort(self, *, everything: bool = False) -> None:
        """See `LocalOutput`."""
        if everything:
            self.save_job({})

    def _save(self, name: str, text: str) -> None:
        with self.folder() as folder:
            _write(folder / name, text)
            self._upload(folder, [name])

    def _upload(self, folder: Path, names: Sequence[str]) -> None:
        from streaming.base.storage.upload import UPLOADERS, CloudUploader

        scheme = self.url.split("://")[0]
        if scheme not in UPLOADERS:
            known = ", ".join(f"{name}://" for name in UPLOADERS if name and ":" not in name)
            raise MosaicDataError(
                f"prepare: output {self.name!r}: cannot write to {scheme}://; use a directory or "
                f"{known}"
            )
        # It warns of a folder that is not empty, as this one is on purpose.
        noise = logging.getLogger("streaming.base.storage.upload")
        noise.disabled = True
        try:
            uploader: Any = CloudUploader.get(
                (str(folder), self.url), keep_local=True, retry=_ATTEMPTS, exist_ok=True
            )
            for name in names:
                uploader.upload_file(name)
        except Exception as error:
            # Each store's client has errors of its own.
            raise MosaicDataError(
                f"prepare: cannot write to {self.name}: {reason(error)}; correct that and run the "
                f"same command again to resume"
            ) from error
        finally:
            noise.disabled = False

    def _load(self, name: str) -> bytes | None:
        try:
            return fetch_bytes(f"{self.url}/{name}")
        except Exception as error:
            # As above.
            raise MosaicDataError(
                f"prepare: cannot read {self.name}/{name}: {reason(error)}"
            ) from error


@contextmanager
def directory_lock(target: Path) -> Iterator[None]:
    """Hold the right to make `target`, waiting for the process that holds it now.

    The kernel drops the lock when its holder dies, however it dies. A holder removes the file at
    the end; a process that gets the lock of a file that was removed tries again with a new one.
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
            except OSError as error:
                # Lustre, NFS and FUSE may be mounted without locks.
                logger.warning(
                    "the file system of %s has no locks (%s): start no second run of the same "
                    "output beside this one",
                    target,
                    error.strerror,
                )
            if _is_at(path, handle.fileno()):
                yield handle
                return


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def publish_directory(target: Path, build: Callable[[Path], None]) -> None:
    """Fill a directory beside `target`, then rename it to `target` in one step.

    The caller holds `directory_lock(target)`; what has the temporary name was left by a process
    that was killed, and is removed.

    Args:
        target: The directory to make; absent, or empty.
        build: Writes into the directory that it is given.

    Raises:
        MosaicDataError: The directory cannot be written.
    """
    partial = target.parent / f".{target.name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        try:
            build(partial)
            flush_to_disk(partial)
            os.rename(partial, target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
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
    """Make sure that a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _replace(path: Path, text: str) -> None:
    arriving = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    arriving.write_text(text, encoding="utf-8")
    sync(arriving)
    os.replace(arriving, path)
