"""Runs of a preparation, each but the last ended by SIGKILL at a given point.

Reads a line of JSON for each job, with a list `preparations`, each with `options` for
`PrepareOptions` and `kills`, a list of `[point, count, processes]`: a run ends when it comes to the
point for the count-th time. A last run completes. A job has `environment`, `folder` (to work in),
`log` and `unit_bytes` as well. Runs are forks of one process that has imported everything; it
adopts the processes that they leave and waits until these are gone. Answers with a line of JSON:
for each run the point and how many units it made, or what went wrong.
"""

import ctypes
import gc
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

# Imported once for all runs: what a preparation loads when it needs it.
import streaming.base.compression  # noqa: F401
from transformers import AutoTokenizer  # noqa: F401

import mosaic_prepare.shards  # noqa: F401
from mosaic_prepare import PrepareOptions, engines, output, prepare, run

_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER


def main() -> None:
    """Serve jobs until the input ends."""
    answers = os.dup(1)
    # Else a collection in a run would look at, and so copy, all that is imported.
    gc.freeze()
    ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)
    for line in sys.stdin:
        try:
            found: Any = list(_runs(json.loads(line)))
        except BaseException:
            found = traceback.format_exc()
        os.write(answers, json.dumps(found).encode() + b"\n")


def _runs(job: dict[str, Any]) -> Iterator[tuple[str | None, int]]:
    run.bytes_of_unit = lambda total: job["unit_bytes"]
    os.environ.clear()
    os.environ.update(job["environment"])
    os.chdir(job["folder"])
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for one in job["preparations"]:
        for point, count, processes in [*one["kills"], [None, 0, 1]]:
            reading, writing = os.pipe()
            status = _run_once(one["options"], point, count, processes, writing)
            os.close(writing)
            with os.fdopen(reading) as made:
                yield point, len(made.read())
            code = os.waitstatus_to_exitcode(status)
            assert code == (0 if point is None else -signal.SIGKILL), f"{point}: {code}"


def _run_once(
    options: dict[str, Any], point: str | None, count: int, processes: int, made: int
) -> int:
    child = os.fork()
    if not child:
        try:
            _count_units(made)
            if point is not None:
                _die_at(point, count)
            prepare(PrepareOptions(**options, processes=processes))
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    while True:
        # Workers whose parent was killed; they must end by themselves.
        try:
            os.wait()
        except ChildProcessError:
            return status


def _count_units(made: int) -> None:
    for name in ("run_in_processes", "run_on_ray"):
        real = getattr(engines, name)

        def counted(*arguments: Any, _real: Any = real) -> Any:
            for done in _real(*arguments):
                os.write(made, b".")
                yield done

        setattr(run, name, counted)


def _die_at(point: str, count: int) -> None:
    left = count

    def now(*_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str, *, before: bool = False, needs: str = "") -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def then_die(*arguments: Any, **keywords: Any) -> Any:
            matches = any(needs in str(argument) for argument in arguments)
            if before and matches:
                now()
            answer = real(*arguments, **keywords)
            if not before and matches:
                now()
            return answer

        setattr(owner, name, then_die)

    if point == "shards are there":
        # The shards of a unit are in their place, its note is not.
        around(os, "replace", before=True, needs="unit-")
    elif point == "note is there":
        around(os, "replace", needs="unit-")
    elif point == "unit is done":
        for kind in (output.LocalOutput, output.RemoteOutput):
            around(kind, "_put", needs="unit-")
    elif point == "uploading":
        from streaming.base.storage.upload import S3Uploader

        around(S3Uploader, "upload_file")
    elif point == "indexes are there":
        around(output, "write_text", needs="manifest.json")
    elif point == "renamed":
        # The data set has appeared, and what it was made with is still in it.
        around(shutil, "rmtree", before=True, needs=".prepare")
    elif point == "a worker gives a result":
        around(run, "_name_rejected", before=True)
    else:
        raise ValueError(point)
