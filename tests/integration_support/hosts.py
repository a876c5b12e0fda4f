"""Several hosts on one machine: network namespaces joined by a bridge, where they can be made.

Elsewhere (no root, no `ip`) hosts are groups of processes on loopback, apart only by their folders.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration_support.client import APP
from integration_support.fork_client import ForkServer
from integration_support.ledger import LEDGER
from integration_support.server import free_port

NAME = re.compile(r"mosaic-(\d+)-\w+")
INTERFACE = "eth0"


@dataclass(frozen=True)
class Host:
    """A host of its own.

    Attributes:
        number: From 0.
        address: Where the other hosts reach it.
        namespace: Its network namespace; None: the machine's own.
        folder: Its disk.
    """

    number: int
    address: str
    namespace: str | None
    folder: Path

    @property
    def cache(self) -> Path:
        """Where it keeps shards."""
        return self.folder / "shards"

    def torchrun(self, first: "Host", port: int, hosts: int, ranks: int) -> list[str]:
        """Arguments of the torchrun that starts its ranks, as a user types them."""
        return [
            *("--nnodes", str(hosts), "--node-rank", str(self.number)),
            *("--nproc-per-node", str(ranks), "--max-restarts", "0"),
            *("--master-addr", first.address, "--master-port", str(port)),
            str(APP / "__main__.py"),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """What else its processes have in their environment."""
        # gloo looks the host's name up otherwise, and finds the machine's address.
        return {"GLOO_SOCKET_IFNAME": INTERFACE if self.namespace else "lo"}


class Job:
    """One run over several hosts; every rank writes to the ledger in `folder`."""

    def __init__(
        self,
        server: ForkServer,
        hosts: list[Host],
        ranks: int,
        folder: Path,
        options: dict[int, list[str]],
    ) -> None:
        port = free_port()
        self._server = server
        self._pids: list[int] = []
        self._folder = folder
        for host in hosts:
            arguments = host.torchrun(hosts[0], port, len(hosts), ranks) + options[host.number]
            request: dict[str, Any] = {"env": {LEDGER: str(folder)} | host.environment}
            if host.namespace is not None:
                request["namespace"] = host.namespace
            log = folder / f"host{host.number}.log"
            self._pids.append(server.start(arguments, log, torchrun=True, **request))

    def kill(self, number: int) -> None:
        """Kill all processes of one host, as a power cut does."""
        for pid in _with_descendants(self._pids[number]):
            os.kill(pid, signal.SIGKILL)

    def wait(self, seconds: float) -> list[int]:
        """The exit codes of the hosts' torchruns."""
        end = time.monotonic() + seconds
        while missing := [pid for pid in self._pids if pid not in self._server.codes]:
            assert time.monotonic() < end, f"{missing} still run\n{self.logs()}"
            self._server.listen(1)
        return [self._server.codes[pid] for pid in self._pids]

    def running(self) -> bool:
        self._server.listen(0)
        return not any(pid in self._server.codes for pid in self._pids)

    def logs(self) -> str:
        """The ends of all hosts' output."""
        logs = sorted(self._folder.glob("host*.log"))
        return "\n".join(f"--- {log.stem}\n{log.read_text()[-3000:]}" for log in logs)

    def close(self) -> None:
        """Leave nothing running."""
        for number, pid in enumerate(self._pids):
            if pid not in self._server.codes:
                self.kill(number)
        self.wait(30)


@contextmanager
def hosts(folder: Path, count: int) -> Iterator[list[Host]]:
    """So many hosts, each with a folder of its own; namespaces are removed in the end."""
    for number in range(count):
        (folder / f"disk{number}").mkdir(parents=True)
    prefix = f"mosaic-{os.getpid()}"
    if not _can_make_namespaces():
        yield [Host(n, "127.0.0.1", None, folder / f"disk{n}") for n in range(count)]
        return
    _sweep()
    try:
        # The switch is a namespace, too, so that nothing is left in the machine's own.
        switch = f"{prefix}-switch"
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        made = []
        for number in range(count):
            name, address = f"{prefix}-{number}", f"10.77.0.{number + 1}"
            _ip("netns", "add", name)
            _ip(
                *("-n", switch, "link", "add", f"port{number}", "type", "veth"),
                *("peer", "name", INTERFACE, "netns", name),
            )
            _ip("-n", switch, "link", "set", f"port{number}", "master", "bridge", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", INTERFACE)
            _ip("-n", name, "link", "set", INTERFACE, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            made.append(Host(number, address, name, folder / f"disk{number}"))
        yield made
    finally:
        for name in _namespaces():
            if name.startswith(f"{prefix}-"):
                _ip("netns", "delete", name)


def _can_make_namespaces() -> bool:
    if os.geteuid() or shutil.which("ip") is None:
        return False
    probe = f"mosaic-{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True).returncode:
        return False
    link = ["ip", "-n", probe, "link", "add", "bridge", "type", "bridge"]
    able = subprocess.run(link, capture_output=True).returncode == 0
    _ip("netns", "delete", probe)
    return able


def _sweep() -> None:
    """Remove what runs that were killed have left: their processes end by themselves."""
    for name in _namespaces():
        match = NAME.fullmatch(name)
        if match and not Path("/proc", match[1]).exists():
            _ip("netns", "delete", name)


def _namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in listed.stdout.splitlines() if line.strip()]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _with_descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found
