"""A TCP proxy on loopback with latency, a bandwidth, and faults that strike when they are told to.

It knows nothing of the protocol but this: what a client sends is a request. Latency delays what the
client sends; the bandwidth is shared by all connections and limits what they are sent.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass

_CHUNK = 1 << 16


@dataclass
class Fault:
    """What happens to requests.

    Attributes:
        kind: ``status`` (answered by the proxy with an HTTP error), ``stall`` (nothing more
            arrives), ``reset`` (the connection is reset), ``close`` (it ends in good order),
            ``flip`` (one byte is another).
        match: Requests that it strikes: those with these bytes in what the client sends at once.
        times: How many of them; None for all.
        after: Bytes of the answer that arrive before.
        status: For ``status``.
    """

    kind: str
    match: bytes = b""
    times: int | None = None
    after: int = 0
    status: int = 500
    struck: int = 0

    def strikes(self, request: bytes) -> bool:
        """Whether it strikes this request; counts it."""
        if self.match not in request or (self.times is not None and self.struck >= self.times):
            return False
        self.struck += 1
        return True


class Proxy:
    """A proxy in a thread of its own.

    Args:
        upstream: Port on loopback that it stands before.
        latency: Seconds from a request to the moment at which it arrives.
        bandwidth: Bytes a second; None for no limit.

    Attributes:
        port: Where it listens.
        upstream: What it stands before.
        fault: What happens at present; None for nothing.
        requests: First line of each that it passed on or struck.
        busy: Most connections open at a time.
    """

    def __init__(self, upstream: int, latency: float = 0.0, bandwidth: float | None = None):
        self.latency = latency
        self.bandwidth = bandwidth
        self.fault: Fault | None = None
        self.requests: list[bytes] = []
        self.open = self.busy = 0
        self.sent = 0
        self.upstream = upstream
        self._free_at = 0.0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started.set,), daemon=True)
        self._thread.start()
        started.wait()

    def close(self) -> None:
        """Stop listening and drop all connections."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self, ready: Callable[[], None]) -> None:
        asyncio.set_event_loop(self._loop)
        # What clients do to their connections is not an error here.
        self._loop.set_exception_handler(lambda loop, context: None)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, limit=4 * _CHUNK)
        )
        self.port = server.sockets[0].getsockname()[1]
        ready()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.busy = max(self.busy, self.open)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        connection = _Connection(self, reader, writer, up_reader, up_writer)
        try:
            await connection.run()
        finally:
            self.open -= 1
            up_writer.close()
            writer.close()

    async def pay(self, size: int) -> None:
        """Wait until ``size`` bytes more fit through."""
        self.sent += size
        if self.bandwidth is None:
            return
        now = self._loop.time()
        self._free_at = max(now, self._free_at) + size / self.bandwidth
        await asyncio.sleep(self._free_at - now)


class _Connection:
    def __init__(
        self,
        proxy: Proxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        up_reader: asyncio.StreamReader,
        up_writer: asyncio.StreamWriter,
    ):
        self._proxy = proxy
        self._reader, self._writer = reader, writer
        self._up_reader, self._up_writer = up_reader, up_writer
        self._fault: Fault | None = None
        self._answered = 0

    async def run(self) -> None:
        tasks = [asyncio.ensure_future(self._ask()), asyncio.ensure_future(self._answer())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delayed = asyncio.ensure_future(self._deliver(on_the_way))
        loop = asyncio.get_running_loop()
        try:
            while data := await self._reader.read(_CHUNK):
                self._proxy.requests.append(data.partition(b"\r\n")[0])
                fault = self._proxy.fault
                if fault and fault.strikes(data):
                    if fault.kind == "status":
                        await asyncio.sleep(self._proxy.latency)
                        self._refuse(fault.status)
                        await self._writer.drain()
                        return
                    self._fault, self._answered = fault, 0
                on_the_way.put_nowait((loop.time() + self._proxy.latency, data))
        finally:
            delayed.cancel()

    async def _deliver(self, on_the_way: "asyncio.Queue[tuple[float, bytes]]") -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(due - asyncio.get_running_loop().time())
            self._up_writer.write(data)
            await self._up_writer.drain()

    async def _answer(self) -> None:
        while data := await self._up_reader.read(_CHUNK):
            await self._proxy.pay(len(data))
            fault = self._fault
            if fault and self._answered + len(data) > fault.after:
                keep = max(0, fault.after - self._answered)
                if fault.kind == "flip":
                    data = data[:keep] + bytes([data[keep] ^ 1]) + data[keep + 1 :]
                    self._fault = None
                else:
                    self._writer.write(data[:keep])
                    await self._writer.drain()
                    await self._break_off(fault.kind)
                    return
            self._answered += len(data)
            self._writer.write(data)
            await self._writer.drain()

    async def _break_off(self, kind: str) -> None:
        if kind == "stall":
            await asyncio.sleep(3600)
        elif kind == "reset":
            # Linger for no time: the kernel sends a reset instead of an orderly end.
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()

    def _refuse(self, status: int) -> None:
        codes = {403: "AccessDenied", 404: "NoSuchKey", 500: "InternalError", 503: "SlowDown"}
        body = f"<Error><Code>{codes[status]}</Code><Message>as asked</Message></Error>".encode()
        head = (
            f"HTTP/1.1 {status} Fault\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
