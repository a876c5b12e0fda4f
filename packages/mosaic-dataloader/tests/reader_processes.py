"""Readers, each a process of its own, started from one that has imported everything."""

import contextlib
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Job:
    """A reader process; see slow_reader.py."""

    def __init__(self, pid: int, out: Path):
        self.pid = pid
        self.out = out

    def alive(self) -> bool:
        return os.path.exists(f"/proc/{self.pid}")

    def wait_for(self, line: str) -> None:
        while f"{line}\n" not in self.out.read_text():
            assert self.alive(), self.out.read_text()
            time.sleep(0.01)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def join(self) -> list[int]:
        """Wait for its end; the rows that it got."""
        while self.alive():
            time.sleep(0.01)
        whole = self.out.read_text()
        lines = whole[: whole.rfind("\n") + 1].splitlines()
        return [int(n) for line in lines if line[:1].isdigit() for n in line.split()]

    def error(self) -> str:
        """Wait for its end by an error; that error's line."""
        self.join()
        line = self.out.read_text().splitlines()[-1]
        assert line.startswith("error: "), self.out.read_text()
        return line

    def finish(self) -> list[int]:
        """The same, for a process that nobody kills."""
        rows = self.join()
        assert self.out.read_text().endswith("done\n")
        return rows


@contextmanager
def readers(server: Any, outputs: Path) -> Iterator[Callable[..., Job]]:
    """Starts readers; what they print goes to files in a folder."""
    number = itertools.count()

    def begin(**job: Any) -> Job:
        out = outputs / str(next(number))
        out.touch()
        told = {k: str(v) if isinstance(v, Path) else v for k, v in job.items()}
        server.stdin.write(json.dumps({**told, "out": str(out)}).encode() + b"\n")
        server.stdin.flush()
        return Job(int(server.stdout.readline()), out)

    yield begin
    server.stdin.close()
    server.wait(30)
