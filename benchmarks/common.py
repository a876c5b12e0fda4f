"""What all benchmarks share: rounds that take turns, medians, tables, and where they ran."""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "torch",
    "numpy",
    "mosaicml-streaming",
    "torchtitan",
    "transformers",
    "tokenizers",
    "litdata",
    "grain",
    "ai2-olmo-core",
    "datatrove",
    "ray",
)


def arguments(description: str | None, rounds: int = 5) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds; medians are reported")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("/tmp/mosaic-benchmarks"),
        help="where data sets are kept from run to run",
    )
    return parser


def interleaved(
    contenders: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, list[float]]:
    """Measure every contender once a round, each round beginning with another one.

    On a machine that others use too, what disturbs one round then disturbs all contenders alike.
    """
    names = list(contenders)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            figures[name].append(contenders[name]())
        progress(f"round {number + 1} of {rounds}")
    return figures


def median(figures: Sequence[float]) -> float:
    return statistics.median(figures)


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the rounds of the ratio within a round; steadier than the medians' ratio."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def verdict(value: float, target: float, *, at_most: bool = False) -> str:
    """`met` or `MISSED`, with the target."""
    met = value <= target if at_most else value >= target
    return f"{'≤' if at_most else '≥'} {target:g}: {'met' if met else 'MISSED'}"


def in_child(benchmark: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """What a benchmark prints for `--child TASK`, in a process whose memory is its own."""
    command = [sys.executable, "-m", f"benchmarks.{benchmark}", "--child", json.dumps(task)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def memory(field: str, process: int | str = "self") -> int:
    """Bytes of a process, by a field of its status such as `VmHWM` (the most it has had)."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {process} has no {field}")


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        "versions": versions,
    }


def describe(where: Mapping[str, Any]) -> str:
    """One paragraph about the machine."""
    versions = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    return (
        f"{where['processor']}, {where['cores']} cores, {where['memory_gib']} GiB, "
        f"{where['system']}, Python {where['python']}, load {where['load']} at the start; "
        f"{versions}"
    )


def report(
    given: argparse.Namespace,
    name: str,
    title: str,
    intro: str,
    parts: Sequence[str],
    figures: Mapping[str, Any],
    where: Mapping[str, Any],
) -> None:
    """Print a result, and write its figures where `--json` says.

    Args:
        given: The command line.
        name: Of the benchmark.
        title: Of its section.
        intro: What was measured; where it was follows.
        parts: Tables, and paragraphs about them.
        figures: All that was measured.
        where: The `machine`.
    """
    text = "\n\n".join([f"## {title}", f"{intro}\n{describe(where)}", *parts])
    print(text)
    if given.json:
        given.json.write_text(
            json.dumps({"name": name, "machine": where, "text": text, **figures}, indent=1) + "\n"
        )


def progress(text: str) -> None:
    """Say how far it is, where that disturbs no table."""
    print(text, file=sys.stderr, flush=True)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
