"""What uvicorn leaves open at a door to strangers: limits on heads of requests, and an end for
peers that do not read."""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

CONNECTIONS_MAX: Final = 2_000  # WebSockets too
HEAD_BYTES_MAX: Final = 64 * 1024
HEAD_S_MAX: Final = 20.0  # from a connection to the end of its first request's head


class BoundedHttp(HttpToolsProtocol):
    """HTTP whose request line and headers must come soon, and be short."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = True
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
        self._late = self.loop.call_later(HEAD_S_MAX, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_time()
        super().connection_lost(exc)

    def _on_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.transport.abort()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._on_time()
        super().on_headers_complete()


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket that its application, or a missing pong, ends at once.

    A plain close waits until the peer has read what was sent: for ever, where it never reads.
    """

    async def run_asgi(self) -> None:
        self.scope["extensions"] = {"abort": {"call": self.transport.abort}}
        await super().run_asgi()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
