"""Keep the committed uv.lock free of download addresses.

The committed lock names versions, hashes and the dependency graph, so that it
works behind any package index or mirror. What uv needs besides, the addresses,
it adds again by itself: the members' metadata tables are missing, so the next
`uv run` or `uv sync` resolves anew with the locked versions as preferences and
completes the file. uv does not compare hashes when it does so; `--verify` does.

    python tools/neutral_lock.py            rewrite uv.lock in place
    python tools/neutral_lock.py --check    the lock staged in git is neutral
    python tools/neutral_lock.py --verify   completing it changes no version or hash
    python tools/neutral_lock.py --filter   from stdin to stdout (a git clean filter)
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

# Run as a command, only this folder is on sys.path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.lock_contents import LockError, differences, file_name, read_lock

ROOT = Path(__file__).resolve().parent.parent
FIX = "run `uv run nox -s lock` and `git add uv.lock`"

_REGISTRY = re.compile(r'\bregistry = "[^"]*"')
_FILE_ENTRY = re.compile(r'\{ (?:url|path) = "[^{}]*\}')
_METADATA_TABLE = re.compile(r"^\[package\.metadata(?:\.[^\]]*)?\]\n(?:(?!\[).*\n)*", re.MULTILINE)


def neutralize(text: str) -> str:
    """Remove every download address from the text of a uv.lock.

    Applying it twice changes nothing more.

    Raises:
        LockError: A package is locked from a git repository or a direct address,
            a file has no hash, or uv's format is not the one this module knows.
    """
    before = read_lock(text)
    neutral = _REGISTRY.sub('registry = "."', text)
    neutral = _FILE_ENTRY.sub(lambda match: _neutral_entry(match.group()), neutral)
    neutral = _METADATA_TABLE.sub("", neutral).rstrip("\n") + "\n"
    if left := [line.strip() for line in neutral.splitlines() if "://" in line]:
        raise LockError(f"uv.lock holds an address that cannot be left out: {left[0]}")
    if read_lock(neutral) != before:
        raise LockError("uv.lock has a format that tools/neutral_lock.py does not know; adapt it")
    return neutral


def check(text: str) -> None:
    """Raise LockError unless the text of a uv.lock is neutral."""
    if count := text.count("://"):
        raise LockError(f"the committed uv.lock holds {count} addresses; {FIX}")
    if neutralize(text) != text:
        raise LockError(f"the committed uv.lock is not in its neutral form; {FIX}")


def complete(text: str, root: Path) -> str:
    """Let uv complete a neutral lock, in a temporary copy of the workspace.

    Args:
        text: The neutral lock.
        root: The workspace whose pyproject.toml files are locked.

    Raises:
        LockError: uv could not lock.
    """
    with tempfile.TemporaryDirectory() as folder:
        for project in [Path("pyproject.toml"), *_member_files(root)]:
            (folder / project).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / project, folder / project)
        lock = Path(folder, "uv.lock")
        lock.write_text(text, encoding="utf-8")
        # `uv run` names its own executable in UV; it need not be on PATH.
        command = [os.environ.get("UV", "uv"), "lock", "--quiet", "--project", folder]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode:
            raise LockError(f"uv could not complete the lock: {done.stderr.strip()}")
        return lock.read_text(encoding="utf-8")


def staged(root: Path) -> str:
    """The uv.lock that the next commit holds (the committed one if nothing is staged)."""
    done = subprocess.run(
        ["git", "show", ":uv.lock"], cwd=root, check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise LockError(f"uv.lock is not in git here ({done.stderr.strip()}); {FIX}")
    return done.stdout


def verify(root: Path) -> None:
    """Raise LockError if completing the staged lock changes a version, dependency or hash.

    `uv run` has usually completed the working tree's file already; only where it
    still is neutral, uv is asked to complete a copy.
    """
    committed = staged(root)
    completed = (root / "uv.lock").read_text(encoding="utf-8")
    if "[package.metadata]" not in completed:
        completed = complete(committed, root)
    if found := differences(committed, completed):
        listed = "\n  ".join(found)
        raise LockError(f"the committed uv.lock is out of date; {FIX}:\n  {listed}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 when all is well, 1 with a line on stderr when not."""
    parser = argparse.ArgumentParser(description="Keep uv.lock free of download addresses.")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--check", action="store_true", help="the staged lock is neutral")
    modes.add_argument("--verify", action="store_true", help="completing it changes nothing")
    modes.add_argument("--filter", action="store_true", help="from stdin to stdout")
    options = parser.parse_args(arguments)
    try:
        if options.check:
            check(staged(ROOT))
        elif options.verify:
            verify(ROOT)
        elif options.filter:
            sys.stdout.write(neutralize(sys.stdin.read()))
        else:
            lock = ROOT / "uv.lock"
            lock.write_text(neutralize(lock.read_text(encoding="utf-8")), encoding="utf-8")
    except LockError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _neutral_entry(entry: str) -> str:
    table = tomllib.loads(f"entry = {entry}")["entry"]
    if "hash" not in table:  # `source = { path = … }`, a package that lies in the repository
        return entry
    name, digest = json.dumps(file_name(table)), json.dumps(table["hash"])
    # Size and upload time are left out too: not every index tells them.
    return f"{{ path = {name}, hash = {digest} }}"


def _member_files(root: Path) -> list[Path]:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["uv"]["workspace"]["members"]
    return [
        found.relative_to(root)
        for pattern in patterns
        for found in sorted(root.glob(f"{pattern}/pyproject.toml"))
    ]


if __name__ == "__main__":
    sys.exit(main())
