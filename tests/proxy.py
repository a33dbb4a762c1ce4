"""A proxy before an S3 server that makes a part of the requests fail, in ways that servers and networks do."""

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

FAULTS = ("unavailable", "busy", "error", "slow", "cut", "reset", "deaf")
"""503, 429 and 500; an answer half a second late; a body that ends early; a connection reset before the request was
done, and one reset after it was done, so that nobody is told."""
ANSWERS = {
    "unavailable": "503 Service Unavailable",
    "busy": "429 Too Many Requests",
    "error": "500 Internal Server Error",
}
SECONDS_LATE = 0.5


class Proxy:
    """Forwards to `upstream`; a share of the requests, seeded, meets one of `faults`."""

    def __init__(self, upstream: str, share: float, seed: int, faults: tuple[str, ...] = FAULTS) -> None:
        self.share, self.faults = share, faults
        self.met: Counter[str] = Counter()
        self._random, self._upstream = random.Random(seed), urlsplit(upstream)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, which is one request."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            await self._answer(head, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self._random.choice(self.faults) if self._random.random() < self.share else "none"
        self.met[fault] += 1
        body = await reader.readexactly(_length(head))
        if fault == "reset":
            return _reset(writer)
        if fault in ANSWERS:
            writer.write(f"HTTP/1.1 {ANSWERS[fault]}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return await writer.drain()
        if fault == "slow":
            await asyncio.sleep(SECONDS_LATE)
        answer = await self._ask(head, body)
        if fault == "deaf":
            return _reset(writer)
        start = answer.index(b"\r\n\r\n") + 4
        writer.write(answer[: start + (len(answer) - start) // 2] if fault == "cut" else answer)
        await writer.drain()

    async def _ask(self, head: bytes, body: bytes) -> bytes:
        """The server's whole answer; it closes the connection after it."""
        server, asked = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        asked.write(_closing(head) + body)
        await asked.drain()
        answer = await server.read()
        asked.close()
        return answer


def _length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)


def _closing(head: bytes) -> bytes:
    """The request's head, asking the server to close; the header is not among those that are signed."""
    lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def before(upstream: str, share: float, seed: int = 0, faults: tuple[str, ...] = FAULTS) -> Iterator[tuple[str, Proxy]]:
    """A proxy that runs in a thread, with the URL where it listens."""
    proxy, loop, started = Proxy(upstream, share, seed, faults), asyncio.new_event_loop(), threading.Event()
    ports: list[int] = []

    async def listen() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=1 << 20)
        ports.append(server.sockets[0].getsockname()[1])
        started.set()

    def run() -> None:
        loop.run_until_complete(listen())
        loop.run_forever()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    started.wait()
    try:
        yield f"http://127.0.0.1:{ports[0]}", proxy
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
