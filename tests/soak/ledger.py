"""The ledger of consumed samples, held against the order that they must come in."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Life:
    """One start of the job.

    Attributes:
        number: Which, from 0.
        ranks: Data-parallel ranks.
        replicas: Processes that share one data-parallel rank.
        batch: Rows of one micro-batch on one rank.
        accumulation: Micro-batches of a step.
        resumed: Step of the last complete checkpoint when it started.
        kill: Who was killed, and when.
    """

    number: int
    ranks: int
    replicas: int
    batch: int
    accumulation: int
    resumed: int
    kill: str = ""

    @property
    def global_batch(self) -> int:
        """Rows of one micro-batch over all ranks."""
        return self.ranks * self.batch


@dataclass
class Audit:
    """What the ledger says.

    Attributes:
        steps: Steps of the run, and how many were redone after a kill.
        samples: Samples of the run, in its final version.
        handed_out: Samples handed out in all lives.
    """

    steps: int = 0
    redone: int = 0
    samples: int = 0
    handed_out: int = 0
    rows: list[int] = field(default_factory=list)


Step = dict[int, list[list[int]]]  # process -> its micro-batches
Ledger = dict[int, dict[int, tuple[Step, dict[int, int]]]]


def read(path: Path) -> Ledger:
    """Life -> step -> (process -> micro-batches, process -> data-parallel rank)."""
    ledger: Ledger = defaultdict(lambda: defaultdict(lambda: (defaultdict(list), {})))
    text = path.read_text()
    assert text.endswith("\n"), "a write was cut in two"
    for line in text.splitlines():
        life, step, process, rank, rows = line.split()
        batches, ranks = ledger[int(life)][int(step)]
        batches[int(process)].append([int(row) for row in rows.split(",")])
        ranks[int(process)] = int(rank)
    return ledger


def check(ledger: Ledger, lives: Sequence[Life], expected: Sequence[int]) -> Audit:
    """Hold every batch of every life against the order, and the whole run against its epochs.

    Args:
        ledger: From `read`.
        lives: All lives, in order.
        expected: Row numbers in the order of an uninterrupted run, at least as many as were read.
    """
    audit = Audit()
    position = {0: 0}  # samples before each step boundary, in the run's latest version
    version: dict[int, tuple[int, int]] = {}  # step -> positions, in the latest version
    furthest = 0
    for life in lives:
        steps = ledger.get(life.number, {})
        first = life.resumed + 1
        assert sorted(steps) == list(range(first, first + len(steps))), (life, sorted(steps))
        audit.redone += max(0, furthest - life.resumed)
        for step in [s for s in version if s > life.resumed]:
            # Only what no complete checkpoint holds is done anew.
            del version[step], position[step]
        furthest = life.resumed
        for number in sorted(steps):
            batches, ranks = steps[number]
            whole = check_step(life, batches, ranks, expected, position[number - 1])
            audit.handed_out += whole
            size = life.global_batch * life.accumulation
            position[number] = position[number - 1] + size
            version[number] = (position[number - 1], position[number])
            furthest = number
    audit.steps = furthest
    for number in range(1, audit.steps + 1):
        start, stop = version[number]
        audit.rows += expected[start:stop]
    audit.samples = len(audit.rows)
    return audit


def check_step(
    life: Life, batches: Step, ranks: dict[int, int], expected: Sequence[int], start: int
) -> int:
    """Check one step of one life, of which a kill may have cut off a part; samples in it."""
    handed_out = 0
    for turn in range(life.accumulation):
        begin = start + turn * life.global_batch
        wanted = Counter(expected[begin : begin + life.global_batch])
        by_rank: dict[int, list[int]] = {}
        present = [process for process in batches if len(batches[process]) > turn]
        for process in present:
            rows = batches[process][turn]
            assert len(rows) == life.batch, (life, rows)
            # Processes of one model replica read the same bytes.
            assert by_rank.setdefault(ranks[process], rows) == rows, (life, start)
        got = Counter(row for rows in by_rank.values() for row in rows)
        assert not got - wanted, (life, start, got - wanted)
        if len(by_rank) == life.ranks:
            assert got == wanted, (life, start)
        handed_out += got.total()
    assert all(len(b) <= life.accumulation for b in batches.values()), life
    return handed_out
