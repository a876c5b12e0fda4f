"""The tests' side of `fork_server`."""

import json
import os
import select
import subprocess
from pathlib import Path
from typing import Any

from warm import Warm


class ForkServer:
    """Launchers of the app and torchruns, as forks of one process; see `fork_server`.

    Args:
        process: That process.
    """

    def __init__(self, process: "Warm | subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process, self._requests, self._answers = process, process.stdin, process.stdout
        self._started: list[int] = []
        self._unread = b""
        #: Exit codes of those that have ended, by process id.
        self.codes: dict[int, int] = {}

    @property
    def pid(self) -> int:
        """Its process id, and that of its session."""
        return self._process.pid

    def start(self, arguments: list[str], log: Path, **request: Any) -> int:
        """Fork one; its process id.

        Args:
            arguments: Of its command line.
            log: For what it prints.
            **request: What else `fork_server` knows.
        """
        request = {"arguments": arguments, "log": str(log), "env": {}, **request}
        self._requests.write(json.dumps(request).encode() + b"\n")
        self._requests.flush()
        while not self._started:
            self.listen(60)
        pid = self._started.pop()
        self.codes.pop(pid, None)
        return pid

    def listen(self, seconds: float) -> None:
        """Note which have ended, once one does or that much time is over."""
        if not select.select([self._answers], [], [], seconds)[0]:
            return
        data = os.read(self._answers.fileno(), 65536)
        assert data, f"the fork server ended with code {self._process.wait(10)}"
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            word, pid, *code = line.decode().split()
            if word == "started":
                self._started.append(int(pid))
            else:
                self.codes[int(pid)] = int(code[0])

    def wait(self, pid: int) -> int:
        """Wait for the end of one; its exit code."""
        while pid not in self.codes:
            self.listen(60)
        return self.codes[pid]

    def processes(self) -> list[int]:
        """What still runs of all that it forked: none of them leaves its session."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            state, session, pid = fields[0], int(fields[3]), int(path.name)
            if session == self.pid != pid and state != "Z":
                found.append(pid)
        return found

    def close(self) -> None:
        """End it, and whatever still runs in it."""
        self._requests.close()
        self._process.wait(30)
