import pytest

from tools.check_text import findings

# Put together here, so that this file passes the check itself.
SLASH, DOT = "/", "."


@pytest.mark.parametrize(
    "line",
    [
        f'path = "{SLASH}home/someone/data"',
        f"see {SLASH}root/project",
        f"({SLASH}Users/someone)",
        f"cd {SLASH}work/shared",
        f"https://pypi{DOT}org/project/x",
        f"index-url = https://mirror.invalid{SLASH}simple",
        f"https://x.invalid{SLASH}whl/cu128",
    ],
)
def test_places_of_one_machine_or_network_are_found(line: str) -> None:
    assert [number for number, _ in findings(f"fine\n{line}\nfine")] == [2]


@pytest.mark.parametrize(
    "line",
    [
        "s3://bucket/home/data",
        "$SCRATCH/work/run",
        "the outputs/work/ folder",
        "~/work",
        "a/work/b",
        "https://github.com/x/simple-name",
        "/cache/code",
    ],
)
def test_other_paths_are_fine(line: str) -> None:
    assert list(findings(line)) == []
