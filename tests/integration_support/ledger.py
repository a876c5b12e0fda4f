"""What a rank did, as JSON lines that the rank itself writes and the test reads."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Folder of the ledger; each rank writes `rank<RANK>.jsonl` in it.
LEDGER = "MOSAIC_TEST_LEDGER"
#: Set: only read so many batches where the loader is built, and end the process; for layouts whose
#: model this machine cannot run.
READ_ONLY = "MOSAIC_TEST_READ_ONLY"
#: Embeddings of the tests' model: rows' numbers are below.
VOCABULARY = 2048


def note(event: str, **values: Any) -> None:
    """Append a line, and have it on disk before anything else happens."""
    # The app's launcher builds the loaders, too, to check them.
    path = Path(os.environ[LEDGER], f"rank{os.environ.get('RANK', '-launcher')}.jsonl")
    with open(path, "a") as file:
        file.write(json.dumps({"event": event, **values}) + "\n")


def note_batch(batch: Any) -> None:
    """Append a batch: the rows' numbers, read from their tokens, and a digest of all its bytes."""
    inputs, labels = batch[0]["input"], batch[1]
    digest = hashlib.sha256(inputs.numpy().tobytes() + labels.numpy().tobytes())
    for row, targets in zip(inputs.tolist(), labels.tolist(), strict=True):
        assert len({*row, *targets}) == 1, f"a row mixes samples: {row} {targets}"
    note("batch", rows=inputs[:, 0].tolist(), digest=digest.hexdigest())


@dataclass(frozen=True)
class RankLedger:
    """The lines of one rank."""

    lines: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path, rank: int) -> "RankLedger":
        text = (folder / f"rank{rank}.jsonl").read_text()
        return cls([json.loads(line) for line in text.splitlines()])

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one kind, in order."""
        return [line for line in self.lines if line["event"] == event]

    @property
    def rows(self) -> list[list[int]]:
        """Row numbers of each batch."""
        return [line["rows"] for line in self.of("batch")]

    @property
    def digests(self) -> list[str]:
        """A digest of each batch's bytes."""
        return [line["digest"] for line in self.of("batch")]

    @property
    def dp(self) -> tuple[int, int]:
        """What the trainer passed to the builder: data-parallel rank and number of them."""
        (built,) = self.of("built")
        return built["dp_rank"], built["dp_world_size"]


def replicas(ledgers: list[RankLedger]) -> dict[int, list[RankLedger]]:
    """The ranks' ledgers by the data-parallel rank that the trainer gave them."""
    found: dict[int, list[RankLedger]] = {}
    for one in ledgers:
        found.setdefault(one.dp[0], []).append(one)
    return found


def global_batches(ledgers: list[RankLedger]) -> list[list[int]]:
    """Each micro-batch's rows over all data-parallel ranks, sorted; one replica speaks for each."""
    parts = [group[0].rows for _, group in sorted(replicas(ledgers).items())]
    return [sorted(row for rows in batch for row in rows) for batch in zip(*parts, strict=True)]


def cut(order: list[int], start: int, size: int, count: int) -> list[list[int]]:
    """`count` consecutive batches of an order, each sorted."""
    assert len(order) >= start + size * count, "the reference is too short"
    return [sorted(order[start + k * size : start + (k + 1) * size]) for k in range(count)]
