"""The door: JSON-RPC 2.0 over HTTP POST and WebSocket, as an ASGI application."""

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

import orjson

from phala.errors import PhalaError
from phala.node.rpc.errors import (
    INTERNAL,
    INVALID_REQUEST,
    NO_METHOD,
    PARSE,
    TOO_MANY_SUBSCRIPTIONS,
    RpcError,
    of_error,
)
from phala.node.rpc.params import Params

LOG: Final = logging.getLogger("phala.node.rpc")

REQUEST_BYTES_MAX: Final = 15 * 1024 * 1024  # Substrate's default
BATCH_ITEMS_MAX: Final = 1_000
SUBSCRIPTIONS_MAX: Final = 1_024  # of one connection; Substrate's default
PENDING_MAX: Final = 4_096  # messages to one slow reader; then it is dropped
CLOSE_TOO_SLOW: Final = 1008  # RFC 6455 §7.4.1: policy violation

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Method: TypeAlias = Callable[[Params], Any]
Subscribe: TypeAlias = Callable[[Params, "Subscription"], None]


class Connection:
    """One WebSocket: what it subscribed to, and what waits to be sent."""

    def __init__(self) -> None:
        self.pending: asyncio.Queue[bytes | None] = asyncio.Queue(PENDING_MAX)
        self.subscriptions: dict[str, Subscription] = {}
        self.too_slow = False
        self._count = 0

    def send(self, message: bytes) -> None:
        try:
            self.pending.put_nowait(message)
        except asyncio.QueueFull:
            self.too_slow = True

    def subscribe(self, notification: str, ended_by: str) -> "Subscription":
        if len(self.subscriptions) >= SUBSCRIPTIONS_MAX:
            raise RpcError(
                TOO_MANY_SUBSCRIPTIONS, "Too many subscriptions on the connection",
                f"at most {SUBSCRIPTIONS_MAX}; unsubscribe from some",
            )  # fmt: skip
        self._count += 1
        found = Subscription(self, str(self._count), notification, ended_by)
        self.subscriptions[found.id] = found
        return found

    def close(self) -> None:
        for found in list(self.subscriptions.values()):
            found.end()


