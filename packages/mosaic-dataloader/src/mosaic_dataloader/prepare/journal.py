"""What is done: a line for each finished shard, and where the next one begins."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mosaic_dataloader.errors import MosaicDataError
from mosaic_dataloader.prepare.corpus.blocks import Position
from mosaic_dataloader.prepare.counts import Counts

FILE_NAME = "journal.jsonl"


@dataclass(frozen=True)
class Cursor:
    """Where a split goes on.

    Attributes:
        position: First block that is not done with.
        units: Tokens, or samples, of that block that are.
        counts: What was met in the blocks before it.
        ended: Whether the split is complete.
    """

    position: Position
    units: int
    counts: Counts = field(default_factory=Counts)
    ended: bool = False


@dataclass(frozen=True)
class Entry:
    """A finished shard.

    Attributes:
        split: Which split.
        shard: What the index says of it.
        cursor: Where the split goes on after it.
    """

    split: str
    shard: dict[str, Any]
    cursor: Cursor

    def as_json(self) -> dict[str, Any]:
        """As a line."""
        return asdict(self)

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> "Entry":
        """From a line."""
        cursor = line["cursor"]
        return cls(
            line["split"],
            line["shard"],
            Cursor(
                tuple(cursor["position"]),
                cursor["units"],
                Counts(**cursor["counts"]),
                cursor["ended"],
            ),
        )


class Journal:
    """The entries of an interrupted run, and those of this one.

    Args:
        directory: Where the journal is kept.
        job: What must be the same for a run to go on: its options, and the state of its input.

    Attributes:
        entries: In the order of writing; of each split in the order of its shards.

    Raises:
        MosaicDataError: An interrupted run was another job.
    """

    def __init__(self, directory: Path, job: Mapping[str, Any]):
        self._path = directory / FILE_NAME
        self.job = dict(job)
        self.entries: list[Entry] = []
        if self._path.exists():
            self._read()

    def adopt(self, entries: Sequence[Entry]) -> None:
        """Go on from entries that were kept elsewhere."""
        self.entries = list(entries)
        self._rewrite()

    def keep(self, count: int) -> None:
        """Forget all but the first entries."""
        if count < len(self.entries):
            self.adopt(self.entries[:count])

    def append(self, entry: Entry) -> None:
        """Note a shard, which is on disk by now. When this returns, so is the note."""
        if not self._path.exists():
            self._rewrite()
        self.entries.append(entry)
        with open(self._path, "a", encoding="utf-8") as file:
            _write(file, entry.as_json())

    def remove(self) -> None:
        """Forget everything: the job is done."""
        self._path.unlink(missing_ok=True)

    def check(self, job: Mapping[str, Any], where: str) -> None:
        """See that an interrupted run was this job.

        Raises:
            MosaicDataError: It was another.
        """
        for name, wanted in self.job.items():
            if job.get(name) != wanted:
                what = (
                    "the input has changed since"
                    if name == "input_stamp"
                    else f"{name}={job.get(name)!r} then, {name}={wanted!r} now"
                )
                raise MosaicDataError(
                    f"prepare: {where} holds an interrupted run that cannot go on: {what}; set it "
                    f"back, or delete {where} to begin anew"
                )

    def _read(self) -> None:
        with open(self._path, "rb") as file:
            # A line without an end was being written when the run was killed.
            lines = [line for line in file if line.endswith(b"\n")]
        if not lines:
            return
        try:
            job = json.loads(lines[0])
            entries = [Entry.from_json(json.loads(line)) for line in lines[1:]]
        except (ValueError, KeyError, TypeError) as error:
            raise MosaicDataError(
                f"prepare: {self._path} is damaged ({error}); delete {self._path.parent} to begin "
                f"anew"
            ) from error
        if entries:
            self.check(job, str(self._path.parent))
            self.adopt(entries)
        else:
            # What begins anew may be another job.
            self.remove()

    def _rewrite(self) -> None:
        partial = self._path.with_suffix(".tmp")
        with open(partial, "w", encoding="utf-8") as file:
            _write(file, self.job, *(entry.as_json() for entry in self.entries))
        os.replace(partial, self._path)


def _write(file: Any, *lines: Mapping[str, Any]) -> None:
    file.write("".join(json.dumps(line) + "\n" for line in lines))
    file.flush()
    os.fsync(file.fileno())
