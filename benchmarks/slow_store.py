"""An S3 store of one folder, as slow as it is told to be: a process of its own.

It answers GET and HEAD for any bucket by the key's last part, each after a latency; what it sends
shares one bandwidth. That is all that reading needs, and leaves the processor to those who read.
"""

import argparse
import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CHUNK = 1 << 16


@contextmanager
def running(folder: Path, latency: float, bandwidth: float) -> Iterator[int]:
    """A store of a folder's files; its port on loopback."""
    command = [sys.executable, "-m", "benchmarks.slow_store", str(folder)]
    command += [str(latency), str(bandwidth)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


@dataclass
class Store:
    """What is served, and how slowly: seconds, bytes a second."""

    folder: Path
    latency: float
    bandwidth: float
    free_at: float = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(self.latency)
                await self._answer(head.decode("latin-1"), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        path = self.folder / Path(target.partition("?")[0]).name
        if not path.is_file():
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        size = path.stat().st_size
        begin, end = 0, size - 1
        asked = re.search(r"(?im)^range: bytes=(\d+)-(\d*)", head)
        if asked:
            begin, end = int(asked[1]), min(end, int(asked[2] or end))
        status = "206 Partial Content" if asked else "200 OK"
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Length: {end - begin + 1}",
            "Accept-Ranges: bytes",
            'ETag: "one"',
            "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT",
        ]
        if asked:
            lines.append(f"Content-Range: bytes {begin}-{end}/{size}")
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if method != "GET":
            return
        with path.open("rb") as file:
            file.seek(begin)
            left = end - begin + 1
            while left:
                chunk = file.read(min(_CHUNK, left))
                left -= len(chunk)
                await self._pay(len(chunk))
                writer.write(chunk)
                await writer.drain()

    async def _pay(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        # A timer that rang late is made up for, as long as it is not much.
        self.free_at = max(now - 0.01, self.free_at) + size / self.bandwidth
        if self.free_at > now:
            await asyncio.sleep(self.free_at - now)


async def _run(store: Store) -> None:
    server = await asyncio.start_server(store.serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("latency", type=float)
    parser.add_argument("bandwidth", type=float)
    asyncio.run(_run(Store(**vars(parser.parse_args()))))
