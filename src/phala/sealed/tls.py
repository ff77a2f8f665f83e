"""TLS that ends inside the enclave, over connections of which the host passes the bytes.

The key is made here, and its certificate carries the platform's evidence of it (`tee.ratls`); a
client that judges it speaks to this code and to nobody between. Inside stands as much of HTTP/1.1
as the worker's own doors use: `GET /`, `GET /evidence`, `GET /outcome/ID`, `POST /query`, answered
in the same form. What the host can still do is to cut, delay, and count bytes.
"""

import asyncio
import json
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from phala.errors import Invalid, PhalaError, Unavailable
from phala.messages.calls import SEALED_QUERY_BYTES_MAX
from phala.messages.host import (
    HOST_REPLY,
    TLS_WRITE_BYTES_MAX,
    Answer,
    Failure,
    FetchEvidence,
    FetchOutcome,
    HostReply,
    HostRequest,
    Query,
    Status,
    StatusReply,
    Tls,
    TlsReply,
)
from phala.messages.registration import PLATFORM_SIMULATED
from phala.messages.types import CallId
from phala.sealed.log import log
from phala.tee.ratls import TlsKey

SESSIONS_MAX: Final = 256
HEAD_BYTES_MAX: Final = 8 * 1024
BODY_BYTES_MAX: Final = SEALED_QUERY_BYTES_MAX + 64
REQUEST_BYTES_MAX: Final = HEAD_BYTES_MAX + BODY_BYTES_MAX
READ_BYTES: Final = 64 * 1024
RENEWAL_BLOCKS: Final = 600  # an hour of blocks: a key is no older, and what it sealed stays closed
VALID: Final = timedelta(days=2)
SLACK: Final = timedelta(days=1)  # for clients whose clock is behind the chain's

JSON: Final = "application/json"
SCALE: Final = "application/octet-stream"
FAMILIES: Final = (("Invalid", 400), ("Refused", 403), ("Unavailable", 503))
PLATFORM_WORDS: Final = {PLATFORM_SIMULATED: "simulated: no hardware protection"}

Serve = Callable[[HostRequest], Awaitable[HostReply]]


@dataclass(frozen=True, slots=True)
class Standing:
    """The finalized block that a new certificate names."""

    height: int
    time: int  # Unix milliseconds, proven


@dataclass(slots=True)
class _Session:
    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    tls: ssl.SSLObject
    shaken: bool = False
    busy: bool = False
    read: bytearray = field(default_factory=bytearray)


