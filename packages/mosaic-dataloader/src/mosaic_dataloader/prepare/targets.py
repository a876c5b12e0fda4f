"""Where the data set goes: a directory that appears in one step, or an object store."""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.own_folder import own_temporary_folder
from mosaic_dataloader.prepare.journal import FILE_NAME as JOURNAL
from mosaic_dataloader.prepare.journal import Entry, Journal
from mosaic_dataloader.prepare.manifest import (
    FILE_NAME,
    VERSION,
    finished_facts,
    parse_manifest,
    read_manifest,
)
from mosaic_dataloader.prepare.options import PrepareOptions
from mosaic_dataloader.prepare.publish import directory_lock, flush_to_disk, sync
from mosaic_dataloader.prepare.remote import RemoteStore, load

logger = logging.getLogger("mosaic_dataloader.prepare")

# A crash on a machine that does not come back costs this much.
_SECONDS_BETWEEN_NOTES = 30.0


class Target(Protocol):
    """A place for a data set.

    Attributes:
        name: For messages.
    """

    name: str

    def facts(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """Facts of a data set that is there already; None if there is none.

        Raises:
            MosaicDataError: What is there was made with other options, or not by `prepare`.
        """

    def lock(self) -> AbstractContextManager[None]:
        """Hold the right to make it."""

    def journal(self, job: Mapping[str, Any]) -> Journal:
        """What an interrupted run has done, as far as it is still there.

        Raises:
            MosaicDataError: That was another job.
        """

    def save(self, name: str, data: bytes) -> None:
        """Put a file there for good. Called by several threads."""

    def note(self, journal: Journal) -> None:
        """Called now and then: keep what is done."""

    def give_up(self, journal: Journal) -> None:
        """Called after an error: leave nothing that is of no use to the next run."""

    def publish(self, journal: Journal) -> None:
        """All files are there: make it known."""


class LocalTarget:
    """A directory, filled beside its place and renamed in one step.

    Args:
        output: The directory.
    """

    def __init__(self, output: Path):
        self.name = str(output)
        self._output = output
        self._partial = output.parent / f".{output.name}.partial"

    def facts(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """See `Target`."""
        return read_manifest(self._output, options, setting="output")

    def lock(self) -> AbstractContextManager[None]:
        """See `Target`."""
        return directory_lock(self._output)

    def journal(self, job: Mapping[str, Any]) -> Journal:
        """See `Target`. Shards that were lost, and files that are not noted, are forgotten."""
        self._partial.mkdir(exist_ok=True)
        journal = Journal(self._partial, job)
        here = {
            path.relative_to(self._partial).as_posix(): path.stat().st_size
            for path in self._partial.rglob("*")
            if path.is_file()
        }
        files = [(entry, *_file_of(entry)) for entry in journal.entries]
        good = [here.get(name) == size for _, name, size in files]
        journal.keep(good.index(False) if False in good else len(good))
        noted = {name for _, name, _ in files[: len(journal.entries)]} | {JOURNAL}
        for name in here.keys() - noted:
            (self._partial / name).unlink()
        return journal

    def save(self, name: str, data: bytes) -> None:
        """See `Target`."""
        path = self._partial / name
        path.parent.mkdir(exist_ok=True)
        arriving = path.with_name(f"{path.name}.tmp")
        with open(arriving, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(arriving, path)
        # The journal must not know of a name that a power cut would undo.
        sync(path.parent)

    def note(self, journal: Journal) -> None:
        """See `Target`. The journal is in the directory."""

    def give_up(self, journal: Journal) -> None:
        """See `Target`."""
        if not journal.entries:
            shutil.rmtree(self._partial, ignore_errors=True)

    def publish(self, journal: Journal) -> None:
        """See `Target`."""
        flush_to_disk(self._partial)
        journal.remove()
        os.rename(self._partial, self._output)
        sync(self._output.parent)


class RemoteTarget:
    """An object store. What is done is noted here and, at times, in the store's manifest.

    Args:
        url: Where the data set goes.
        work: Local directory for shards on their way and for the journal.

    Raises:
        MosaicDataError: There is no such store.
    """

    def __init__(self, url: str, work: Path | None):
        self.name = url
        self._work = (work or default_work_dir()) / hashlib.sha256(url.encode()).hexdigest()[:16]
        self._store: RemoteStore | None = None
        self._noted = 0
        self._last = time.monotonic()

    def facts(self, options: Mapping[str, Any]) -> dict[str, Any] | None:
        """See `Target`."""
        note = self._note()
        if note is None:
            for name in ("index.json", "train/index.json"):
                if load(f"{self.name}/{name}") is not None:
                    raise MosaicDataError(
                        f"prepare: {self.name} holds a data set that prepare did not write; "
                        f"choose another output"
                    )
            return None
        if not note.get("complete", False):
            return None
        return finished_facts(note, self.name, options, setting="output")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """See `Target`. It holds on this machine only."""
        with directory_lock(self._work):
            self._work.mkdir(exist_ok=True)
            yield

    def journal(self, job: Mapping[str, Any]) -> Journal:
        """See `Target`. Another machine may have begun, or gone further."""
        outgoing = self._work / "outgoing"
        # Uploaders warn of directories that hold something: what a killed run left.
        shutil.rmtree(outgoing, ignore_errors=True)
        self._store = RemoteStore(self.name, outgoing)
        journal = Journal(self._work, job)
        note = self._note()
        if note is None:
            if journal.entries:
                logger.info("%s was emptied since it was interrupted: beginning anew", self.name)
                journal.keep(0)
            self._keep(journal)
        else:
            entries = [Entry.from_json(line) for line in note["entries"]]
            if entries:
                journal.check(note["job"], self.name)
            if len(entries) > len(journal.entries):
                journal.adopt(entries)
        self._noted = len(journal.entries)
        return journal

    def save(self, name: str, data: bytes) -> None:
        """See `Target`."""
        assert self._store is not None  # the journal comes first
        self._store.save(name, data)

    def note(self, journal: Journal) -> None:
        """See `Target`."""
        now = time.monotonic()
        if len(journal.entries) == self._noted or now - self._last < _SECONDS_BETWEEN_NOTES:
            return
        self._noted, self._last = len(journal.entries), now
        self._keep(journal)

    def give_up(self, journal: Journal) -> None:
        """See `Target`. A journal that tells of shards is of use."""
        if not journal.entries:
            journal.remove()
            if self._noted:
                self._keep(journal)

    def publish(self, journal: Journal) -> None:
        """See `Target`. The manifest that was uploaded last says that it is complete."""
        shutil.rmtree(self._work)

    def _note(self) -> dict[str, Any] | None:
        text = load(f"{self.name}/{FILE_NAME}")
        return None if text is None else parse_manifest(text, self.name, setting="output")

    def _keep(self, journal: Journal) -> None:
        note = {
            "version": VERSION,
            "complete": False,
            "job": journal.job,
            "entries": [entry.as_json() for entry in journal.entries],
        }
        self.save(FILE_NAME, json.dumps(note).encode())


def open_target(options: PrepareOptions) -> Target:
    """The place that the options name.

    Raises:
        MosaicDataError: It is a store that cannot be written to.
    """
    if not options.remote:
        return LocalTarget(Path(options.output))
    work = None if options.work_dir is None else Path(options.work_dir)
    return RemoteTarget(str(options.output).rstrip("/"), work)


def default_work_dir() -> Path:
    """A folder of this user's in the temporary directory."""
    return Path(own_temporary_folder("mosaic-prepare", "work_dir"))


def _file_of(entry: Entry) -> tuple[str, int]:
    """Name and size of the file that an entry's shard is in."""
    stored = entry.shard["zip_data"] or entry.shard["raw_data"]
    return os.path.join(entry.split, stored["basename"]), stored["bytes"]
