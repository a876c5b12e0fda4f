"""Break one line at a time and see that a test notices.

Each entry of `tools/mutants/*.toml` names a file, a text that occurs in it exactly once, what to
put in its place, and the tests of which at least one must then fail::

    [[mutant]]
    why = "what the line protects"
    file = "packages/NAME/src/..."
    find = "exact source text"
    replace = "the broken text"
    tests = ["packages/NAME/tests/test_x.py::test_y"]

The files are broken in copies of the repository, never in the working tree.

    python tools/run_mutants.py [--jobs N] [WORD ...]    # only those with a WORD in file or reason
"""

import argparse
import os
import queue
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A mutant may make a test hang; that counts as noticed.
TIMEOUT_SECONDS = 180


@dataclass(frozen=True)
class Mutant:
    """One change of one text in one file, and the tests that should notice it."""

    why: str
    file: str
    find: str
    replace: str
    tests: tuple[str, ...]


def load_mutants(folder: Path) -> list[Mutant]:
    """Read every entry of a folder's TOML files.

    Raises:
        ValueError: An entry lacks a key or has one too many, or has no tests.
    """
    mutants = []
    for path in sorted(folder.glob("*.toml")):
        for number, entry in enumerate(tomllib.loads(path.read_text())["mutant"], start=1):
            if set(entry) != {"why", "file", "find", "replace", "tests"} or not entry["tests"]:
                raise ValueError(
                    f"{path.name}, entry {number}: needs why, file, find, replace and tests"
                )
            mutants.append(Mutant(**{**entry, "tests": tuple(entry["tests"])}))
    return mutants


def mutated(mutant: Mutant, source: str) -> str:
    """The source with the mutant's change.

    Raises:
        ValueError: The text does not occur exactly once, or the change changes nothing.
    """
    if (count := source.count(mutant.find)) != 1:
        raise ValueError(f"{mutant.file} has {count} times: {mutant.find!r}")
    if mutant.find == mutant.replace:
        raise ValueError(f"{mutant.file}: find and replace are equal: {mutant.find!r}")
    return source.replace(mutant.find, mutant.replace)


def copy_repository(to: Path) -> None:
    """Copy what git tracks, as it stands in the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes((ROOT / name).read_bytes())


def run_tests(repository: Path, tests: tuple[str, ...]) -> tuple[int, str]:
    """Run tests in a copy; pytest's exit status and the end of what it printed."""
    sources = [str(path) for path in sorted(repository.glob("packages/*/src"))]
    environment = {
        **os.environ,
        # In front of the installed packages, which are the working tree's.
        "PYTHONPATH": os.pathsep.join(sources),
        # A source changed twice within a second would be taken for its compiled form.
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [
        *(sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"),
        "--show-capture=no",
        *("--timeout", str(TIMEOUT_SECONDS), *tests),
    ]
    # No pipe: processes that a mutant keeps from ending would hold it open.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=repository,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        status = process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        return status, "\n".join(output.read().splitlines()[-40:])


@contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    """A file's text, changed within the context."""
    before = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


def try_mutant(mutant: Mutant, repository: Path) -> tuple[bool, str]:
    """Whether a test noticed, and a word on how."""
    path = repository / mutant.file
    try:
        text = mutated(mutant, path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return False, f"cannot be applied: {error}"
    began = time.monotonic()
    with changed(path, text):
        status, output = run_tests(repository, mutant.tests)
    seconds = f"{time.monotonic() - began:.0f} s"
    if status == 1:
        return True, f"noticed, {seconds}"
    if status == 0:
        return False, f"SURVIVED, {seconds}"
    return False, f"pytest could not run (status {status}):\n{output}"


def main() -> int:
    """Try all mutants, print a line for each, and return 1 if one was not noticed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only mutants whose file or reason has one")
    parser.add_argument("--jobs", type=int, default=max(1, min(os.cpu_count() or 1, 8)))
    arguments = parser.parse_args()
    mutants = [
        mutant
        for mutant in load_mutants(ROOT / "tools" / "mutants")
        if not arguments.words or any(w in mutant.file + mutant.why for w in arguments.words)
    ]
    if not mutants:
        print("no mutant has one of these words", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        copies: queue.Queue[Path] = queue.Queue()
        for number in range(arguments.jobs):
            copy = Path(folder, str(number))
            copy_repository(copy)
            copies.put(copy)
        # A test that fails anyway would notice everything.
        # By module, so that what a module's tests share is made once.
        tests = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
        status, output = run_tests(Path(folder, "0"), tests)
        if status:
            print(f"the tests fail without any change:\n{output}", file=sys.stderr)
            return 1

        def one(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                noticed, how = try_mutant(mutant, copy)
            finally:
                copies.put(copy)
            print(f"{mutant.file}: {mutant.why}: {how}", flush=True)
            return noticed

        with ThreadPoolExecutor(arguments.jobs) as pool:
            noticed = list(pool.map(one, mutants))
    print(f"{sum(noticed)} of {len(mutants)} mutants were noticed")
    return int(not all(noticed))


if __name__ == "__main__":
    sys.exit(main())
