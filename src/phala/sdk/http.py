"""HTTP/1.1 to one server, over kept connections: as much as a worker's doors need.

A general client takes half a second to import, which each command would pay.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

from phala.errors import Invalid, Unavailable
from phala.sdk.ratls import SCHEME, client_context

IDLE_MAX: Final = 64  # connections kept for the next request
READ_BYTES: Final = 256 * 1024
HEADERS_MAX: Final = 256


@dataclass(slots=True)
class _Response:
    """Filled by the parser."""

    bytes_max: int
    body: bytearray = field(default_factory=bytearray)
    headers: int = 0
    complete: bool = False
    keep: bool = False
    parser: Any = None

    def on_header(self, _name: bytes, _value: bytes) -> None:
        self.headers += 1
        if self.headers > HEADERS_MAX:
            raise ValueError("too many headers")

    def on_body(self, part: bytes) -> None:
        self.body += part
        if len(self.body) > self.bytes_max:
            raise ValueError("the body has no end")

    def on_message_complete(self) -> None:
        self.complete = True
        self.keep = self.parser.should_keep_alive()  # asked later, it no longer knows


@dataclass(slots=True)
class _Line:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class HttpClient:
    """Requests to one server, from one event loop.

    At `ratls://HOST:PORT` TLS ends in an enclave: `peer` judges its certificate before anything is
    sent, at once or when it is awaited, and no authority is asked.
    """

    def __init__(
        self, url: str, *, timeout_s: float, peer: Callable[[bytes | None], object] | None = None
    ) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
            parts = urlsplit("")
        schemes = ("http", "https") if peer is None else (SCHEME,)
        if parts.scheme not in schemes or not host or parts.path.strip("/"):
            raise Invalid(f"{url!r} is no HTTP address", mend=f"write {schemes[0]}://HOST:PORT")
        self.url = url.rstrip("/")
        self._host = host
        self._port = port or (80 if parts.scheme == "http" else 443)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._peer = peer
        if peer is not None:
            self._tls = client_context()
        self._timeout_s = timeout_s
        self._idle: list[_Line] = []

    async def close(self) -> None:
        while self._idle:
            writer = self._idle.pop().writer
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def send(
        self, method: str, path: str, body: bytes = b"", *, bytes_max: int
    ) -> tuple[int, bytes]:
        """Status and body.

        Raises:
            Unavailable: no whole HTTP answer of at most `bytes_max` in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(method, path, body, bytes_max)
        except (OSError, TimeoutError, ValueError, httptools.HttpParserError) as error:
            raise Unavailable(
                f"{self.url} does not answer: {type(error).__name__} {error}".rstrip(),
                mend="see whether it runs",
            ) from None

    async def _send(self, method: str, path: str, body: bytes, bytes_max: int) -> tuple[int, bytes]:
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
            f"content-length: {len(body)}\r\ncontent-type: application/octet-stream\r\n\r\n"
        ).encode()
        while self._idle:
            try:
                return await self._exchange(self._idle.pop(), head + body, bytes_max)
            except _ClosedEarlyError:
                continue  # it was closed while it was idle: nobody has read the request
        line = await self._opened()
        try:
            return await self._exchange(line, head + body, bytes_max)
        except _ClosedEarlyError:
            raise ConnectionError("the connection was closed") from None

    async def _opened(self) -> _Line:
        line = _Line(*await asyncio.open_connection(self._host, self._port, ssl=self._tls))
        if self._peer is not None:
            tls = line.writer.get_extra_info("ssl_object")
            try:
                judged = self._peer(tls.getpeercert(binary_form=True))
                if isawaitable(judged):  # it asks the chain for what the vendor says
                    await judged
            except BaseException:
                line.writer.transport.abort()
                raise
        return line

    async def _exchange(self, line: _Line, data: bytes, bytes_max: int) -> tuple[int, bytes]:
        response = _Response(bytes_max)
        parser = response.parser = httptools.HttpResponseParser(response)
        keep = False
        try:
            line.writer.write(data)
            begun = False
            while not response.complete:
                try:
                    part = await line.reader.read(READ_BYTES)
                except ConnectionError:
                    part = b""
                if not part:
                    if begun:
                        raise ConnectionError("the answer was cut")
                    raise _ClosedEarlyError
                begun = True
                parser.feed_data(part)
            keep = response.keep and len(self._idle) < IDLE_MAX
            return parser.get_status_code(), bytes(response.body)
        finally:
            if keep:
                self._idle.append(line)
            else:
                line.writer.close()


class _ClosedEarlyError(Exception):
    """A connection ended before the first byte of an answer."""
