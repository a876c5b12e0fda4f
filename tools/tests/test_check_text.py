import subprocess
from pathlib import Path

import pytest

from tools import check_text
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


@pytest.mark.parametrize(
    ("line", "phrase"),
    [
        ("A killed run goes on from its last checkpoint.", "goes on from"),
        ("The run is gone on from when the command is run again.", "gone on from"),
        ("The epoch begins anew.", "anew"),
        ("All mistakes are told together.", "are told"),
        ("A file that is none is refused.", "is none"),
        ("They wait for ever.", "for ever"),
        ("It waits lest one be lost.", "lest"),
        ("The lanes of all others are read.", "of all others"),
        ("Meanwhile the next order is built.", "Meanwhile"),
        ("The rank's hindmost lane counts.", "hindmost"),
        ("The lock sees to it.", "sees to it"),
        ("The loader knows no trainer.", "knows no"),
        ("Ranks load the last whole checkpoint.", "last whole"),
    ],
)
def test_phrases_that_mislead_are_found_on_pages_alone(line: str, phrase: str) -> None:
    found = list(findings(f"fine\n{line}\nfine", page=True))
    assert {number for number, _ in found} == {2}
    assert any(f'says "{phrase}"' in what for _, what in found)
    assert list(findings(line)) == []


def test_plain_english_is_fine_on_pages() -> None:
    page = """What goes on each disk, and at least one manifest.
    The run resumes from its last complete checkpoint; mistakes are reported together.
    "Untold" and "greatest" hold such a word only in part."""
    assert list(findings(page, page=True)) == []


def test_phrases_are_looked_for_in_every_tracked_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for name in ("page.md", "code.py", "untracked.md"):
        (tmp_path / name).write_text("# The epoch begins anew.\n")
    subprocess.run(["git", "-C", tmp_path, "add", "page.md", "code.py"], check=True)
    monkeypatch.setattr(check_text, "ROOT", tmp_path)
    assert check_text.main() == 1
    assert [line.split(";")[0] for line in capsys.readouterr().err.splitlines()] == [
        'page.md:1: says "anew"'
    ]
    (tmp_path / "page.md").write_text("# The epoch restarts.\n")
    assert check_text.main() == 0
