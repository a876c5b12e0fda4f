"""A server that is a fork of the test process, and so has what that has imported.

All conftests import it by this one name: the servers of a test process then know of one another.
"""

import importlib
import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

TESTS = Path(__file__).resolve().parent
#: What pytest alone has among the import paths.
_PYTESTS_OWN = (TESTS, TESTS.parent)


#: The servers that this session's tests ask for, by fixture.
SERVERS: "dict[str, Warm | subprocess.Popen[bytes]]" = {}


def start_if_wanted(
    session: Any, fixture: str, module: str, env: Mapping[str, str], *imports: str
) -> None:
    """Start a fixture's server if a test of a session asks for the fixture.

    Args:
        session: pytest's session, of which no test has begun.
        fixture: The fixture, under whose name the server stands in `SERVERS`.
        module: See `start_server`, like the environment.
        env: Its environment.
        imports: Modules to import first: the server has them, and those of other folders too.
    """
    if any(fixture in getattr(item, "fixturenames", ()) for item in session.items):
        for name in imports:
            importlib.import_module(name)
        SERVERS[fixture] = start_server(module, dict(env))


def start_server(module: str, env: dict[str, str]) -> "Warm | subprocess.Popen[bytes]":
    """Start a server; as a fork unless there is a GPU, to which what is imported here is bound.

    Args:
        module: Its `main` serves what comes on stdin, and answers on stdout.
        env: Its environment; PYTHONPATH in it comes first among its import paths.
    """
    import torch

    if not torch.accelerator.is_available():
        return Warm(module, env)
    paths = os.pathsep.join(filter(None, [env.get("PYTHONPATH"), *sys.path]))
    return subprocess.Popen(
        [sys.executable, "-c", f"from {module} import main; main()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env | {"PYTHONPATH": paths},
        start_new_session=True,
    )


class Warm:
    """A fork of this process, which has imported all that its tests import.

    A new interpreter would take ten seconds to import the same. It has to be forked before the
    first test: a fork has none of the threads that tests start, and in a fork of a process that has
    computed gradients autograd refuses to work. It imports what it needs beyond that when it is
    first asked for something. As a `subprocess.Popen` it has `pid`, `stdin`, `stdout` and `wait`.
    """

    #: This process's ends of the pipes to those that were forked before.
    _ends: tuple[IO[bytes], ...] = ()

    def __init__(self, module: str, env: dict[str, str]) -> None:
        (stdin, requests), (answers, stdout) = os.pipe(), os.pipe()
        self.stdin, self.stdout = os.fdopen(requests, "wb"), os.fdopen(answers, "rb", buffering=0)
        # Shown if it fails; libraries' remarks, too, would be among what pytest prints.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.pid = os.fork()
        if not self.pid:
            for end in (*Warm._ends, self.stdin, self.stdout):
                os.close(end.fileno())
            os.dup2(stdin, 0)
            os.dup2(stdout, 1)
            os.dup2(self._errors.fileno(), 2)
            self._serve(module, env)
        os.close(stdin)
        os.close(stdout)
        Warm._ends += (self.stdin, self.stdout)

    @staticmethod
    def _serve(module: str, env: dict[str, str]) -> NoReturn:
        """In the fork: be as a new interpreter is."""
        try:
            os.setsid()
            sys.stdin, sys.stdout = (
                open(fd, mode, closefd=False)  # noqa: SIM115
                for fd, mode in ((0, "r"), (1, "w"))
            )
            sys.unraisablehook = sys.__unraisablehook__
            threading.excepthook = threading.__excepthook__
            logging.getLogger().handlers.clear()
            os.environ.clear()
            os.environ.update(env)
            own = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
            rest = [path for path in sys.path if Path(path) not in _PYTESTS_OWN]
            sys.path[:] = [*own, *(path for path in rest if path not in own)]
            asked = select.poll()
            asked.register(0, select.POLLIN)
            if asked.poll()[0][1] & select.POLLIN:
                importlib.import_module(module).main()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)

    def wait(self, timeout: float) -> int:
        """Its exit code; after so many seconds it and all that it started are killed."""
        end = time.monotonic() + timeout
        while not (found := os.waitpid(self.pid, os.WNOHANG))[0]:
            if time.monotonic() > end:
                os.killpg(self.pid, signal.SIGKILL)
                found = os.waitpid(self.pid, 0)
                break
            time.sleep(0.01)
        code = os.waitstatus_to_exitcode(found[1])
        if code > 0:
            self._errors.seek(0)
            sys.stderr.write(self._errors.read().decode(errors="replace")[-3000:])
        return code
