import pytest

from tools.check_text import findings

# Put together here, so that this file passes the check itself.
SLASH = "/"


@pytest.mark.parametrize(
    "line",
    [
        f'path = "{SLASH}home/someone/data"',
        f"see {SLASH}root/project",
        f"({SLASH}Users/someone)",
        f"cd {SLASH}work/shared",
        f"PIP_EXTRA_INDEX_URL=https:{SLASH}/mirror.invalid/py",
        f"default-index = 'https:{SLASH}/mirror.invalid'",
        f"pip install -i https:{SLASH}/mirror.invalid{SLASH}simple",
        f"https:{SLASH}/mirror.invalid/packages{SLASH}1f/1d/x.whl",
        f"https:{SLASH}/x.invalid{SLASH}whl/cu128",
    ],
)
def test_places_of_one_machine_or_network_are_found(line: str) -> None:
    assert [number for number, _ in findings(f"fine\n{line}\nfine")] == [2]


@pytest.mark.parametrize(
    "line",
    [
        "s3://bucket/home/data",
        f"$SCRATCH{SLASH}work{SLASH}run",
        f"the outputs{SLASH}work{SLASH} folder",
        f"~{SLASH}work",
        f"a{SLASH}work{SLASH}b",
        f"the index.json of https:{SLASH}/bucket.invalid/data",
        "https://github.com/x/simple-name",
        "/cache/code",
    ],
)
def test_other_paths_are_fine(line: str) -> None:
    assert list(findings(line)) == []
