"""JSON-RPC over one WebSocket that comes back after the node was away.

Every call that this package makes may be made twice (an extrinsic has one hash), so a lost
connection is a reason to ask again, until the caller's time is over.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from phala.errors import Invalid, Refused, Unavailable

Json: TypeAlias = Any  # parsed, not yet judged
Waiting: TypeAlias = tuple[asyncio.Future[Json], Callable[[Json], None] | None]

MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
TIMEOUT_S: Final = 15.0
BACKOFF_S_MIN: Final = 0.02
BACKOFF_S_MAX: Final = 0.5
PENDING_MAX: Final = 65_536
QUEUED_MAX: Final = 4_096  # notifications that nobody took yet
BATCH_MAX: Final = 512
BATCH_BYTES_MAX: Final = 4 * 1024 * 1024  # a node takes 15 MiB in one message


class RpcRefused(Refused):
    """The node answered with an error."""

    def __init__(self, method: str, code: int, message: str, data: Json) -> None:
        told = f"{message}: {data}" if data else message
        super().__init__(
            f"{method} was refused ({code}): {told[:1000]}",
            mend="change the request as the node says",
        )
        self.code = code
        self.data = data


class Subscription:
    """Notifications in their order; iteration ends by `Unavailable` when the connection does."""

    def __init__(self, rpc: "Rpc", sub_id: str, unsubscribe: str) -> None:
        self._rpc = rpc
        self._id = sub_id
        self._unsubscribe = unsubscribe
        self._queue: asyncio.Queue[Json] = asyncio.Queue(QUEUED_MAX)
        self._lost = False

    def push(self, value: Json) -> None:
        if self._queue.full():  # a reader this slow must start again
            self._lost = True
        else:
            self._queue.put_nowait(value)

    def lose(self) -> None:
        self._lost = True
        if not self._queue.full():
            self._queue.put_nowait(None)

    def __aiter__(self) -> AsyncIterator[Json]:
        return self

    async def __anext__(self) -> Json:
        if not (self._lost and self._queue.empty()):
            value = await self._queue.get()
            if value is not None:
                return value
        raise _lost(self._rpc.url)

    async def close(self) -> None:
        self._rpc.forget(self._id)
        with contextlib.suppress(Refused, Unavailable):
            await self._rpc.call(self._unsubscribe, self._id, timeout_s=1.0)


class Rpc:
    """A client of one node. Use it in `async with`, from one event loop."""

    def __init__(self, url: str, *, timeout_s: float = TIMEOUT_S) -> None:
        if not url.startswith(("ws://", "wss://")):
            raise Invalid(f"{url!r} is no WebSocket address", mend="write ws://HOST:PORT")
        self.url = url
        self.timeout_s = timeout_s
        self._ids = itertools.count(1)
        self._pending: dict[int, Waiting] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._socket: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self.connections = 0  # made so far: another number, and the node may have lost its pool

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        self._closed = True
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)

    async def call(self, method: str, *params: Json, timeout_s: float | None = None) -> Json:
        """The node's `result`.

        Raises:
            RpcRefused: the node answered with an error.
            Unavailable: no answer in time, over as many connections as that took.
        """
        (answer,) = await self.batch([(method, params)], timeout_s=timeout_s)
        if isinstance(answer, RpcRefused):
            raise answer
        return answer

    async def batch(
        self,
        calls: Sequence[tuple[str, Sequence[Json]]],
        *,
        timeout_s: float | None = None,
        on_result: Callable[[Json], None] | None = None,
    ) -> list[Json]:
        """Results in the order of the calls, an `RpcRefused` where the node refused."""
        if not calls:
            return []
        limit = self.timeout_s if timeout_s is None else timeout_s
        backoff_s = BACKOFF_S_MIN
        try:
            async with asyncio.timeout(limit):
                while True:
                    try:
                        return await self._once(calls, on_result)
                    except Unavailable:
                        if self._closed:
                            raise
                    await asyncio.sleep(backoff_s)
                    backoff_s = min(2 * backoff_s, BACKOFF_S_MAX)
        except TimeoutError:
            raise Unavailable(
                f"{self.url} did not answer {calls[0][0]} in {limit} s",
                mend="see whether the node runs, then ask again",
            ) from None

    async def subscribe(self, method: str, unsubscribe: str, *params: Json) -> Subscription:
        """Listen. It is registered as its answer is read, so that no notification slips by."""
        begun: list[Subscription] = []

        def begin(sub_id: Json) -> None:
            subscription = Subscription(self, str(sub_id), unsubscribe)
            self._subscriptions[str(sub_id)] = subscription
            begun.append(subscription)

        (answer,) = await self.batch([(method, params)], on_result=begin)
        if isinstance(answer, RpcRefused):
            raise answer
        return begun[-1]

    def forget(self, sub_id: str) -> None:
        self._subscriptions.pop(sub_id, None)

    async def _once(
        self,
        calls: Sequence[tuple[str, Sequence[Json]]],
        on_result: Callable[[Json], None] | None,
    ) -> list[Json]:
        socket = await self._connected()
        if len(self._pending) + len(calls) > PENDING_MAX:
            raise Unavailable(f"{len(self._pending)} calls wait", mend="send fewer at once")
        loop = asyncio.get_running_loop()
        waiting: list[tuple[int, asyncio.Future[Json]]] = []
        bodies = []
        for method, params in calls:
            call_id, future = next(self._ids), loop.create_future()
            self._pending[call_id] = future, on_result
            waiting.append((call_id, future))
            body = {"jsonrpc": "2.0", "id": call_id, "method": method, "params": list(params)}
            bodies.append(orjson.dumps(body))
        try:
            for message in _messages(bodies):
                await socket.send(message)
            return [
                _answer(method, await future)
                for (method, _), (_, future) in zip(calls, waiting, strict=True)
            ]
        except (OSError, WebSocketException):
            raise _lost(self.url) from None
        finally:
            for call_id, future in waiting:
                self._pending.pop(call_id, None)
                if future.done() and not future.cancelled():
                    future.exception()  # seen, though an earlier one was raised first
                future.cancel()

    async def _connected(self) -> ClientConnection:
        async with self._opening:
            if self._closed:
                raise Unavailable(f"the connection to {self.url} was closed", mend="open a new one")
            if self._socket is None:
                try:
                    self._socket = await connect(
                        self.url,
                        max_size=MESSAGE_BYTES_MAX,
                        compression=None,
                        ping_interval=None,
                        proxy=None,
                        close_timeout=1,
                    )
                except (OSError, WebSocketException, TimeoutError) as error:
                    raise Unavailable(
                        f"{self.url} does not answer: {error}", mend="see whether the node runs"
                    ) from None
                self.connections += 1
                self._reader = asyncio.create_task(self._read(self._socket))
            return self._socket

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for message in socket:
                try:
                    parsed = orjson.loads(message)
                except ValueError:
                    break  # no JSON-RPC: nothing on this connection can be trusted to match
                for each in parsed if isinstance(parsed, list) else [parsed]:
                    self._dispatch(each)
        except (OSError, WebSocketException):
            pass  # the same as its end
        finally:
            self._drop(socket)
            with contextlib.suppress(OSError, WebSocketException):
                await socket.close()

    def _dispatch(self, message: Json) -> None:
        if not isinstance(message, dict):
            return
        params = message.get("params")
        if "method" in message and isinstance(params, dict) and "subscription" in params:
            self._notify(str(params["subscription"]), params.get("result"))
            return
        call_id = message.get("id")
        if not isinstance(call_id, int):
            return
        future, on_result = self._pending.get(call_id, (None, None))
        answered = "result" in message or "error" in message
        if answered and future is not None and not future.done():
            if on_result is not None and message.get("error") is None:
                on_result(message.get("result"))
            future.set_result(message)

    def _notify(self, sub_id: str, value: Json) -> None:
        if sub_id in self._subscriptions:
            self._subscriptions[sub_id].push(value)

    def _drop(self, socket: ClientConnection) -> None:
        if self._socket is socket:
            self._socket = None
        for future, _ in self._pending.values():
            if not future.done():
                future.set_exception(_lost(self.url))
        for subscription in self._subscriptions.values():
            subscription.lose()
        self._subscriptions.clear()


def _messages(bodies: Sequence[bytes]) -> Iterator[str]:
    """Requests as few messages of bounded size; one of many requests is a JSON array."""
    some: list[bytes] = []
    size = 0
    for body in bodies:
        if some and (len(some) == BATCH_MAX or size + len(body) > BATCH_BYTES_MAX):
            yield _joined(some)
            some, size = [], 0
        some.append(body)
        size += len(body)
    yield _joined(some)


def _joined(bodies: Sequence[bytes]) -> str:
    return (bodies[0] if len(bodies) == 1 else b"[" + b",".join(bodies) + b"]").decode()


def _answer(method: str, message: Json) -> Json:
    """The result, or the refusal as a value: in a batch others may have succeeded."""
    error = message.get("error")
    if error is None:
        return message.get("result")
    if not isinstance(error, dict):
        error = {}
    code, text = error.get("code", 0), error.get("message", "no reason given")
    return RpcRefused(method, code if isinstance(code, int) else 0, str(text), error.get("data"))


def _lost(url: str) -> Unavailable:
    return Unavailable(f"the connection to {url} was lost", mend="ask again when the node runs")


def hex_of(data: bytes) -> str:
    return "0x" + data.hex()


def bytes_of(value: Json) -> bytes:
    """Hex from a node. Raises `Unavailable`: the node speaks nonsense, another may not."""
    try:
        return bytes.fromhex(value.removeprefix("0x"))
    except (AttributeError, ValueError):
        shown = repr(value)[:80]
        raise Unavailable(
            f"the node answered {shown} where hex belongs", mend="ask another node"
        ) from None
