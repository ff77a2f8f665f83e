"""The port whose TLS ends in the enclave: bytes pass here, and nobody here can read them."""

import asyncio
import contextlib
from typing import Final, Protocol

from phala.errors import PhalaError
from phala.messages.host import TLS_READ_BYTES_MAX, HostReply, HostRequest, Tls, TlsReply
from phala.worker.log import log

CONNECTIONS_MAX: Final = 256  # the enclave keeps as many
IDLE_SECONDS: Final = 120


class Teller(Protocol):
    """Whoever brings requests to the enclave: the keeper."""

    async def tell(self, request: HostRequest) -> HostReply: ...


class TlsPort:
    """Connections to one enclave."""

    def __init__(self, keeper: Teller) -> None:
        self._keeper = keeper
        self._next = 0
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side ends it."""
        if self._open >= CONNECTIONS_MAX:
            writer.close()
            return
        self._open += 1
        self._next += 1
        try:
            await self._pass(self._next, reader, writer)
        finally:
            self._open -= 1
            writer.close()

    async def _pass(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        is_open = True
        try:
            while is_open:
                async with asyncio.timeout(IDLE_SECONDS):
                    data = await reader.read(TLS_READ_BYTES_MAX)
                if not data:
                    break
                reply = await self._keeper.tell(Tls(number, data))
                if not isinstance(reply, TlsReply):
                    break  # a failure has no form that a client of TLS could read
                is_open = reply.is_open
                writer.write(reply.data)
                async with asyncio.timeout(IDLE_SECONDS):
                    await writer.drain()
        except (ConnectionError, TimeoutError):
            pass
        except PhalaError as error:
            log("TLS connection ended", why=error.what)
            return
        if is_open:
            with contextlib.suppress(PhalaError):
                await self._keeper.tell(Tls(number, b""))
