"""The client's connection, against a small node that dies, comes back, and talks nonsense."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.asyncio.server import Server, ServerConnection, serve

from phala.codec.compact import encode_compact
from phala.errors import Invalid, Refused, Unavailable
from phala.sdk.inclusion import Inclusions
from phala.sdk.rpc import Rpc, RpcRefused, bytes_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class MiniNode:
    """Blocks of extrinsics that survive, a pool and connections that do not."""

    blocks: list[list[str]] = field(default_factory=lambda: [[]])
    pool: list[str] = field(default_factory=list)
    listeners: list[tuple[ServerConnection, str, str]] = field(default_factory=list)
    refuse: dict[str, Any] | None = None
    raw: Callable[[str], str] | None = None
    server: Server | None = None
    port: int = 0

    async def start(self) -> None:
        self.server = await serve(self.talk, "127.0.0.1", self.port)
        self.port = next(iter(self.server.sockets)).getsockname()[1]

    async def stop(self) -> None:
        assert self.server is not None
        self.server.close(close_connections=True)
        await self.server.wait_closed()
        self.pool.clear()
        self.listeners.clear()

    async def talk(self, socket: ServerConnection) -> None:
        async for message in socket:
            if self.raw is not None:
                await socket.send(self.raw(str(message)))
                continue
            asked = json.loads(message)
            answers = [self.answer(socket, each) for each in _listed(asked)]
            await socket.send(json.dumps(answers if isinstance(asked, list) else answers[0]))
            for each in _listed(asked):
                if each["method"].startswith("chain_subscribe"):
                    await self.notify()

    def answer(self, socket: ServerConnection, asked: dict[str, Any]) -> dict[str, Any]:
        method, params = asked["method"], asked["params"]
        result: Any = None
        match method:
            case "chain_getHeader":
                result = self.header(len(self.blocks) - 1)
            case "chain_getBlockHash":
                result = block_hash(params[0])
            case "chain_getBlock":
                number = int(params[0], 16)
                result = {
                    "block": {"header": self.header(number), "extrinsics": self.blocks[number]}
                }
            case "author_submitExtrinsic":
                if self.refuse is not None:
                    return {"jsonrpc": "2.0", "id": asked["id"], "error": self.refuse}
                self.pool.append(params[0])
                result = "0x00"
            case "echo":
                result = params
            case "fail":
                error = {"code": 1010, "message": "Invalid Transaction", "data": "outdated"}
                return {"jsonrpc": "2.0", "id": asked["id"], "error": error}
            case _ if method.startswith("chain_subscribe"):
                result = f"{method}-{len(self.listeners)}"
                self.listeners.append((socket, method, result))
            case _:
                pass
        return {"jsonrpc": "2.0", "id": asked["id"], "result": result}

    def header(self, number: int) -> dict[str, Any]:
        return {"number": hex(number)}

    async def build(self) -> None:
        self.blocks.append(list(self.pool))
        self.pool.clear()
        await self.notify()

    async def notify(self) -> None:
        for socket, method, name in self.listeners:
            params = {"subscription": name, "result": self.header(len(self.blocks) - 1)}
            await socket.send(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}))


def _listed(asked: Any) -> list[Any]:
    return asked if isinstance(asked, list) else [asked]


def block_hash(number: int) -> str:
    return f"0x{number:064x}"


@asynccontextmanager
async def running() -> AsyncIterator[tuple[MiniNode, Rpc]]:
    node = MiniNode()
    await node.start()
    try:
        async with Rpc(f"ws://127.0.0.1:{node.port}", timeout_s=10) as rpc:
            yield node, rpc
    finally:
        await node.stop()


def extrinsic(body: bytes) -> bytes:
    return encode_compact(len(body)) + body


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - the other side knows nothing of us
            await asyncio.sleep(0.01)


async def test_calls_and_batches_are_answered_in_their_order() -> None:
    async with running() as (_, rpc):
        assert await rpc.call("echo", 1, "two") == [1, "two"]
        first, refused, last = await rpc.batch([("echo", [1]), ("fail", []), ("echo", [3])])

    assert (first, last) == ([1], [3])
    assert isinstance(refused, RpcRefused)
    assert refused.code == 1010


async def test_what_the_node_refuses_is_told_with_its_reason() -> None:
    async with running() as (_, rpc):
        with pytest.raises(RpcRefused, match="Invalid Transaction: outdated"):
            await rpc.call("fail")


async def test_a_call_outlives_a_restart_of_the_node() -> None:
    async with running() as (node, rpc):
        await rpc.call("echo")
        await node.stop()
        asked = asyncio.create_task(rpc.call("echo", "still here"))
        await asyncio.sleep(0)
        await node.start()

        assert await asked == ["still here"]


async def test_a_node_that_is_away_is_unavailable() -> None:
    node = MiniNode()
    await node.start()
    await node.stop()
    async with Rpc(f"ws://127.0.0.1:{node.port}") as rpc:
        with pytest.raises(Unavailable, match="did not answer"):
            await rpc.call("echo", timeout_s=0.3)


@pytest.mark.parametrize(
    "said",
    ["", "nonsense", "[]", "{}", '{"id": 1}', "[1, null]", '{"id": "x", "result": 1}', "null"],
)
async def test_nonsense_is_unavailable_and_ends_nothing(said: str) -> None:
    async with running() as (node, rpc):
        node.raw = lambda _: said
        with pytest.raises(Unavailable):
            await rpc.call("echo", timeout_s=0.3)

        node.raw = None
        assert await rpc.call("echo", 1) == [1]


async def test_a_subscription_ends_with_its_connection() -> None:
    async with running() as (node, rpc):
        heads = await rpc.subscribe("chain_subscribeNewHeads", "chain_unsubscribeNewHeads")
        assert (await anext(heads))["number"] == "0x0"
        await node.stop()

        with pytest.raises(Unavailable, match="lost"):
            await anext(heads)
        await node.start()


async def test_an_address_that_is_no_web_socket_is_refused() -> None:
    with pytest.raises(Invalid, match="WebSocket"):
        Rpc("http://127.0.0.1:9944")


@pytest.mark.parametrize("value", [None, 3, "0xzz", [], "zz"])
async def test_what_is_no_hex_is_unavailable(value: Any) -> None:
    with pytest.raises(Unavailable):
        bytes_of(value)


async def test_an_extrinsic_is_found_in_its_block() -> None:
    async with running() as (node, rpc):
        inclusions = Inclusions(rpc)
        found = await inclusions.watch(extrinsic(b"one"), account=b"a", nonce=0, dies=None)
        await node.build()

        included = await asyncio.wait_for(found, 10)
        await asyncio.wait_for(inclusions.until_finalized(included), 10)
        await inclusions.close()

    assert (included.number, included.index) == (1, 0)


async def test_an_extrinsic_that_a_restart_lost_is_given_again() -> None:
    async with running() as (node, rpc):
        inclusions = Inclusions(rpc)
        found = await inclusions.watch(extrinsic(b"one"), account=b"a", nonce=0, dies=None)
        await node.stop()
        assert node.pool == []
        await node.start()
        await until(lambda: bool(node.pool))
        await node.build()

        assert (await asyncio.wait_for(found, 10)).number == 1
        await inclusions.close()


async def test_an_extrinsic_included_before_the_node_died_is_found_after_it() -> None:
    async with running() as (node, rpc):
        inclusions = Inclusions(rpc)
        found = await inclusions.watch(extrinsic(b"one"), account=b"a", nonce=0, dies=None)
        node.listeners.clear()  # it dies before it can tell
        await node.build()
        await node.stop()
        node.refuse = {"code": 1010, "message": "Invalid Transaction", "data": "outdated"}
        await node.start()

        assert (await asyncio.wait_for(found, 10)).number == 1
        await inclusions.close()


async def test_nonces_under_way_are_known_until_they_are_included() -> None:
    async with running() as (node, rpc):
        inclusions = Inclusions(rpc)
        found = await inclusions.watch(extrinsic(b"one"), account=b"a", nonce=7, dies=None)
        assert inclusions.nonces(b"a") == [7]
        assert inclusions.nonces(b"b") == []
        await node.build()
        await asyncio.wait_for(found, 10)

        assert inclusions.nonces(b"a") == []
        await inclusions.close()


async def test_what_no_block_took_in_its_time_is_refused() -> None:
    async with running() as (node, rpc):
        inclusions = Inclusions(rpc)
        found = await inclusions.watch(extrinsic(b"one"), account=b"a", nonce=0, dies=2)
        node.pool.clear()
        await node.build()
        node.pool.clear()
        await node.build()

        with pytest.raises(Refused, match="no block up to"):
            await asyncio.wait_for(found, 10)
        await inclusions.close()


async def test_what_the_node_refuses_at_once_is_not_watched() -> None:
    async with running() as (node, rpc):
        inclusions = Inclusions(rpc)
        node.refuse = {"code": 1010, "message": "Invalid Transaction", "data": "bad signature"}
        with pytest.raises(RpcRefused, match="bad signature"):
            await inclusions.watch(extrinsic(b"one"), account=b"a", nonce=0, dies=None)

        assert inclusions.nonces(b"a") == []
        await inclusions.close()
