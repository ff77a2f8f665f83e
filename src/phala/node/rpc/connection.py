"""One client's WebSocket: what it subscribed to, what it is told, and how much waits for it."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import orjson

from phala.node.rpc.errors import TOO_MANY_SUBSCRIPTIONS, RpcError
from phala.node.rpc.room import Held, Room

LOG: Final = logging.getLogger("phala.node.rpc")

ANSWER_BYTES_MAX: Final = 15 * 1024 * 1024  # Substrate's default
SUBSCRIPTIONS_MAX: Final = 1_024  # of one connection; Substrate's default
PENDING_BYTES_MAX: Final = 2 * ANSWER_BYTES_MAX  # to one slow reader; then it is dropped
GOING_BYTES_MAX: Final = 256 * 1024 * 1024  # to all slow readers, likewise
KEPT_BYTES_MAX: Final = 64 * 1024 * 1024  # by all subscriptions, of what they were asked with
SUBSCRIPTION_BYTES: Final = 4 * 1024  # at least, of one
PENDING_MAX: Final = 4_096  # messages, likewise
LOW: Final = 64  # messages that wait: who has many more to send waits for so few
LOW_BYTES: Final = 1024 * 1024  # likewise


class Connection:
    """One WebSocket: what it subscribed to, and what waits to be sent."""

    def __init__(
        self,
        abort: Callable[[], None],
        *,
        own: bool = False,
        going: Room | None = None,
        kept: Room | None = None,
    ) -> None:
        self.own = own  # the node's owner has it
        self._tasks: set[asyncio.Task[None]] = set()
        self._low = asyncio.Event()
        self.subscriptions: dict[str, Subscription] = {}
        self._fresh: list[Subscription] = []  # whose ids the client does not have yet
        self._later: list[Callable[[], None]] = []
        self.dropped = False  # for not reading
        self._abort = abort
        self._count = 0
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._held = Held(going or Room(GOING_BYTES_MAX))
        self.kept = Held(kept or Room(KEPT_BYTES_MAX))  # by its subscriptions
        self._some = asyncio.Event()

    def send(self, message: bytes) -> None:
        """Queue a message. A peer that does not read loses its connection."""
        if self.dropped:
            return
        self._pending_bytes += len(message)
        fits = self._held.take(len(message)) and self._pending_bytes <= PENDING_BYTES_MAX
        if len(self._pending) >= PENDING_MAX or not fits:
            self._pending.clear()
            self._held.give_back()
            self.dropped = True
            self._abort()
            return
        self._pending.append(message)
        self._some.set()

    async def next(self) -> bytes:
        """The next message to send, when there is one; then say that it is `sent`."""
        while not self._pending:
            self._some.clear()
            await self._some.wait()
        message = self._pending.popleft()
        self._pending_bytes -= len(message)
        if self._is_low:
            self._low.set()
        return message

    def sent(self, message: bytes) -> None:
        self._held.give_back(len(message))

    @property
    def _is_low(self) -> bool:
        return len(self._pending) <= LOW and self._pending_bytes <= LOW_BYTES

    async def room(self) -> None:
        """Return when the peer has read nearly all: for who has more to send than fits."""
        while not self._is_low:
            self._low.clear()
            await self._low.wait()

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something that takes a while, until it is done or the connection ends."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            LOG.error("an operation failed", exc_info=task.exception())

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
        found.keep(SUBSCRIPTION_BYTES)
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
        for task in list(self._tasks):
            task.cancel()
        self._pending.clear()
        self._held.give_back()


class Subscription:
    """What one subscription tells its client."""

    def __init__(self, to: Connection, name: str, notification: str) -> None:
        self.id = name
        self.notification = notification
        self.to = to
        self.ended = False
        self._kept = 0
        self._at_end: list[Callable[[], None]] = []
        self._held: list[Any] | None = []  # until the client has the id

    def keep(self, count: int) -> None:
        """So many bytes stay as long as it does. Raises `RpcError` where all together keep too much
        already."""
        if not self.to.kept.take(count):
            self.to.kept.give_back(count)
            raise RpcError(
                TOO_MANY_SUBSCRIPTIONS, "Too many subscriptions on the connection",
                "all connections together keep too much; unsubscribe from some, or ask for less",
            )  # fmt: skip
        self._kept += count

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
        self.to.kept.give_back(self._kept)
        self._kept = 0
        self.to.subscriptions.pop(self.id, None)
        for callback in self._at_end:
            callback()
        self._at_end.clear()
