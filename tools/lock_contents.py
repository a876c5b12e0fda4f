"""What a uv.lock promises, without where it is downloaded from."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit


class LockError(ValueError):
    """A lock file that cannot be used; the message says what to do about it."""


@dataclass(frozen=True)
class LockedPackage:
    """One ``[[package]]`` of a lock file.

    Attributes:
        edges: The dependencies, each as (where it is declared, what it asks for);
            where is "dependencies", "optional-dependencies.NAME" or
            "dev-dependencies.NAME".
        files: File name of each wheel and source archive -> its hash.
    """

    edges: frozenset[tuple[str, str]]
    files: dict[str, str]


def file_name(entry: dict[str, Any]) -> str:
    """Name of a locked file, whether its entry holds an address or a path."""
    location: str = entry["url"] if "url" in entry else entry["path"]
    return unquote(PurePosixPath(urlsplit(location).path).name)


def read_lock(text: str) -> dict[tuple[str, str], LockedPackage]:
    """Read the packages of a lock file, keyed by (name, version).

    A workspace member without a version of its own has version "".

    Raises:
        LockError: The text is no lock file, or a file in it has no hash.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise LockError(f"uv.lock is not valid TOML ({error}); run `uv run nox -s lock`") from error
    return {
        (package["name"], package.get("version", "")): LockedPackage(
            frozenset(_edges(package)), _files(package)
        )
        for package in document.get("package", [])
    }


def differences(committed: str, completed: str) -> list[str]:
    """Compare two lock files by versions, dependencies and hashes.

    Files that only one of them lists are no difference: an index may have gained
    a wheel for a new Python, and a mirror may lack one. But every package with
    files must have one in common, or nothing would have been compared.

    Returns:
        One line per difference; empty when the two lock the same things.
    """
    old, new = read_lock(committed), read_lock(completed)
    found = [f"{n} {v}: only in the committed lock" for n, v in sorted(old.keys() - new.keys())]
    found += [f"{n} {v}: only in the completed lock" for n, v in sorted(new.keys() - old.keys())]
    for name, version in sorted(old.keys() & new.keys()):
        was, now = old[name, version], new[name, version]
        for where, what in sorted(was.edges ^ now.edges):
            side = "committed" if (where, what) in was.edges else "completed"
            found.append(f"{name} {version}: {where} has {what} only in the {side} lock")
        common = was.files.keys() & now.files.keys()
        if was.files and not common:
            found.append(f"{name} {version}: no file in common")
        found += [
            f"{name} {version}: {file} is committed with {was.files[file]}"
            f" but completed with {now.files[file]}"
            for file in sorted(common)
            if was.files[file] != now.files[file]
        ]
    return found


def _edges(package: dict[str, Any]) -> Iterator[tuple[str, str]]:
    groups = {"dependencies": package.get("dependencies", [])}
    for table in ("optional-dependencies", "dev-dependencies"):
        for name, entries in package.get(table, {}).items():
            groups[f"{table}.{name}"] = entries
    for where, entries in groups.items():
        for entry in entries:
            # Everything but the address: name, version, extras, marker.
            wanted = {key: value for key, value in entry.items() if key != "source"}
            if "marker" in wanted:
                wanted["marker"] = _plain_marker(wanted["marker"])
            yield where, ", ".join(f"{key}={wanted[key]}" for key in sorted(wanted))


def _plain_marker(marker: str) -> str:
    """A marker as alternatives of conditions: releases of uv differ in their parentheses."""
    words = re.findall(r"[()]|\b(?:and|or)\b|(?:'[^']*'|(?!\band\b|\bor\b)[^()'])+", marker)
    words = [word.strip() for word in words if word.strip()]

    def alternatives() -> set[frozenset[str]]:
        found = conditions()
        while words and words[0] == "or":
            words.pop(0)
            found |= conditions()
        return found

    def conditions() -> set[frozenset[str]]:
        found = one()
        while words and words[0] == "and":
            words.pop(0)
            more = one()
            found = {a | b for a in found for b in more}
        return found

    def one() -> set[frozenset[str]]:
        word = words.pop(0)
        if word != "(":
            return {frozenset([word])}
        found = alternatives()
        words.pop(0)
        return found

    found = alternatives()
    # An alternative that asks for more than another one adds nothing.
    least = [own for own in found if not any(other < own for other in found)]
    return " or ".join(sorted(" and ".join(sorted(own)) for own in least))


def _files(package: dict[str, Any]) -> dict[str, str]:
    entries = list(package.get("wheels", []))
    if "sdist" in package:
        entries.append(package["sdist"])
    files: dict[str, str] = {}
    for entry in entries:
        if "hash" not in entry:
            raise LockError(
                f"{file_name(entry)} has no hash in uv.lock; lock from an index that gives hashes"
            )
        files[file_name(entry)] = entry["hash"]
    return files
