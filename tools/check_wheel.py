"""A built wheel holds what its users need, and nothing else.

python tools/check_wheel.py dist/*.whl
"""

import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

SIBLINGS = frozenset({"mosaic-config", "mosaic-dataloader", "mosaic-trainspec"})


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
    if not str(meta.get_payload()).strip():
        found.append("it has no long description (readme)")
    for field in ("Summary", "Requires-Python"):
        if not meta[field]:
            found.append(f"its metadata lacks {field}")
    for requirement in meta.get_all("Requires-Dist", []):
        if " @ " in requirement:
            found.append(f"it requires a direct address: {requirement}")
        if any(requirement.startswith(name) for name in SIBLINGS - {distribution}):
            found.append(f"it requires another package of this workspace: {requirement}")
    return [f"{wheel.name}: {line}" for line in found]


def main(arguments: list[str] | None = None) -> int:
    """Check the wheels named on the command line; 1 and a line for each problem found."""
    wheels = [Path(name) for name in (sys.argv[1:] if arguments is None else arguments)]
    found = [line for wheel in wheels for line in problems(wheel)]
    for line in found:
        print(f"error: {line}", file=sys.stderr)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