class Subscription:
    """What one subscription tells its client."""

    def __init__(self, to: Connection, name: str, notification: str, ended_by: str) -> None:
        self.id = name
        self.ended_by = ended_by
        self._to = to
        self._notification = notification
        self._at_end: list[Callable[[], None]] = []
        self._held: list[Any] | None = []  # until the client has the id

    def tell(self, result: Any) -> None:
        if self._held is not None:
            self._held.append(result)
            return
        self._to.send(
            orjson.dumps(
                {
                    "jsonrpc": "2.0",
                    "method": self._notification,
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
        self._to.subscriptions.pop(self.id, None)
        for callback in self._at_end:
            callback()
        self._at_end.clear()


class Methods:
    """What can be asked for, by name."""

    def __init__(self) -> None:
        self.plain: dict[str, Method] = {}
        self.subscribing: dict[str, tuple[Subscribe, str, str]] = {}
        self.unsubscribing: dict[str, None] = {}

    def add(self, *names: str) -> Callable[[Method], Method]:
        def register(method: Method) -> Method:
            self.plain.update(dict.fromkeys(names, method))
            return method

        return register

    def add_subscription(
        self, *names: str, ended_by: tuple[str, ...], notification: str
    ) -> Callable[[Subscribe], Subscribe]:
        def register(subscribe: Subscribe) -> Subscribe:
            for name in names:
                self.subscribing[name] = (subscribe, notification, ended_by[0])
            self.unsubscribing.update(dict.fromkeys(ended_by))
            return subscribe

        return register

    def names(self) -> list[str]:
        return sorted([*self.plain, *self.subscribing, *self.unsubscribing])


class Door:
    """The ASGI application."""

    def __init__(self, methods: Methods) -> None:
        self.methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return
            body += event.get("body", b"")
            more = event.get("more_body", False)
            if len(body) > REQUEST_BYTES_MAX:
                await respond(send, 413, b"the request is larger than 15 MiB")
                return
        if scope["method"] != "POST":
            await respond(send, 405, b"send JSON-RPC by POST, or open a WebSocket")
            return
        await respond(send, 200, await self.answer(bytes(body), None) or b"")

    async def _websocket(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        connection = Connection()
        writer = asyncio.create_task(self._write(connection, send))
        try:
            while not connection.too_slow:
                event = await receive()
                if event["type"] == "websocket.disconnect":
                    return
                data = event.get("bytes") or (event.get("text") or "").encode()
                answer = await self.answer(data, connection)
                if answer:
                    connection.send(answer)
                for subscription in list(connection.subscriptions.values()):
                    subscription.start()
        finally:
            connection.close()
            writer.cancel()

    async def _write(self, connection: Connection, send: Send) -> None:
        try:
            while True:
                message = await connection.pending.get()
                await send({"type": "websocket.send", "text": (message or b"").decode()})
                if connection.too_slow:
                    await send({"type": "websocket.close", "code": CLOSE_TOO_SLOW})
                    return
        except (RuntimeError, OSError):
            return  # the peer is gone; the reader ends the connection

    async def answer(self, data: bytes, connection: Connection | None) -> bytes | None:
        """The answer to a request or a batch; None where none is due."""
        try:
            asked = orjson.loads(data)
        except orjson.JSONDecodeError:
            return failed(None, RpcError(PARSE, "Parse error"))
        if not isinstance(asked, list):
            return await self._one(asked, connection)
        if not 0 < len(asked) <= BATCH_ITEMS_MAX:
            return failed(
                None,
                RpcError(INVALID_REQUEST, "Invalid request", f"1 to {BATCH_ITEMS_MAX} in a batch"),
            )
        answers = [await self._one(each, connection) for each in asked]
        return b"[" + b",".join(each for each in answers if each) + b"]"

    async def _one(self, asked: Any, connection: Connection | None) -> bytes | None:
        if not isinstance(asked, dict) or not isinstance(asked.get("method"), str):
            return failed(None, RpcError(INVALID_REQUEST, "Invalid request"))
        name = asked.get("id")
        if not isinstance(name, str | int | float | None):
            return failed(None, RpcError(INVALID_REQUEST, "Invalid request"))
        try:
            result = self._call(asked["method"], Params(asked.get("params")), connection)
            if inspect.isawaitable(result):
                result = await result
            return orjson.dumps({"jsonrpc": "2.0", "id": name, "result": result})
        except PhalaError as error:
            return failed(name, of_error(error))
        except Exception:  # a fault of ours; the node goes on
            LOG.exception("%s failed", asked["method"][:100])
            return failed(name, RpcError(INTERNAL, "Internal error"))

    def _call(self, method: str, params: Params, connection: Connection | None) -> Any:
        plain = self.methods.plain.get(method)
        if plain is not None:
            return plain(params)
        if method in self.methods.subscribing and connection is not None:
            subscribe, notification, ended_by = self.methods.subscribing[method]
            subscription = connection.subscribe(notification, ended_by)
            try:
                subscribe(params, subscription)
            except BaseException:
                subscription.end()
                raise
            return subscription.id
        if method in self.methods.unsubscribing and connection is not None:
            found = connection.subscriptions.get(str(params.needed(0, lambda value, _: value)))
            if found is not None:
                found.end()
            return found is not None
        if method in self.methods.names():
            raise RpcError(NO_METHOD, "Method not found", "subscribe over a WebSocket")
        raise RpcError(NO_METHOD, "Method not found")


def failed(name: Any, error: RpcError) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": name, "error": error.document()})


async def respond(send: Send, status: int, body: bytes) -> None:
    kind = b"application/json" if status == 200 else b"text/plain"
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
