import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools.check_wheel import archive_problems, problems

INFO = "mosaic_config-0.1.0.dist-info"
METADATA = """\
Metadata-Version: 2.4
Name: mosaic-config
Version: 0.1.0
Summary: a package
License-Expression: Apache-2.0
Requires-Python: >=3.11
Requires-Dist: torchtitan<0.3,>=0.2.2
Description-Content-Type: text/markdown

The readme.
"""
GOOD = {
    "mosaic_config/__init__.py": "",
    "mosaic_config/py.typed": "",
    f"{INFO}/METADATA": METADATA,
    f"{INFO}/licenses/LICENSE": "",
}


def wheel(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "mosaic_config-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def test_a_complete_wheel_passes(tmp_path: Path) -> None:
    assert problems(wheel(tmp_path, GOOD)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"mosaic_config/py.typed": None}, "py.typed is missing"),
        ({f"{INFO}/licenses/LICENSE": None}, "LICENSE is missing"),
        ({"tests/test_x.py": ""}, "tests/test_x.py does not belong"),
        ({"mosaic_config/tests/test_x.py": ""}, "mosaic_config/tests/test_x.py does not belong"),
        (
            {f"{INFO}/METADATA": METADATA.replace("torchtitan", "mosaic-trainspec")},
            "it requires another package of this workspace: mosaic-trainspec",
        ),
        (
            {f"{INFO}/METADATA": METADATA.replace("torchtitan<", "torchtitan @ file:x #")},
            "it requires a direct address",
        ),
        ({f"{INFO}/METADATA": METADATA.replace("The readme.", "")}, "no long description"),
        ({f"{INFO}/METADATA": METADATA.replace("Apache-2.0", "MIT")}, "license expression"),
        ({f"{INFO}/METADATA": METADATA.replace("markdown", "plain")}, "not marked as Markdown"),
        (
            {f"{INFO}/METADATA": METADATA + "[docs](../docs/a.md) [it](https://a.b) [x](#use)"},
            "its readme links to ../docs/a.md",
        ),
    ],
)
def test_a_faulty_wheel_is_found(
    tmp_path: Path, change: dict[str, str | None], problem: str
) -> None:
    files = {name: text for name, text in {**GOOD, **change}.items() if text is not None}
    (found,) = problems(wheel(tmp_path, files))
    assert problem in found


SOURCE = {
    "CHANGELOG.md": "# Changelog\n\n## 0.1.0\n\nFirst release.\n\n## 0.0.9\n\nA try.\n",
    "LICENSE": "",
    "PKG-INFO": METADATA,
    "README.md": "",
    "pyproject.toml": "",
    "src/mosaic_config/__init__.py": '"""A package."""\n\n__version__ = "0.1.0"\n',
    "tests/test_x.py": "",
}


def archive(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "mosaic_config-0.1.0.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"mosaic_config-0.1.0/{name}")
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


def test_a_complete_source_archive_passes(tmp_path: Path) -> None:
    assert archive_problems(archive(tmp_path, SOURCE)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"CHANGELOG.md": None}, "CHANGELOG.md is missing"),
        ({"CHANGELOG.md": "# Changelog\n\n## 0.0.9\n\nx\n"}, "says nothing about 0.1.0"),
        ({"CHANGELOG.md": "## 0.1.0\n\n## 0.0.9\n\nx\n"}, "says nothing about 0.1.0"),
        ({"tests/test_x.py": None}, "tests/ is missing"),
        (
            {"src/mosaic_config/__init__.py": '__version__ = "0.2.0"'},
            "says that the version is 0.2",
        ),
    ],
)
def test_a_faulty_source_archive_is_found(
    tmp_path: Path, change: dict[str, str | None], problem: str
) -> None:
    files = {name: text for name, text in {**SOURCE, **change}.items() if text is not None}
    (found,) = archive_problems(archive(tmp_path, files))
    assert problem in found
