"""Preparing in several lives, each but the last ended by SIGKILL at a given point.

`python prepare_lives.py JSON`, with a list of `runs`, each with `options` for `PrepareOptions` and
`lives`, a list of `[point, count, processes]`: the life ends when it comes to the point for the
count-th time. A last life runs to its end. `block_bytes` and `seconds_between_notes` hold for all.
Lives are forks of one process that has imported everything; it adopts what they leave behind and
waits until that is gone.
"""

import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

# Imported once for all lives: what a preparation loads when it needs it.
import pyarrow.parquet  # noqa: F401
import streaming.base.compression  # noqa: F401
from transformers import AutoTokenizer  # noqa: F401

from mosaic_dataloader.prepare import PrepareOptions, journal, prepare, remote, targets
from mosaic_dataloader.prepare.corpus import jsonl, parquet, text

_ADOPT_ORPHANS = 36  # PR_SET_CHILD_SUBREAPER


def main(job: dict[str, Any]) -> None:
    for module in (jsonl, parquet, text):
        vars(module)["BLOCK_BYTES"] = job["block_bytes"]
    targets._SECONDS_BETWEEN_NOTES = job.get("seconds_between_notes", 30.0)
    ctypes.CDLL(None).prctl(_ADOPT_ORPHANS, 1, 0, 0, 0)
    for run in job["runs"]:
        for point, count, processes in [*run["lives"], [None, 0, 1]]:
            status = _live(run["options"], point, count, processes)
            code = os.waitstatus_to_exitcode(status)
            print(point, count, code, flush=True)
            assert code == (0 if point is None else -signal.SIGKILL), f"{point}: {code}"


def _live(options: dict[str, Any], point: str | None, count: int, processes: int) -> int:
    child = os.fork()
    if not child:
        try:
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


def _die_at(point: str, count: int) -> None:
    left = count

    def now(*_: Any) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    def after(owner: Any, name: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def then_die(*arguments: Any, **keywords: Any) -> Any:
            answer = real(*arguments, **keywords)
            now()
            return answer

        setattr(owner, name, then_die)

    if point == "saving":
        # The file is there under its temporary name.
        real = os.replace
        os.replace = lambda a, b: (now() if ".mds" in str(a) else None, real(a, b))  # type: ignore
    elif point == "saved":
        after(targets.LocalTarget, "save")
        after(remote.RemoteStore, "save")
    elif point == "noted":
        after(journal.Journal, "append")
    elif point == "noting":

        def half(file: Any, *lines: Any) -> None:
            nonlocal left
            data = "".join(json.dumps(line) + "\n" for line in lines)
            left -= 1
            file.write(data if left else data[: len(data) // 2])
            file.flush()
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

        journal._write = half
    elif point == "forgotten":
        # All is there; the journal is removed, and the directory not yet renamed.
        after(journal.Journal, "remove")
    else:
        raise ValueError(point)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
