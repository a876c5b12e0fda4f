"""A built package holds what its users need, and nothing else.

python tools/check_wheel.py dist/*
"""

import re
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

SIBLINGS = frozenset(
    {"mosaic-config", "mosaic-dataloader", "mosaic-prepare", "mosaic-titan", "mosaic-trainspec"}
)
# What a package may require of the others.
ALLOWED = {
    "mosaic-prepare": frozenset({"mosaic-dataloader"}),
    "mosaic-titan": frozenset({"mosaic-dataloader"}),
}


def metadata(wheel: Path) -> Message:
    """The core metadata (METADATA) of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def problems(wheel: Path) -> list[str]:
    """What is wrong with a wheel, one line each; empty when it may be published."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    meta = metadata(wheel)
    distribution = str(meta["Name"])
    module = distribution.replace("-", "_")
    found = []
    if f"{module}/py.typed" not in names:
        found.append("py.typed is missing, so type checkers ignore its annotations")
    if not any(name.endswith(".dist-info/licenses/LICENSE") for name in names):
        found.append("LICENSE is missing")
    found += [
        f"{name} does not belong in it"
        for name in names
        if name.split("/")[0] not in {module, f"{module}-{meta['Version']}.dist-info"}
        or {"tests", "__pycache__"} & set(name.split("/"))
    ]
    if meta["License-Expression"] != "Apache-2.0":
        found.append('its license expression is not "Apache-2.0"')
    readme = str(meta.get_payload())
    if not readme.strip():
        found.append("it has no long description (readme)")
    if meta["Description-Content-Type"] != "text/markdown":
        found.append("its long description is not marked as Markdown")
    found += [
        f"its readme links to {target}, which is nowhere but in the repository"
        for target in re.findall(r"\]\(([^)\s]+)\)", readme)
        if not re.match(r"https://|#", target)
    ]
    for field in ("Summary", "Requires-Python"):
        if not meta[field]:
            found.append(f"its metadata lacks {field}")
    foreign = SIBLINGS - {distribution} - ALLOWED.get(distribution, frozenset())
    for requirement in meta.get_all("Requires-Dist", []):
        if " @ " in requirement:
            found.append(f"it requires a direct address: {requirement}")
        if any(requirement.startswith(name) for name in foreign):
            found.append(f"it requires another package of this workspace: {requirement}")
    return [f"{wheel.name}: {line}" for line in found]


def archive_problems(archive: Path) -> list[str]:
    """What is wrong with a source archive, one line each."""
    with tarfile.open(archive) as tar:
        texts = {}
        for member in tar.getmembers():
            file = tar.extractfile(member) if member.isfile() else None
            if file is not None:
                texts[member.name.partition("/")[2]] = file.read()
    needed = ("CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml")
    found = [f"{name} is missing" for name in needed if name not in texts]
    for folder in ("src", "tests"):
        if not any(name.startswith(f"{folder}/") for name in texts):
            found.append(f"{folder}/ is missing")
    if not found:
        version = Parser().parsestr(texts["PKG-INFO"].decode())["Version"]
        section = rf"^## {re.escape(version)}\b[^\n]*\n(.*?)(?=^## |\Z)"
        changes = re.search(section, texts["CHANGELOG.md"].decode(), re.M | re.S)
        if changes is None or not changes[1].strip():
            found.append(f"CHANGELOG.md says nothing about {version}")
        for name, text in texts.items():
            said = re.search(rb'^__version__ = "([^"]*)"', text, re.M)
            top = re.fullmatch(r"src/\w+/__init__\.py", name)
            if top and said and said[1].decode() != version:
                found.append(f"{name} says that the version is {said[1].decode()}")
    return [f"{archive.name}: {line}" for line in found]


def main(arguments: list[str] | None = None) -> int:
    """Check the files named on the command line; 1 and a line for each problem found."""
    files = [Path(name) for name in (sys.argv[1:] if arguments is None else arguments)]
    found = [
        line
        for file in files
        for line in (problems if file.suffix == ".whl" else archive_problems)(file)
    ]
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
