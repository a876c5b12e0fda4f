"""The list of mutants fits the sources, and a mutant that survives is reported."""

from pathlib import Path

import pytest

from tools.run_mutants import ROOT, Mutant, load_mutants, mutated, try_mutant

MUTANTS = load_mutants(ROOT / "tools" / "mutants")


def test_every_mutant_fits_the_sources_and_names_tests_that_exist() -> None:
    assert len(MUTANTS) >= 40
    assert {m.file.split("/")[0] for m in MUTANTS} >= {"packages", "apps", "tools"}
    for mutant in MUTANTS:
        mutated(mutant, (ROOT / mutant.file).read_text(encoding="utf-8"))
        for test in mutant.tests:
            path, _, name = test.partition("::")
            source = (ROOT / path).read_text(encoding="utf-8")
            assert f"def {name.partition('[')[0]}(" in source or not name, test


@pytest.mark.parametrize(
    ("find", "replace", "noticed", "how"),
    [
        ("return 2", "return 3", True, "noticed"),
        ("other = 1", "other = 2", False, "SURVIVED"),
        ("absent", "x", False, "cannot be applied"),
        ("import os", "import nothing_of_the_kind", False, "could not run"),
    ],
)
def test_what_becomes_of_a_mutant(
    tmp_path: Path, find: str, replace: str, noticed: bool, how: str
) -> None:
    (tmp_path / "packages/p/src").mkdir(parents=True)
    source = tmp_path / "packages/p/src/mutated_module.py"
    source.write_text("import os\n\nother = 1\n\n\ndef two():\n    return 2\n")
    (tmp_path / "test_two.py").write_text(
        "from mutated_module import two\n\n\ndef test_two():\n    assert two() == 2\n"
    )
    mutant = Mutant("", "packages/p/src/mutated_module.py", find, replace, ("test_two.py",))
    before = source.read_text()
    found, words = try_mutant(mutant, tmp_path)
    assert (found, how in words) == (noticed, True), words
    assert source.read_text() == before


@pytest.mark.parametrize(
    "entry", ['why = "x"', 'why="x"\nfile="f"\nfind="a"\nreplace="b"\ntests=[]']
)
def test_an_incomplete_entry_is_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / "a.toml").write_text(f"[[mutant]]\n{entry}\n")
    with pytest.raises(ValueError, match=r"a\.toml, entry 1"):
        load_mutants(tmp_path)
