"""The door: JSON-RPC 2.0 over HTTP POST and WebSocket, as an ASGI application."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

import orjson

from phala.errors import PhalaError
from phala.node.rpc.connection import (
    ANSWER_BYTES_MAX,
    GOING_BYTES_MAX,
    KEPT_BYTES_MAX,
    Connection,
    Subscription,
)
from phala.node.rpc.errors import (
    INTERNAL,
    INVALID_REQUEST,
    NO_METHOD,
    PARSE,
    TOO_BIG,
    RpcError,
    of_error,
)
from phala.node.rpc.outbox import Outbox
from phala.node.rpc.own import is_own
from phala.node.rpc.params import Params
from phala.node.rpc.room import Held, Room

LOG: Final = logging.getLogger("phala.node.rpc")

REQUEST_BYTES_MAX: Final = 15 * 1024 * 1024  # Substrate's default
COMING_BYTES_MAX: Final = 128 * 1024 * 1024  # of all requests that are not answered yet
REQUEST_S_MAX: Final = 60.0  # for a body to come
BATCH_ITEMS_MAX: Final = 1_000
BATCH_ITEMS_AT_ONCE: Final = 16  # then others may use the loop, at the latest
BATCH_S_AT_ONCE: Final = 0.002  # likewise
WEBSOCKETS_MAX: Final = 1_000

NAMES: Final = (int, str, float, type(None))  # types of a request's id, not their children
TEXT: Final = b"text/plain; version=0.0.4; charset=utf-8"  # Prometheus' own

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Method: TypeAlias = Callable[[Params], Any]
Subscribe: TypeAlias = Callable[[Params, "Subscription"], None]
Connected: TypeAlias = Callable[[Params, "Connection"], Any]


class Methods:
    """What can be asked for, by name."""

    def __init__(self) -> None:
        self.plain: dict[str, Method] = {}
        self.unsafe: set[str] = set()  # names that only the node's owner may call
        self.connected: dict[str, Connected] = {}  # that need a connection which stays
        self.subscribing: dict[str, tuple[Subscribe, str]] = {}  # and its notification
        self.unsubscribing: dict[str, str] = {}  # the notification of those that it ends

    def add(self, *names: str, unsafe: bool = False) -> Callable[[Method], Method]:
        """A method; it may answer by an awaitable, where that takes a while."""

        def register(method: Method) -> Method:
            self.plain.update(dict.fromkeys(names, method))
            if unsafe:
                self.unsafe.update(names)
            return method

        return register

    def add_connected(self, *names: str) -> Callable[[Connected], Connected]:
        def register(method: Connected) -> Connected:
            self.connected.update(dict.fromkeys(names, method))
            return method

        return register

    def add_subscription(
        self, *names: str, ended_by: tuple[str, ...], notification: str
    ) -> Callable[[Subscribe], Subscribe]:
        def register(subscribe: Subscribe) -> Subscribe:
            for name in names:
                self.subscribing[name] = subscribe, notification
            self.unsubscribing.update(dict.fromkeys(ended_by, notification))
            return subscribe

        return register

    def names(self) -> list[str]:
        return sorted([*self.plain, *self.connected, *self.subscribing, *self.unsubscribing])


class Gauge:
    """What the door counts, for whoever watches the node."""

    def __init__(self) -> None:
        self.websockets = 0  # open
        self.dropped = 0  # connections whose peers did not read
        self.errors = 0  # requests that were answered by one
        self.called: Callable[[str, float], None] = lambda _method, _seconds: None


class NoRoom(Exception):
    """A request over HTTP that is not answered: the status, and why."""


class Door:
    """The ASGI application."""

    def __init__(self, methods: Methods, gauge: Gauge | None = None) -> None:
        self.methods = methods
        self.gauge = gauge or Gauge()
        self.metrics: Callable[[], bytes] | None = None  # in Prometheus' form
        self.coming = Room(COMING_BYTES_MAX)
        self.going = Room(GOING_BYTES_MAX)
        self.kept = Room(KEPT_BYTES_MAX)
        self.outbox = Outbox()
        self._turn = asyncio.Lock()  # of the batches: one of all in a turn of the loop

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            if self.gauge.websockets >= WEBSOCKETS_MAX:
                await send({"type": "websocket.close"})  # before accepting: HTTP 403
                return
            self.gauge.websockets += 1
            try:
                await self._websocket(scope, receive, send)
            finally:
                self.gauge.websockets -= 1

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "GET" and scope["path"] == "/metrics" and self.metrics is not None:
            own = is_own(scope["client"], scope["headers"])
            await respond(send, 200 if own else 403, self.metrics() if own else b"", kind=TEXT)
            return
        if scope["method"] == "GET" and scope["path"] == "/health":
            health = self.methods.plain["system_health"](Params(None))
            await respond(send, 200, orjson.dumps(health))
            return
        if scope["method"] != "POST":
            await respond(send, 405, b"send JSON-RPC by POST, or open a WebSocket")
            return
        coming, going = Held(self.coming), Held(self.going)
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                body = await self._body(receive, coming)
            own = is_own(scope["client"], scope["headers"])
            answer = await self.answer(body, None, own=own)
            if going.take(len(answer)):
                await respond(send, 200, answer)
            else:
                await respond(send, 503, b"too many answers wait to be read")
        except TimeoutError:
            await respond(send, 408, b"the request did not come in time")
        except NoRoom as refusal:
            await respond(send, *refusal.args)
        finally:
            coming.give_back()
            going.give_back()

    async def _body(self, receive: Receive, held: Held) -> bytes:
        """The request's body. Raises `NoRoom`."""
        body = bytearray()
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return b""
            piece = event.get("body", b"")
            body += piece
            more = event.get("more_body", False)
            if len(body) > REQUEST_BYTES_MAX:
                raise NoRoom(413, b"the request is larger than 15 MiB")
            if not held.take(len(piece)):
                raise NoRoom(503, b"too much is asked at once")
        return bytes(body)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        own = is_own(scope["client"], scope["headers"])
        abort = scope["extensions"]["abort"]["call"]
        connection = Connection(abort, own=own, going=self.going, kept=self.kept)
        writer = asyncio.create_task(self._write(connection, send))
        try:
            while True:
                event = await receive()
                if event["type"] == "websocket.disconnect":
                    return
                data = event.get("bytes") or (event.get("text") or "").encode()
                answer = await self.answer(data, connection, own=own)
                if answer:
                    connection.send(answer)
                connection.start()
        finally:
            connection.close()
            writer.cancel()
            self.gauge.dropped += connection.dropped

    async def _write(self, connection: Connection, send: Send) -> None:
        try:
            while True:
                message = await connection.next()
                await send({"type": "websocket.send", "text": message.decode()})
                connection.sent(message)
        except (RuntimeError, OSError):
            return  # the peer is gone; the reader ends the connection

    def answer_bytes(self, data: bytes, *, own: bool) -> bytes | Awaitable[bytes]:
        """The answer to one request over HTTP, now or later; empty to a notification."""
        try:
            asked = orjson.loads(data)
        except orjson.JSONDecodeError:
            return failed(None, RpcError(PARSE, "Parse error"))
        return self.answer_one(asked, None, own=own)

    async def answer(self, data: bytes, connection: Connection | None, *, own: bool) -> bytes:
        """The answer to a request or a batch; empty where none is due."""
        try:
            asked = orjson.loads(data)
        except orjson.JSONDecodeError:
            return failed(None, RpcError(PARSE, "Parse error"))
        if not isinstance(asked, list):
            answer = self.answer_one(asked, connection, own=own)
            return answer if isinstance(answer, bytes) else await answer
        if not 0 < len(asked) <= BATCH_ITEMS_MAX:
            return failed(
                None,
                RpcError(INVALID_REQUEST, "Invalid request", f"1 to {BATCH_ITEMS_MAX} in a batch"),
            )
        return await self._batch(asked, connection, own=own)

    async def _batch(self, asked: list[Any], connection: Connection | None, *, own: bool) -> bytes:
        answers: list[bytes] = []
        size = 0
        left = deque(asked)
        while left:
            async with self._turn:
                some = self._some_of(left, connection, own=own)
                await asyncio.sleep(0)
            for found in some:
                answer = found if isinstance(found, bytes) else await found
                if answer:
                    answers.append(answer)
                    size += len(answer)
            if size > ANSWER_BYTES_MAX:
                return failed(None, too_big())
        return b"[" + b",".join(answers) + b"]" if answers else b""

    def _some_of(
        self, left: deque[Any], connection: Connection | None, *, own: bool
    ) -> list[bytes | Awaitable[bytes]]:
        """The next answers of a batch: as many as others at the door may wait for."""
        out: list[bytes | Awaitable[bytes]] = []
        until = time.perf_counter() + BATCH_S_AT_ONCE
        while left and len(out) < BATCH_ITEMS_AT_ONCE and time.perf_counter() < until:
            out.append(self.answer_one(left.popleft(), connection, own=own))
        return out

    def answer_one(
        self, asked: Any, connection: Connection | None, *, own: bool
    ) -> bytes | Awaitable[bytes]:
        """The answer to one request, parsed, now or later; empty to a notification."""
        if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
            return failed(None, RpcError(INVALID_REQUEST, "Invalid request"))
        if "id" not in asked:
            return b""  # a notification: JSON-RPC 2.0 §4.1, and no method here is one
        name, method = asked["id"], asked["method"]
        if type(name) not in NAMES:
            return failed(None, RpcError(INVALID_REQUEST, "Invalid request"))
        started = time.perf_counter()
        try:
            if not own:
                self._admit(method)
            result = self._call(method, Params(asked.get("params"), method), connection)
            if not isinstance(result, str) and isinstance(result, Awaitable):
                return asyncio.ensure_future(self._later(name, method, result))
            answer = answered(name, result)
        except Exception as error:  # noqa: BLE001 - a fault of ours is told as one, and logged
            answer = self._refused(name, method, error)
        self.gauge.called(method, time.perf_counter() - started)
        return answer

    async def _later(self, name: Any, method: str, result: Awaitable[Any]) -> bytes:
        started = time.perf_counter()
        try:
            answer = answered(name, await result)
        except Exception as error:  # noqa: BLE001 - as above
            answer = self._refused(name, method, error)
        self.gauge.called(method, time.perf_counter() - started)
        return answer

    def _admit(self, method: str) -> None:
        if method in self.methods.unsafe:
            raise RpcError(NO_METHOD, "RPC call is unsafe to be called externally")

    def _refused(self, name: Any, method: str, error: Exception) -> bytes:
        self.gauge.errors += 1
        if isinstance(error, PhalaError):
            return failed(name, of_error(error))
        LOG.error("%s failed", method[:100], exc_info=error)
        return failed(name, RpcError(INTERNAL, "Internal error"))

    def _call(self, method: str, params: Params, connection: Connection | None) -> Any:
        plain = self.methods.plain.get(method)
        if plain is not None:
            return plain(params)
        if method in self.methods.connected and connection is not None:
            return self.methods.connected[method](params, connection)
        if method in self.methods.subscribing and connection is not None:
            subscribe, notification = self.methods.subscribing[method]
            subscription = connection.subscribe(notification)
            try:
                subscribe(params, subscription)
            except BaseException:
                subscription.end()
                raise
            return subscription.id
        if method in self.methods.unsubscribing and connection is not None:
            found = connection.subscriptions.get(str(params.needed(0, lambda value, _: value)))
            if found is None or found.notification != self.methods.unsubscribing[method]:
                return False
            found.end()
            return True
        if method in self.methods.names():
            raise RpcError(NO_METHOD, "Method not found", "ask for it over a WebSocket")
        raise RpcError(NO_METHOD, "Method not found")


def answered(name: Any, result: Any) -> bytes:
    answer = orjson.dumps({"jsonrpc": "2.0", "id": name, "result": result})
    return answer if len(answer) <= ANSWER_BYTES_MAX else failed(name, too_big())


def too_big() -> RpcError:
    return RpcError(
        TOO_BIG, "Response is too big", f"at most {ANSWER_BYTES_MAX} bytes; ask for less"
    )


def failed(name: Any, error: RpcError) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": name, "error": error.document()})


async def respond(send: Send, status: int, body: bytes, *, kind: bytes = b"") -> None:
    kind = kind or (b"application/json" if status == 200 else b"text/plain")
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    try:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
    except (RuntimeError, OSError):
        return  # the peer is gone
