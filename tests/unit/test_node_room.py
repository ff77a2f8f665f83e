"""What strangers can make a node's door hold is bounded, for all of them together."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvicorn
import uvloop

from phala.node.main import Server, listen
from phala.node.rpc import sockets
from phala.node.rpc.connection import SUBSCRIPTION_BYTES, Connection
from phala.node.rpc.errors import RpcError
from phala.node.rpc.room import SHARE_BYTES, Held, Room
from phala.node.rpc.server import Door, Methods
from phala.node.rpc.sockets import FRAGMENTS_MAX, BoundedHttp, BoundedWebSocket

DEADLINE_S = 20
MIB = 1024 * 1024
HELLO = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


class Site:
    """A door that serves in this process, and its clients, who read when they are told to."""

    def __init__(self) -> None:
        methods = Methods()
        methods.add("big")(lambda _: "x" * (8 * MIB))
        methods.add("middling")(lambda _: "x" * MIB)
        methods.add("small")(lambda _: "here")
        methods.add("slow")(lambda _: time.sleep(0.01))
        self.door = Door(methods)
        self.listening = listen("127.0.0.1", 0)
        config = uvicorn.Config(
            self.door, http=BoundedHttp, ws=BoundedWebSocket, lifespan="off", log_config=None,
            access_log=False, proxy_headers=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
        self.server = Server(config)
        self._peers: list[socket.socket] = []

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)

    async def peer(self, *words: bytes) -> socket.socket:
        found = socket.socket()
        self._peers.append(found)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        found.settimeout(0)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(found, self.listening.getsockname())
        for word in words:
            await loop.sock_sendall(found, word)
        return found

    async def websocket(self, *messages: bytes) -> socket.socket:
        found = await self.peer(HELLO)
        assert b" 101 " in await heard(found)
        for message in messages:
            await asyncio.get_running_loop().sock_sendall(found, message)
        return found

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            serving = asyncio.create_task(self.server.serve([self.listening]))
            await until(lambda: self.server.started)
            try:
                await work()
            finally:
                for each in self._peers:
                    each.close()
                self.server.should_exit = True
                await serving

        uvloop.run(main())


@pytest.fixture
def site() -> Iterator[Site]:
    found = Site()
    yield found
    assert (found.door.coming.used, found.door.going.used) == (0, 0), "what is over is given back"


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - a peer tells of nothing
            await asyncio.sleep(0.005)


async def heard(peer: socket.socket, size: int = 4_096) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return await asyncio.get_running_loop().sock_recv(peer, size)


def post(method: str, *, size: int | None = None) -> bytes:
    body = b'{"id":1,"method":"%s"}' % method.encode()
    length = len(body) if size is None else size
    return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length + body


def message(method: str) -> bytes:
    return frame(0x81, b'{"id":1,"method":"%s"}' % method.encode())


def frame(head: int, data: bytes) -> bytes:
    assert len(data) < 126
    return bytes([head, 0x80 | len(data)]) + bytes(4) + data


def test_whoever_holds_a_share_is_let_be_when_all_is_held() -> None:
    room = Room(10 * SHARE_BYTES)
    large, small = Held(room), Held(room)
    assert large.take(10 * SHARE_BYTES)
    assert small.take(SHARE_BYTES)
    assert not small.take(1)
    small.give_back(1)
    large.give_back(SHARE_BYTES)
    assert large.take(0)
    large.give_back()
    small.give_back()
    assert room.used == 0


@pytest.mark.parametrize("again", [0, 3], ids=["once", "and asks for more"])
def test_who_reads_no_answer_over_http_is_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch, again: int
) -> None:
    monkeypatch.setattr(sockets, "LOOK_S", 0.1)

    async def work() -> None:
        await site.peer(post("big") * (1 + again))
        await until(lambda: site.door.going.used > MIB)
        await until(lambda: site.connections == 0)

    site.run(work)


def test_who_reads_slowly_over_http_has_the_whole_answer(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "LOOK_S", 0.2)
    monkeypatch.setattr(sockets, "READ_BYTES_MIN", 1)

    async def work() -> None:
        peer, size = await site.peer(post("big")), 0
        while size < 8 * MIB:
            found = len(await heard(peer, 32_768))
            assert found, f"ended after {size} bytes"
            size += found

    site.run(work)


def test_what_waits_for_peers_that_do_not_read_is_bounded_for_all_together(site: Site) -> None:
    site.door.going.bytes_max = 8 * MIB

    async def work() -> None:
        for _ in range(6):
            await site.websocket(message("middling") * 4)
        await until(lambda: site.connections < 6)
        assert site.door.going.used <= 8 * MIB
        reader = await site.websocket(message("small"))
        assert b"here" in await heard(reader)
        assert b"here" in await heard(await site.peer(post("small")))

    site.run(work)


def test_requests_that_never_come_whole_are_bounded_for_all_together(site: Site) -> None:
    site.door.coming.bytes_max = MIB

    async def work() -> None:
        parts = b" " * (MIB // 2)
        peers = [await site.peer(post("small", size=2 * MIB), parts) for _ in range(2)]
        assert (await heard(peers[1])).startswith(b"HTTP/1.1 503 ")
        opening = bytes([0x81, 0xFF]) + MIB.to_bytes(8, "big") + bytes(4)
        told = await site.websocket(opening)
        sending = asyncio.ensure_future(asyncio.get_running_loop().sock_sendall(told, parts))
        await until(lambda: site.connections == 2)
        await asyncio.wait({sending})
        assert b"here" in await heard(await site.peer(post("small")))

    site.run(work)


def test_what_subscriptions_keep_is_bounded_for_all_connections_together() -> None:
    kept = Room(16 * SUBSCRIPTION_BYTES)
    greedy, modest = (Connection(lambda: None, kept=kept) for _ in range(2))
    large = greedy.subscribe("one")
    large.keep(8 * SUBSCRIPTION_BYTES)
    for _ in range(SHARE_BYTES // SUBSCRIPTION_BYTES):
        modest.subscribe("one")  # its share is its own
    for ask in (lambda: modest.subscribe("one"), lambda: large.keep(SHARE_BYTES)):
        with pytest.raises(RpcError, match="Too many subscriptions"):
            ask()
    assert len(modest.subscriptions) == SHARE_BYTES // SUBSCRIPTION_BYTES

    large.end()
    modest.close()
    assert (kept.used, greedy.subscriptions, modest.subscriptions) == (0, {}, {})


@pytest.mark.parametrize(
    "flood",
    [
        frame(0x01, b"[") + frame(0x00, b" ") * (2 * FRAGMENTS_MAX),
        frame(0x89, b"p" * 125) * 200_000,
    ],
    ids=["fragments of a byte", "pings whose pongs are not read"],
)
def test_a_websocket_that_floods_below_its_messages_is_ended(site: Site, flood: bytes) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        peer = await site.websocket()
        sending = asyncio.ensure_future(loop.sock_sendall(peer, flood))
        await until(lambda: site.connections == 0)
        await asyncio.wait({sending}, timeout=DEADLINE_S)
        assert sending.done()
        sending.exception()

    site.run(work)


def test_many_batches_at_once_keep_nobody_else_waiting(site: Site) -> None:
    body = b"[" + b",".join([b'{"id":1,"method":"slow"}'] * 100) + b"]"
    batch = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body

    async def work() -> None:
        for _ in range(8):
            await site.peer(batch)
        began = time.monotonic()
        assert b"here" in await heard(await site.peer(post("small")))
        assert time.monotonic() - began < 1, "eight batches take eight seconds"

    site.run(work)
