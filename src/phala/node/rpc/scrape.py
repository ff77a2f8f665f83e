"""`--metrics-port`: the metrics alone, on a port of their own, for whoever reaches it.

One request a connection, of a head of 8 KiB, within five seconds; the text is made once a second.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from phala.node.rpc.server import TEXT

CONNECTIONS_MAX: Final = 16
HEAD_BYTES_MAX: Final = 8 * 1024
ANSWER_S_MAX: Final = 5.0  # from the connection to the end of the answer
KEPT_S: Final = 1.0
FRONTS: Final = (b"GET /metrics HTTP/1.", b"GET /metrics?")


class Scrape:
    """A server of one text."""

    def __init__(self, text: Callable[[], bytes]) -> None:
        self._text = text
        self._kept = b""
        self._made: float | None = None
        self._open = 0

    async def run(self, door: socket.socket) -> None:
        """Answer until cancelled."""
        server = await asyncio.start_server(self._connected, sock=door, limit=HEAD_BYTES_MAX)
        async with server:
            await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open += 1
        try:
            with suppress(
                TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError
            ):
                async with asyncio.timeout(ANSWER_S_MAX):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._open -= 1
            writer.transport.abort()  # what is not read by now is not waited for

    def _answer(self, head: bytes) -> bytes:
        good = head.startswith(FRONTS)
        body = self.text() if good else b"GET /metrics\n"
        lines = (
            b"HTTP/1.1 200 OK" if good else b"HTTP/1.1 404 Not Found",
            b"content-type: " + TEXT,
            b"content-length: %d" % len(body),
            b"connection: close",
        )
        return b"\r\n".join((*lines, b"", body))

    def text(self) -> bytes:
        now = time.monotonic()
        if self._made is None or now > self._made + KEPT_S:
            self._kept, self._made = self._text(), now
        return self._kept
