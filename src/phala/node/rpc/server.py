"""The door: JSON-RPC 2.0 over HTTP POST and WebSocket, as an ASGI application."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

import orjson

from phala.errors import PhalaError
from phala.node.rpc.errors import (
    INTERNAL,
    INVALID_REQUEST,
    NO_METHOD,
    PARSE,
    TOO_BIG,
    TOO_MANY_SUBSCRIPTIONS,
    RpcError,
    of_error,
)
from phala.node.rpc.params import Params

LOG: Final = logging.getLogger("phala.node.rpc")

REQUEST_BYTES_MAX: Final = 15 * 1024 * 1024  # Substrate's default
REQUEST_S_MAX: Final = 60.0  # for a body to come
ANSWER_BYTES_MAX: Final = 15 * 1024 * 1024  # Substrate's default
BATCH_ITEMS_MAX: Final = 1_000
BATCH_ITEMS_AT_ONCE: Final = 16  # then others may use the loop
WEBSOCKETS_MAX: Final = 1_000
SUBSCRIPTIONS_MAX: Final = 1_024  # of one connection; Substrate's default
PENDING_BYTES_MAX: Final = 2 * ANSWER_BYTES_MAX  # to one slow reader; then it is dropped
PENDING_MAX: Final = 4_096  # messages, likewise

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Method: TypeAlias = Callable[[Params], Any]
Subscribe: TypeAlias = Callable[[Params, "Subscription"], None]
Connected: TypeAlias = Callable[[Params, "Connection"], Any]


class Connection:
    """One WebSocket: what it subscribed to, and what waits to be sent."""

    def __init__(self, abort: Callable[[], None]) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self._fresh: list[Subscription] = []  # whose ids the client does not have yet
        self._later: list[Callable[[], None]] = []
        self._abort = abort
        self._count = 0
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._some = asyncio.Event()

    def send(self, message: bytes) -> None:
        """Queue a message. A peer that does not read loses its connection."""
        self._pending_bytes += len(message)
        if len(self._pending) >= PENDING_MAX or self._pending_bytes > PENDING_BYTES_MAX:
            self._pending.clear()
            self._abort()
            return
        self._pending.append(message)
        self._some.set()

    async def next(self) -> bytes:
        """The next message to send, when there is one."""
        while not self._pending:
            self._some.clear()
            await self._some.wait()
        message = self._pending.popleft()
        self._pending_bytes -= len(message)
        return message

    @property
    def pending(self) -> int:
        """Messages that wait for the peer to read."""
        return len(self._pending)

    def later(self, callback: Callable[[], None]) -> None:
        """Call it when the client has the answer to what it asked just now."""
        self._later.append(callback)

    def subscribe(self, notification: str) -> "Subscription":
        if len(self.subscriptions) >= SUBSCRIPTIONS_MAX:
            raise RpcError(
                TOO_MANY_SUBSCRIPTIONS, "Too many subscriptions on the connection",
                f"at most {SUBSCRIPTIONS_MAX}; unsubscribe from some",
            )  # fmt: skip
        self._count += 1
        found = Subscription(self, str(self._count), notification)
        self.subscriptions[found.id] = found
        self._fresh.append(found)
        return found

    def start(self) -> None:
        """The client has its answers: send what subscriptions were told meanwhile, and go on."""
        for found in self._fresh:
            found.start()
        self._fresh.clear()
        later, self._later = self._later, []
        for callback in later:
            callback()

    def close(self) -> None:
        for found in list(self.subscriptions.values()):
            found.end()


class Subscription:
    """What one subscription tells its client."""

    def __init__(self, to: Connection, name: str, notification: str) -> None:
        self.id = name
        self.notification = notification
        self.to = to
        self.ended = False
        self._at_end: list[Callable[[], None]] = []
        self._held: list[Any] | None = []  # until the client has the id

    def tell(self, result: Any) -> None:
        if self._held is not None:
            self._held.append(result)
            return
        self.to.send(
            orjson.dumps(
                {
                    "jsonrpc": "2.0",
                    "method": self.notification,
                    "params": {"subscription": self.id, "result": result},
                }
            )
        )

    def start(self) -> None:
        """The client has the id: send what was told meanwhile."""
        held, self._held = self._held or [], None
        for result in held:
            self.tell(result)

    def at_end(self, callback: Callable[[], None]) -> None:
        self._at_end.append(callback)

    def end(self) -> None:
        self.ended = True
        self.to.subscriptions.pop(self.id, None)
        for callback in self._at_end:
            callback()
        self._at_end.clear()


class Methods:
    """What can be asked for, by name."""

    def __init__(self) -> None:
        self.plain: dict[str, Method] = {}
        self.connected: dict[str, Connected] = {}  # that need a connection which stays
        self.subscribing: dict[str, tuple[Subscribe, str]] = {}  # and its notification
        self.unsubscribing: dict[str, str] = {}  # the notification of those that it ends

    def add(self, *names: str) -> Callable[[Method], Method]:
        def register(method: Method) -> Method:
            self.plain.update(dict.fromkeys(names, method))
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


class Door:
    """The ASGI application."""

    def __init__(self, methods: Methods) -> None:
        self.methods = methods
        self._websockets = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            if self._websockets >= WEBSOCKETS_MAX:
                await send({"type": "websocket.close"})  # before accepting: HTTP 403
                return
            self._websockets += 1
            try:
                await self._websocket(scope["extensions"]["abort"]["call"], receive, send)
            finally:
                self._websockets -= 1

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await respond(send, 405, b"send JSON-RPC by POST, or open a WebSocket")
            return
        try:
            async with asyncio.timeout(REQUEST_S_MAX):
                body = await self._body(receive)
        except TimeoutError:
            await respond(send, 408, b"the request did not come in time")
            return
        if body is None:
            await respond(send, 413, b"the request is larger than 15 MiB")
            return
        await respond(send, 200, await self.answer(body, None) or b"")

    async def _body(self, receive: Receive) -> bytes | None:
        """The request's body; None where it is too large."""
        body = bytearray()
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return b""
            body += event.get("body", b"")
            more = event.get("more_body", False)
            if len(body) > REQUEST_BYTES_MAX:
                return None
        return bytes(body)

    async def _websocket(self, abort: Callable[[], None], receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        connection = Connection(abort)
        writer = asyncio.create_task(self._write(connection, send))
        try:
            while True:
                event = await receive()
                if event["type"] == "websocket.disconnect":
                    return
                data = event.get("bytes") or (event.get("text") or "").encode()
                answer = await self.answer(data, connection)
                if answer:
                    connection.send(answer)
                connection.start()
        finally:
            connection.close()
            writer.cancel()

    async def _write(self, connection: Connection, send: Send) -> None:
        try:
            while True:
                message = await connection.next()
                await send({"type": "websocket.send", "text": message.decode()})
        except (RuntimeError, OSError):
            return  # the peer is gone; the reader ends the connection

    def answer_bytes(self, data: bytes) -> bytes:
        """The answer to one request over HTTP; empty to a notification."""
        try:
            asked = orjson.loads(data)
        except orjson.JSONDecodeError:
            return failed(None, RpcError(PARSE, "Parse error"))
        return self.answer_one(asked, None) or b""

    async def answer(self, data: bytes, connection: Connection | None) -> bytes | None:
        """The answer to a request or a batch; None where none is due."""
        try:
            asked = orjson.loads(data)
        except orjson.JSONDecodeError:
            return failed(None, RpcError(PARSE, "Parse error"))
        if not isinstance(asked, list):
            return self.answer_one(asked, connection)
        if not 0 < len(asked) <= BATCH_ITEMS_MAX:
            return failed(
                None,
                RpcError(INVALID_REQUEST, "Invalid request", f"1 to {BATCH_ITEMS_MAX} in a batch"),
            )
        return await self._batch(asked, connection)

    async def _batch(self, asked: list[Any], connection: Connection | None) -> bytes | None:
        answers: list[bytes] = []
        size = 0
        for count, each in enumerate(asked, 1):
            answer = self.answer_one(each, connection)
            if answer:
                answers.append(answer)
                size += len(answer)
            if size > ANSWER_BYTES_MAX:
                return failed(None, too_big())
            if count % BATCH_ITEMS_AT_ONCE == 0:
                await asyncio.sleep(0)
        return b"[" + b",".join(answers) + b"]" if answers else None

    def answer_one(self, asked: Any, connection: Connection | None) -> bytes | None:
        """The answer to one request, parsed; None to a notification."""
        if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
            return failed(None, RpcError(INVALID_REQUEST, "Invalid request"))
        if "id" not in asked:
            return None  # a notification: JSON-RPC 2.0 §4.1, and no method here is one
        name = asked["id"]
        if not isinstance(name, str | int | float | None) or isinstance(name, bool):
            return failed(None, RpcError(INVALID_REQUEST, "Invalid request"))
        try:
            result = self._call(asked["method"], Params(asked.get("params")), connection)
            answer = orjson.dumps({"jsonrpc": "2.0", "id": name, "result": result})
            return answer if len(answer) <= ANSWER_BYTES_MAX else failed(name, too_big())
        except PhalaError as error:
            return failed(name, of_error(error))
        except Exception:  # a fault of ours; the node goes on
            LOG.exception("%s failed", asked["method"][:100])
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


def too_big() -> RpcError:
    return RpcError(
        TOO_BIG, "Response is too big", f"at most {ANSWER_BYTES_MAX} bytes; ask for less"
    )


def failed(name: Any, error: RpcError) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": name, "error": error.document()})


async def respond(send: Send, status: int, body: bytes) -> None:
    kind = b"application/json" if status == 200 else b"text/plain"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