class TlsDoor:
    """All TLS connections of one enclave, from one event loop."""

    def __init__(
        self,
        standing: Callable[[], Standing],
        make_key: Callable[[datetime, datetime], TlsKey],
        serve: Serve,
    ) -> None:
        """`make_key` asks the platform for evidence, in a thread; `serve` answers requests."""
        self._standing = standing
        self._make_key = make_key
        self._serve = serve
        self._context: ssl.SSLContext | None = None
        self._made = 0  # the height of the context's certificate
        self._making = asyncio.Lock()
        self._sessions: dict[int, _Session] = {}

    async def take(self, request: Tls) -> TlsReply:
        """Bytes of a connection; its first begin a handshake.

        Raises:
            Unavailable: no block was seen yet, so no certificate could say since when it is.
        """
        session = self._sessions.get(request.connection)
        if not request.data or (session is not None and session.busy):
            self._sessions.pop(request.connection, None)
            return TlsReply(b"", is_open=False)
        if session is None:
            session = self._opened(request.connection, await self._current())
        session.busy = True
        try:
            is_open = await self._fed(session, request.data)
        except ssl.SSLError:
            is_open = False  # the alert that says why, if any, is on its way out
        finally:
            session.busy = False
        if not is_open:
            self._sessions.pop(request.connection, None)
        return TlsReply(session.outgoing.read(TLS_WRITE_BYTES_MAX), is_open=is_open)

    def _opened(self, connection: int, context: ssl.SSLContext) -> _Session:
        while len(self._sessions) >= SESSIONS_MAX:
            del self._sessions[next(iter(self._sessions))]  # the oldest
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=True)
        session = self._sessions[connection] = _Session(incoming, outgoing, tls)
        return session

    async def _current(self) -> ssl.SSLContext:
        """With a key of the last hour of blocks."""
        async with self._making:
            standing = self._standing()
            if standing.time == 0:
                raise Unavailable("the enclave has seen no block", mend="wait until it follows")
            if self._context is None or standing.height >= self._made + RENEWAL_BLOCKS:
                now = datetime.fromtimestamp(standing.time // 1000, UTC)
                key = await asyncio.to_thread(self._make_key, now - SLACK, now + VALID)
                self._context, self._made = context_of(key), standing.height
                log("TLS key made", height=standing.height)
            return self._context

    async def _fed(self, session: _Session, data: bytes) -> bool:
        """Whether the connection is to be kept."""
        session.incoming.write(data)
        ended = False
        try:
            if not session.shaken:
                session.tls.do_handshake()
                session.shaken = True
            while part := session.tls.read(READ_BYTES):
                session.read += part
                if len(session.read) > REQUEST_BYTES_MAX:
                    return False
            ended = True  # the client said so: what it asked before is answered
        except ssl.SSLWantReadError:
            pass
        while (request := parsed(session.read)) is not None:
            session.tls.write(await self._answered(request))
            if session.outgoing.pending > TLS_WRITE_BYTES_MAX // 2 or request.last:
                return False
        return not ended

    async def _answered(self, request: "_Request") -> bytes:
        try:
            return await self._routed(request)
        except PhalaError as error:
            kinds = [kind.__name__ for kind in type(error).__mro__]
            at = next((at for at, (name, _) in enumerate(FAMILIES) if name in kinds), 2)
            failure = Failure(at, type(error).__name__, error.what, error.mend)
            return failed(failure)

    async def _routed(self, request: "_Request") -> bytes:
        match request.method, request.path.split("/")[1:]:
            case "GET", [""]:
                reply = await self._serve(Status())
                return (
                    respond(200, JSON, shown(reply))
                    if isinstance(reply, StatusReply)
                    else failed(reply)
                )
            case "GET", ["evidence"]:
                reply = await self._serve(FetchEvidence())
                return respond(200, SCALE, HOST_REPLY.encode(reply))
            case "GET", ["outcome", name]:
                return sealed(await self._serve(FetchOutcome(CallId(hex32(name)))))
            case "POST", ["query"]:
                return sealed(await self._serve(Query(request.body)))
            case _, [""] | ["evidence"] | ["outcome", _] | ["query"]:
                return respond(405, JSON, {"error": "this door takes another method"})
            case _:
                return respond(404, JSON, {"error": "there is nothing at this address"})


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    body: bytes
    last: bool  # the client closes after the answer


class _NoHttpError(ssl.SSLError):
    """The client speaks something else: the connection ends."""


def parsed(data: bytearray) -> _Request | None:
    """The first request, taken off `data`; None while it is not whole. A body has a length."""
    head, end, _ = bytes(data[: HEAD_BYTES_MAX + 4]).partition(b"\r\n\r\n")
    if not end:
        if len(data) > HEAD_BYTES_MAX:
            raise _NoHttpError
        return None
    line, *rest = head.decode("latin-1").split("\r\n")
    words = line.split(" ")
    headers = [each.partition(":") for each in rest]
    fields = {name.strip().lower(): value.strip() for name, _, value in headers}
    size = fields.get("content-length", "0")
    if len(words) != 3 or words[2] != "HTTP/1.1" or "transfer-encoding" in fields:
        raise _NoHttpError
    if len(fields) != len(headers) or not (size.isascii() and size.isdigit() and len(size) < 9):
        raise _NoHttpError
    start = len(head) + len(end)
    if int(size) > BODY_BYTES_MAX:
        raise _NoHttpError
    if len(data) < start + int(size):
        return None
    body = bytes(data[start : start + int(size)])
    del data[: start + int(size)]
    return _Request(words[0], words[1], body, fields.get("connection", "").lower() == "close")


def context_of(key: TlsKey) -> ssl.SSLContext:
    """TLS 1.3 alone, nothing resumed. The library reads keys from files: this one is memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    handle = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        with os.fdopen(handle, "wb", closefd=False) as file:
            file.write(key.certificate + key.key)
        context.load_cert_chain(f"/proc/self/fd/{handle}")
    finally:
        os.close(handle)
    return context


def sealed(reply: HostReply) -> bytes:
    if not isinstance(reply, Answer):
        return failed(reply)
    if reply.sealed is None:
        return respond(404, JSON, {"error": "there is nothing at this address"})
    return respond(200, SCALE, reply.sealed)


def failed(reply: HostReply) -> bytes:
    if not isinstance(reply, Failure):
        reply = Failure(2, "Unavailable", "the enclave answered something else", "ask again")
    family, status = FAMILIES[min(reply.family, 2)]
    error = {"family": family, "kind": reply.kind, "what": reply.what, "mend": reply.mend}
    return respond(status, JSON, {"error": error})


def shown(status: StatusReply) -> dict[str, object]:
    """As the worker's own door shows it."""
    return {
        "genesis": "0x" + status.genesis.hex(),
        "worker": "0x" + status.worker.hex(),
        "runtime": "0x" + status.runtime_id.hex(),
        "platform": PLATFORM_WORDS.get(status.platform, f"platform {status.platform}"),
        "measurement": "0x" + status.measurement.hex(),
        "height": status.height,
        "block_hash": "0x" + status.block_hash.hex(),
        "registered": status.registered,
        "ready": status.ready,
    }


def hex32(text: str) -> bytes:
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != 32:
        raise Invalid(f"{text[:80]!r} is no id", mend="write 64 hexadecimal digits")
    return data


def respond(status: int, kind: str, body: bytes | dict[str, object]) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status} \r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data
