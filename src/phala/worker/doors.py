"""The worker's doors over HTTP, as a raw ASGI application. It reads sizes and names alone."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import orjson

from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.messages.calls import SEALED_QUERY_BYTES_MAX
from phala.messages.host import (
    FRAME_BYTES_MAX,
    HOST_REQUEST,
    RELAY,
    Answer,
    Failure,
    FetchEvidence,
    FetchOutcome,
    HostReply,
    HostRequest,
    Query,
    Status,
    StatusReply,
)
from phala.messages.registration import PLATFORM_SIMULATED
from phala.messages.types import CallId
from phala.worker.keeper import Keeper
from phala.worker.runtimes import Runtimes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

QUERY_BYTES_MAX: Final = SEALED_QUERY_BYTES_MAX + 64
BODY_SECONDS: Final = 30  # to send a body; a slower client holds a place for too long
CHUNK_BYTES: Final = 256 * 1024
HEX_CHARS: Final = 64
# On the wire a request starts with its number: `HOST_REQUEST`'s.
_RELAYED: Final = frozenset(kind.__name__ for kind in RELAY)
RELAY_MARKS: Final = frozenset(
    index for index, struct in HOST_REQUEST.variants if struct.kind.__name__ in _RELAYED
)
PLATFORM_WORDS: Final = {
    PLATFORM_SIMULATED: "simulated: no hardware protection",
    1: "sgx",
    2: "tdx",
    3: "sev-snp",
    4: "nitro",
}
FAMILIES: Final = (("Invalid", 400), ("Refused", 403), ("Unavailable", 503))

JSON: Final = b"application/json"
SCALE: Final = b"application/octet-stream"


class NoSuchDoor(Exception):
    """404."""


class TooLarge(Exception):
    """413."""


class NotAllowed(Exception):
    """405."""


class Doors:
    def __init__(self, keeper: Keeper, runtimes: Runtimes) -> None:
        self._keeper = keeper
        self._runtimes = runtimes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return  # no WebSocket, and no lifespan that needs an answer
        try:
            await self._serve(scope, receive, send)
        except PhalaError as error:
            await _fail(send, failure_of(error))
        except NoSuchDoor:
            await _json(send, 404, {"error": "there is nothing at this address"})
        except NotAllowed:
            await _json(send, 405, {"error": "this door takes another method"})
        except TooLarge:
            await _json(send, 413, {"error": "the body is larger than this door takes"})
        except TimeoutError:
            await _json(send, 408, {"error": "the body took too long"})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        method, path = scope["method"], scope["path"]
        match path.split("/")[1:]:
            case [""]:
                _ensure(method, "GET")
                await self._root(send)
            case ["query"]:
                _ensure(method, "POST")
                envelope = await _body(scope, receive, QUERY_BYTES_MAX)
                await self._answer(send, Query(envelope))
            case ["outcome", name]:
                _ensure(method, "GET")
                await self._answer(send, FetchOutcome(CallId(_hex32(name))))
            case ["evidence"]:
                _ensure(method, "GET")
                await self._evidence(send)
            case ["runtime", name]:
                _ensure(method, "GET")
                await self._runtime(send, _hex32(name))
            case ["relay"]:
                _ensure(method, "POST")
                await self._relay(scope, receive, send)
            case _:
                raise NoSuchDoor

    async def _root(self, send: Send) -> None:
        reply = await self._keeper.tell(Status())
        if isinstance(reply, StatusReply):
            await _json(send, 200, shown(reply))
        else:
            await _fail(send, reply)

    async def _answer(self, send: Send, request: HostRequest) -> None:
        reply = await self._keeper.tell(request)
        if not isinstance(reply, Answer):
            await _fail(send, reply)
        elif reply.sealed is None:
            raise NoSuchDoor
        else:
            await _respond(send, 200, SCALE, reply.sealed)

    async def _evidence(self, send: Send) -> None:
        request = HOST_REQUEST.encode(FetchEvidence())
        await _respond(send, 200, SCALE, await self._keeper.ask(request))

    async def _runtime(self, send: Send, name: bytes) -> None:
        path = await asyncio.to_thread(self._runtimes.find, name)
        if path is None:
            raise NoSuchDoor
        size_bytes = path.stat().st_size
        await _start(send, 200, SCALE, size_bytes)
        with path.open("rb") as file:
            while part := await asyncio.to_thread(file.read, CHUNK_BYTES):
                await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _relay(self, scope: Scope, receive: Receive, send: Send) -> None:
        """1. From this machine. 2. Not from a web page: browsers name their origin. 3. A request
        that pherry makes."""
        if not _is_loopback(scope.get("client")):  # 1
            raise Refused("the relay door serves this machine", mend="run pherry beside the worker")
        if any(name == b"origin" for name, _ in scope["headers"]):  # 2
            raise Refused("the relay door serves no web page", mend="use pherry")
        body = await _body(scope, receive, FRAME_BYTES_MAX)
        if body[:1] == b"" or body[0] not in RELAY_MARKS:  # 3
            raise Refused("this request has a door of its own, or none", mend="use that door")
        await _respond(send, 200, SCALE, await self._keeper.ask(body))


def shown(status: StatusReply) -> dict[str, Any]:
    """What the worker says of its enclave: a hint, nothing to rely on."""
    return {
        "genesis": _shown(status.genesis),
        "worker": _shown(status.worker),
        "runtime": _shown(status.runtime_id),
        "platform": PLATFORM_WORDS.get(status.platform, f"platform {status.platform}"),
        "measurement": _shown(status.measurement),
        "height": status.height,
        "block_hash": _shown(status.block_hash),
        "registered": status.registered,
        "ready": status.ready,
    }


def failure_of(error: PhalaError) -> Failure:
    families: tuple[type[PhalaError], ...] = (Invalid, Refused, Unavailable)
    family = next((at for at, kind in enumerate(families) if isinstance(error, kind)), 2)
    return Failure(family, type(error).__name__, error.what, error.mend)


def _ensure(method: str, expected: str) -> None:
    if method != expected:
        raise NotAllowed


def _hex32(text: str) -> bytes:
    try:
        data = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != HEX_CHARS // 2:
        raise Invalid(
            f"{text[:80]!r} is no id", mend=f"write {HEX_CHARS} hexadecimal digits"
        ) from None
    return data


def _shown(data: bytes) -> str:
    return "0x" + data.hex()


def _is_loopback(client: Any) -> bool:
    try:
        return ipaddress.ip_address(client[0]).is_loopback
    except (TypeError, ValueError):
        return False


async def _body(scope: Scope, receive: Receive, bytes_max: int) -> bytes:
    """Raises `TooLarge` as soon as it is."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > bytes_max:
            raise TooLarge
    body = bytearray()
    async with asyncio.timeout(BODY_SECONDS):
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise Invalid("the body ended early", mend="send it whole")
            body += event.get("body", b"")
            if len(body) > bytes_max:
                raise TooLarge
            if not event.get("more_body"):
                return bytes(body)


async def _fail(send: Send, reply: HostReply) -> None:
    if not isinstance(reply, Failure):
        reply = Failure(2, "Unavailable", "the enclave answered something else", "ask again")
    family, status = FAMILIES[min(reply.family, 2)]
    error = {"family": family, "kind": reply.kind, "what": reply.what, "mend": reply.mend}
    await _json(send, status, {"error": error})


async def _json(send: Send, status: int, document: dict[str, Any]) -> None:
    await _respond(send, status, JSON, orjson.dumps(document))


async def _respond(send: Send, status: int, kind: bytes, body: bytes) -> None:
    await _start(send, status, kind, len(body))
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, kind: bytes, size_bytes: int) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(size_bytes).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
