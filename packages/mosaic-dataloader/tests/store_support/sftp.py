"""An SFTP store: an OpenSSH server of this test's own on loopback, with keys of its own."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from store_support.s3 import free_port


@dataclass(frozen=True)
class SftpServer:
    """A running server.

    Attributes:
        port: Where it listens.
        environment: What mosaicml-streaming finds key and known hosts by.
        keys: Folder of the keys: ``user``, ``stranger`` (not admitted), ``known_hosts``.
    """

    port: int
    environment: dict[str, str]
    keys: Path

    def address(self, folder: Path, *, user: str = "", port: int | None = None) -> str:
        """Where a folder is to be found."""
        return f"sftp://{user or getpass.getuser()}@127.0.0.1:{port or self.port}{folder}"

    def know(self, port: int) -> None:
        """Let clients know the server by another port, such as a proxy's."""
        host = (self.keys / "host.pub").read_text()
        with open(self.keys / "known_hosts", "a") as known:
            known.write(f"[127.0.0.1]:{port} {host}")


def server_program() -> str | None:
    """The OpenSSH server, which wants to be called by its whole path."""
    path = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
    return shutil.which("sshd", path=path)


@contextmanager
def sftp_server(keys: Path) -> Iterator[SftpServer]:
    """A running server; its keys go into an empty folder."""
    program = server_program()
    assert program is not None
    for name in ("host", "user", "stranger"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)]
        subprocess.run(command, check=True)
    if os.getuid() == 0:
        # Where root's servers give up their rights; a service manager would make it.
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    port = free_port()
    config = keys / "config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys / 'host'}\nPidFile none\n"
        f"AuthorizedKeysFile {keys / 'user.pub'}\nStrictModes no\nUsePAM no\n"
        f"PasswordAuthentication yes\nPermitRootLogin yes\nSubsystem sftp internal-sftp\n"
    )
    server = subprocess.Popen(
        [program, "-D", "-e", "-f", str(config)], stderr=(keys / "log").open("w")
    )
    try:
        _wait(server, port, keys / "log")
        environment = {
            "COMPOSER_SFTP_KEY_FILE": str(keys / "user"),
            "COMPOSER_SFTP_KNOWN_HOSTS_FILE": str(keys / "known_hosts"),
        }
        running = SftpServer(port, environment, keys)
        running.know(port)
        yield running
    finally:
        server.kill()
        server.wait()


def _wait(server: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"the SFTP server ended: {log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError("the SFTP server did not start within half a minute")
