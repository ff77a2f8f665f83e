"""What uvicorn leaves open at a door to strangers: limits on heads of requests, and an end for
peers that do not read."""

import asyncio
import re
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from phala.node.rpc.connection import ANSWER_BYTES_MAX
from phala.node.rpc.own import is_loopback
from phala.node.rpc.room import Held
from phala.node.rpc.server import Door

CONNECTIONS_MAX: Final = 2_000  # WebSockets too
HEAD_BYTES_MAX: Final = 64 * 1024
HELD_BYTES_MAX: Final = 64 * 1024  # sent before an answer came; no client needs to
HEAD_S_MAX: Final = 20.0  # from a connection to the end of its first request's head
LOOK_S: Final = 20.0  # between two looks at a peer that has not read all
READ_BYTES_MIN: Final = 64 * 1024  # that it has to read meanwhile
WRITTEN_BYTES_MAX: Final = ANSWER_BYTES_MAX + 1024 * 1024  # to a peer that only asks for pongs
FRAGMENTS_MAX: Final = 1_024  # of one message


# A head that is not answered at once: it closes, waits for a word or a protocol, has no length, or
# says that its sender speaks for another.
SPECIAL: Final = re.compile(
    rb"\r\n(?:connection:(?! *keep-alive\s)|upgrade:|expect:|transfer-encoding:"
    rb"|forwarded|via|x-real-ip|x-forwarded|origin)",
    re.IGNORECASE,
)
LENGTH: Final = re.compile(rb"\r\ncontent-length: *([0-9]{1,8})\r\n", re.IGNORECASE)
HEAD: Final = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


SHORT_BYTES_MAX: Final = 512
HEADS_MAX: Final = 256
HEADS: Final[dict[bytes, int]] = {}  # short ones that came before, and what `plain_length` says


def plain_length(head: bytes) -> int:
    """How many bytes follow a request's head, with its empty line; -1: it is not a plain one."""
    known = HEADS.get(head)
    if known is not None:
        return known
    length = LENGTH.search(head)
    plain = length is not None and not SPECIAL.search(head) and b" HTTP/1.1\r\n" in head
    found = int(length[1]) if length is not None and plain else -1
    if len(head) <= SHORT_BYTES_MAX:
        if len(HEADS) >= HEADS_MAX:
            HEADS.clear()
        HEADS[head] = found
    return found


class BoundedHttp(HttpToolsProtocol):
    """HTTP whose request line and headers must come soon, and be short.

    A POST of one JSON-RPC request that comes in one piece is answered on the spot, without a task:
    that is what submits transactions. All else goes uvicorn's way.
    """

    app: Door

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._in_head = False
        self._in_message = False
        self._answering = False  # in uvicorn's way
        self._later: asyncio.Future[bytes] | None = None  # an answer that is due
        self._held = bytearray()  # what came meanwhile
        self._late: asyncio.TimerHandle | None = None
        self._busy = False  # since the timer of idle connections was set: it is not set each time
        self._going = Held(self.app.going)
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS_MAX:
            transport.abort()
        self._own = is_loopback(self.client)
        self._late = self.loop.call_later(HEAD_S_MAX, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_time()
        self._end_look()
        if self._later is not None:
            self._later.cancel()
        super().connection_lost(exc)

    def _on_time(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def pause_writing(self) -> None:
        """Much of an answer was not read as yet: from here on the peer is looked at."""
        super().pause_writing()
        self._look_later(self.transport.get_write_buffer_size())

    def _look_later(self, left: int) -> None:
        self._end_look()
        if not self._going.take(left):
            self.transport.abort()
            return
        self._look = self.loop.call_later(LOOK_S, self._look_again, left)

    def _look_again(self, before: int) -> None:
        left = self.transport.get_write_buffer_size()
        if before - left < READ_BYTES_MIN:
            self.transport.abort()
        else:
            self._look_later(left)

    def _end_look(self) -> None:
        self._going.give_back()
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def resume_writing(self) -> None:
        self._end_look()
        super().resume_writing()

    def shutdown(self) -> None:
        self.app.outbox.send()
        super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """A plain close waits until the peer has read what was sent: for ever, where it never
        reads."""
        if self._busy or self._later is not None:
            self._busy = False
            self._wait_longer()
            return
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        super().timeout_keep_alive_handler()

    def data_received(self, data: bytes) -> None:
        if self._later is not None:
            self._held += data
            if len(self._held) > HELD_BYTES_MAX:
                self.transport.abort()
            return
        if self._answered(data):
            return
        self.app.outbox.send()  # answers go in the order of their requests
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self.transport.abort()

    def _answered(self, data: bytes) -> bool:
        """Whether the data was one plain request, which has its answer now."""
        between = not self._in_message and not self._answering
        end = data.find(b"\r\n\r\n") + 4 if between and data.startswith(b"POST ") else 0
        if not 4 < end < HEAD_BYTES_MAX or data[end : end + 1] != b"{":
            return False
        if len(data) - end != plain_length(data[:end]) or self.transport.get_write_buffer_size():
            return False
        answer = self.app.answer_bytes(data[end:], own=self._own)
        if self._late is not None:
            self._on_time()
        if isinstance(answer, bytes):
            self._write(answer)
        else:
            self._later = asyncio.ensure_future(answer)
            self._later.add_done_callback(self._write_later)
        return True

    def _write(self, answer: bytes) -> None:
        self.app.outbox.put(self.transport, HEAD % len(answer) + answer)
        self._busy = True
        if self.timeout_keep_alive_task is None:
            self._wait_longer()

    def _wait_longer(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _write_later(self, done: asyncio.Future[bytes]) -> None:
        self._later = None
        if self.transport.is_closing() or done.cancelled():
            return
        self._write(done.result())
        held, self._held = bytes(self._held), bytearray()
        if held:
            self.data_received(held)

    def on_message_begin(self) -> None:
        self._in_head = self._in_message = self._answering = True
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S_MAX, self.transport.abort)
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_bytes = 0
        self._on_time()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._answering = bool(self.pipeline)
        super().on_response_complete()


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """A WebSocket that its application, or a missing pong, ends at once.

    A plain close waits until the peer has read what was sent: for ever, where it never reads.
    """

    app: Door

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._coming = Held(self.app.coming)

    def connection_lost(self, exc: Exception | None) -> None:
        self._coming.give_back()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._coming.take(len(data)):
            self.transport.abort()
            return
        super().data_received(data)
        if (
            len(self.frames) > FRAGMENTS_MAX
            or self.transport.get_write_buffer_size() > WRITTEN_BYTES_MAX
        ):
            self.transport.abort()
        elif not (self.read_paused or self.frames or self.conn.reader.buffer):
            self._coming.give_back()  # nothing waits to be whole, or to be answered

    async def receive(self) -> Any:
        if self.queue.empty():
            self._coming.give_back()
        return await super().receive()

    async def send(self, message: Any) -> None:
        """Return when the peer has read nearly all: what it has not is the sender's to count."""
        await super().send(message)
        await self.writable.wait()

    async def run_asgi(self) -> None:
        self.scope["extensions"] = {"abort": {"call": self.transport.abort}}
        await super().run_asgi()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()
