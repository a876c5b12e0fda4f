"""Run benchmarks by name: `uv run nox -s bench -- hot text`, all of them without a name."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import progress
from benchmarks.plot import draw

HERE = Path(__file__).resolve().parent
# In this order. To add one, write a module with `main(arguments)` that takes `common.arguments`'
# options and calls `common.report`.
BENCHMARKS = ("hot", "text", "boundary", "depth", "remote", "prepare", "lean", "train", "scale")
# Only by its name (`nox -s bench_gpu`): it takes one GPU.
ON_GPU = "gpu"


def main() -> int:
    known = {name: _headline(name) for name in (*BENCHMARKS, ON_GPU)}
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=_first_line(__doc__))
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--list", action="store_true", help="list the benchmarks and stop")
    parser.add_argument("--rounds", type=int, help="rounds of each; by default its own number")
    parser.add_argument("--work", type=Path, help="where data sets are kept from run to run")
    parser.add_argument(
        "--json", type=Path, default=HERE / "results.json", help="where all figures go"
    )
    parser.add_argument("--plot", type=Path, default=HERE / "results.svg", help="SVG or PNG")
    given = parser.parse_args()
    if given.list:
        print("\n".join(f"{name:10s} {headline}" for name, headline in known.items()))
        return 0
    unknown = sorted(set(given.names) - set(known))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}")
    options = []
    for name in ("rounds", "work"):
        if getattr(given, name) is not None:
            options += [f"--{name}", str(getattr(given, name))]
    # What was measured before stays, so that a single one can be repeated.
    results = json.loads(given.json.read_text()) if given.json.exists() else {}
    failed = []
    for name in given.names or [name for name in known if name != ON_GPU]:
        found = _run(name, options)
        if found is None:
            failed.append(name)
            continue
        results[name] = found
        given.json.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    draw(results, given.plot)
    if failed:
        progress(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _run(name: str, options: list[str]) -> dict[str, Any] | None:
    """A benchmark in a process of its own: none finds another's imports, caches or threads."""
    progress(f"benchmark {name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figures.json")
        command = [sys.executable, "-m", f"benchmarks.{name}", "--json", str(path), *options]
        code = subprocess.run(command, cwd=HERE.parent, check=False).returncode
        if code or not path.exists():
            progress(f"benchmark {name} ended with {code}")
            return None
        print(flush=True)
        found: dict[str, Any] = json.loads(path.read_text())
        return found


def _headline(name: str) -> str:
    """The first line of a module's docstring, without importing it and all that it measures."""
    text = (HERE / f"{name}.py").read_text(encoding="utf-8")
    return _first_line(text.partition('"""')[2])


def _first_line(text: str | None) -> str:
    return (text or "").partition("\n")[0].removesuffix('"""')


if __name__ == "__main__":
    sys.exit(main())
