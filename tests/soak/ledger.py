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
        steps: Steps of the run.
        redone: Steps done anew after a kill, over all lives.
        handed_out: Samples handed out in all lives.
        rows: Samples of the run in its final version, as the ledger has them.
    """

    steps: int = 0
    redone: int = 0
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
    final: dict[int, list[int]] = {}  # step -> samples, in the run's latest version
    for life in lives:
        steps = ledger.get(life.number, {})
        # Only steps that no complete checkpoint holds are done anew, and none is left out.
        assert sorted(steps) == list(range(life.resumed + 1, life.resumed + 1 + len(steps))), life
        assert life.resumed <= len(final), life
        audit.redone += len(final) - life.resumed
        final = {step: rows for step, rows in final.items() if step <= life.resumed}
        position = sum(map(len, final.values()))
        for number, (batches, ranks) in sorted(steps.items()):
            final[number] = check_step(life, batches, ranks, expected, position)
            audit.handed_out += len(final[number])
            # A kill may cut off a part of a step; positions count whole ones.
            position += life.global_batch * life.accumulation
    audit.steps = len(final)
    audit.rows = [row for number in sorted(final) for row in final[number]]
    return audit


def check_step(
    life: Life, batches: Step, ranks: dict[int, int], expected: Sequence[int], start: int
) -> list[int]:
    """The samples of one step of one life, checked; a kill may have cut off a part of it."""
    found: list[int] = []
    assert all(len(b) <= life.accumulation for b in batches.values()), life
    for turn in range(life.accumulation):
        begin = start + turn * life.global_batch
        wanted = Counter(expected[begin : begin + life.global_batch])
        by_rank: dict[int, list[int]] = {}
        for process in (p for p in batches if len(batches[p]) > turn):
            rows = batches[process][turn]
            assert len(rows) == life.batch, (life, rows)
            # Processes of one model replica read the same bytes.
            assert by_rank.setdefault(ranks[process], rows) == rows, (life, start)
        got = [row for rows in by_rank.values() for row in rows]
        assert not Counter(got) - wanted, (life, start, got, wanted)
        found += got
    return found
