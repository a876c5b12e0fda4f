"""The check of the ledger finds what it is there to find."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.soak.ledger import Life, check, read

ORDER = [*range(100, 140), *range(139, 99, -1)]
Line = list[str | int]


def run() -> tuple[list[Life], list[Line]]:
    """Two ranks of 2 rows with 2 micro-batches a step; killed in step 3; then one rank of 5 rows.

    The checkpoint of step 1 is complete, so step 2 is done anew.
    """
    lives = [Life(0, 2, 1, 2, 2, 0), Life(1, 1, 2, 5, 1, 1)]
    lines: list[Line] = []
    for step in (1, 2, 3):
        for turn in range(2):
            rows = ORDER[8 * (step - 1) + 4 * turn :]
            for rank in range(2):
                if (step, turn, rank) < (3, 1, 0):
                    # Which rank reads which of the rows is free.
                    own = sorted(rows[:4])[rank::2]
                    lines.append([0, step, rank, rank, ",".join(map(str, own))])
    for step in (2, 3, 4):
        rows = ORDER[8 + 5 * (step - 2) :][:5]
        for process in (0, 1):
            lines.append([1, step, process, 0, ",".join(map(str, rows))])
    return lives, lines


def checked(tmp_path: Path, lives: list[Life], lines: list[Line]) -> tuple[int, int, list[int]]:
    path = tmp_path / "ledger"
    path.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    audit = check(read(path), lives, ORDER)
    return audit.steps, audit.redone, audit.rows


def test_a_run_with_a_kill_is_its_order(tmp_path: Path) -> None:
    steps, redone, rows = checked(tmp_path, *run())
    assert (steps, redone) == (4, 2)
    assert sorted(rows) == sorted(ORDER[: 8 + 3 * 5])


def drop_a_batch(lives: list[Life], lines: list[Line]) -> None:
    """The second life begins one batch too late."""
    for line in lines[-6:]:
        line[4] = ",".join(str(int(n) + 5) for n in str(line[4]).split(","))


def repeat_a_row(lives: list[Life], lines: list[Line]) -> None:
    lines[-1][4] = lines[-2][4] = "118,119,120,121,121"


def read_the_others_rows(lives: list[Life], lines: list[Line]) -> None:
    """Rank 1 is handed what rank 0 is."""
    lines[1][4] = lines[0][4]


def part_replicas(lives: list[Life], lines: list[Line]) -> None:
    lines[-1][4] = "118,119,120,122,121"


def skip_a_step(lives: list[Life], lines: list[Line]) -> None:
    del lines[-4:-2]


def resume_too_far(lives: list[Life], lines: list[Line]) -> None:
    """The life says that step 2 was in its checkpoint, and did it all the same."""
    lives[1].resumed = 2


@pytest.mark.parametrize(
    "spoil",
    [
        drop_a_batch,
        repeat_a_row,
        read_the_others_rows,
        part_replicas,
        skip_a_step,
        resume_too_far,
    ],
)
def test_what_is_wrong_is_found(
    tmp_path: Path, spoil: Callable[[list[Life], list[Line]], None]
) -> None:
    lives, lines = run()
    spoil(lives, lines)
    with pytest.raises(AssertionError):
        checked(tmp_path, lives, lines)
