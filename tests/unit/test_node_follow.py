"""A follow over hundreds of blocks, in one process with its node: pins that hold, and every reason
for which a follow is stopped."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.clients import chain as clients

from phala.node.chain import WINDOW_BLOCKS
from phala.node.engines.solo import Solo
from phala.node.main import open_node
from phala.node.rpc import chain_head
from phala.node.rpc.chain_head import FOLLOWS_MAX, OPERATIONS_MAX
from phala.node.rpc.connection import Connection
from phala.node.rpc.server import Door
from phala.node.rpc.table import door_of
from phala.node.service import Node
from phala.primitives.keys import storage_prefix

NUMBER_KEY = "0x" + storage_prefix("System", "Number").hex()
CODE = "0x" + b":code".hex()
WITH_RUNTIME, WITHOUT = [True], [False]  # parameters of a follow
FEW = 40  # instead of hundreds, where only the count matters


class Client:
    """A connection that reads when it is told to."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.connection = Connection(lambda: None)
        self.told: list[Any] = []

    async def ask(self, method: str, *params: Any) -> Any:
        asked = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        data = json.dumps(asked).encode()
        found = json.loads(await self.door.answer(data, self.connection, own=True))
        self.connection.start()
        return found.get("result", found.get("error", {}).get("code"))

    async def read(self) -> None:
        """Take all that waits, when what was begun is done."""
        for _ in range(20):
            await asyncio.sleep(0)
        while self.connection.pending:
            message = json.loads(await self.connection.next())
            self.told.append(message["params"]["result"])

    def events(self, *names: str) -> list[Any]:
        return [each for each in self.told if each["event"] in names]


class Running:
    def __init__(self, node: Node, solo: Solo, door: Door) -> None:
        self.node = node
        self.solo = solo
        self.door = door

    async def write(self, count: int) -> None:
        for _ in range(count):
            await self.solo.write()


def opened(folder: Path, *, archive: bool) -> Iterator[Running]:
    node, solo, identity = open_node(folder, clients.prepare(folder), archive=archive)
    yield Running(node, solo, door_of(node, identity))
    node.chain.store.close()


@pytest.fixture
def pruned(tmp_path: Path) -> Iterator[Running]:
    yield from opened(tmp_path, archive=False)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Running]:
    yield from opened(tmp_path, archive=True)


async def number_at(client: Client, follow: str, block: str) -> int | None:
    """`System.Number`, as the state of a pinned block holds it."""
    started = await client.ask("chainHead_v1_storage", follow, block,
                               [{"key": NUMBER_KEY, "type": "value"}], None)  # fmt: skip
    if not isinstance(started, dict):
        return None
    await client.read()
    for event in client.events("operationStorageItems"):
        if event["operationId"] == started["operationId"]:
            return int.from_bytes(bytes.fromhex(event["items"][0]["value"][2:]), "little")
    return None


def test_a_pinned_blocks_state_stays_what_it_was_until_it_is_unpinned(pruned: Running) -> None:
    async def run() -> None:
        client = Client(pruned.door)
        await pruned.write(3)
        follow = await client.ask("chainHead_v1_follow", *WITH_RUNTIME)
        await client.read()
        first = client.told[0]["finalizedBlockHashes"][-1]
        before = await number_at(client, follow, first)
        await pruned.write(60)
        assert await number_at(client, follow, first) == before == 2
        for event in client.events("newBlock")[:-1]:
            assert await client.ask("chainHead_v1_unpin", follow, event["blockHash"]) is None
        assert await client.ask("chainHead_v1_unpin", follow, [first, first]) == -32804
        assert await client.ask("chainHead_v1_unpin", follow, [first]) is None
        assert await client.ask("chainHead_v1_unpin", follow, [first]) == -32801
        assert await client.ask("chainHead_v1_header", follow, first) == -32801
        assert not client.events("stop")

    asyncio.run(run())


def test_a_follow_whose_pinned_block_leaves_the_window_is_stopped(pruned: Running) -> None:
    async def run() -> None:
        client = Client(pruned.door)
        await client.ask("chainHead_v1_follow", *WITH_RUNTIME)
        for _ in range(WINDOW_BLOCKS):
            await pruned.write(1)
            await client.read()
        assert not client.events("stop")
        await pruned.write(8)
        await client.read()
        assert client.told[-1] == {"event": "stop"}, "and nothing after it"

    asyncio.run(run())


def test_a_follow_that_pins_too_many_blocks_is_stopped_and_one_that_unpins_goes_on(
    archive: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_head, "PINNED_MAX", FEW)

    async def run() -> None:
        client, tidy = Client(archive.door), Client(archive.door)
        await client.ask("chainHead_v1_follow", *WITHOUT)
        follow = await tidy.ask("chainHead_v1_follow", *WITHOUT)
        for _ in range(FEW + 1):
            await archive.write(1)
            await client.read()
            await tidy.read()
            for event in tidy.events("newBlock"):
                await tidy.ask("chainHead_v1_unpin", follow, event["blockHash"])
            tidy.told.clear()
        assert len(client.events("newBlock")) < FEW
        assert client.told[-1] == {"event": "stop"}
        assert await client.ask("chainHead_v1_follow", *WITHOUT), "it may follow anew"
        await archive.write(1)
        await tidy.read()
        assert tidy.events("newBlock")

    asyncio.run(run())


def test_a_follow_whose_client_does_not_read_is_stopped(
    archive: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_head, "LAG_MESSAGES_MAX", FEW)

    async def run() -> None:
        client = Client(archive.door)
        follow = await client.ask("chainHead_v1_follow", *WITHOUT)
        while client.connection.pending <= FEW:
            await archive.write(1)
            block = "0x" + archive.node.chain.head.hash().hex()
            assert await client.ask("chainHead_v1_unpin", follow, block) is None
        await archive.write(1)
        await client.read()
        assert client.told[-1] == {"event": "stop"}

    asyncio.run(run())


def test_a_follow_is_stopped_when_finality_falls_far_behind(
    archive: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chain_head, "LAG_BLOCKS_MAX", FEW)
    monkeypatch.setattr(archive.solo.author, "finalize", lambda _number: None)

    async def run() -> None:
        await archive.write(2)
        client = Client(archive.door)
        await client.ask("chainHead_v1_follow", *WITHOUT)
        for _ in range(FEW + 2):
            await archive.write(1)
            await client.read()
        assert client.told[-1] == {"event": "stop"}
        late = Client(archive.door)
        await late.ask("chainHead_v1_follow", *WITHOUT)
        await late.read()
        assert late.told[-1] == {"event": "stop"}

    asyncio.run(run())


def test_limits_are_of_a_connection_and_come_back_with_what_ends(pruned: Running) -> None:
    async def run() -> None:
        await pruned.write(2)
        client, other = Client(pruned.door), Client(pruned.door)
        follows = [
            await client.ask("chainHead_v1_follow", *WITH_RUNTIME) for _ in range(FOLLOWS_MAX)
        ]
        assert await client.ask("chainHead_v1_follow", *WITH_RUNTIME) == -32800
        assert isinstance(await other.ask("chainHead_v1_follow", *WITH_RUNTIME), str)
        await client.read()
        block = client.told[0]["finalizedBlockHashes"][-1]
        many = [{"key": CODE, "type": "hash"}] * 1_000
        started = [
            await client.ask("chainHead_v1_storage", follows[n % 2], block, many, None)
            for n in range(OPERATIONS_MAX + 1)
        ]
        assert [each["result"] for each in started] == ["started"] * OPERATIONS_MAX + [
            "limitReached"
        ]
        await client.read()
        waiting = client.events("operationWaitingForContinue")
        assert len(waiting) == OPERATIONS_MAX
        name = started[0]["operationId"]
        assert await client.ask("chainHead_v1_continue", follows[0], name) is None
        await client.read()
        assert [each["operationId"] for each in client.events("operationStorageDone")] == [name]
        again = await client.ask("chainHead_v1_body", follows[0], block)
        assert again["result"] == "started"
        await client.read()
        assert await client.ask("chainHead_v1_unfollow", follows[1]) is None
        assert isinstance(await client.ask("chainHead_v1_follow", *WITH_RUNTIME), str)

    asyncio.run(run())


def test_continuing_what_does_not_wait_is_an_error_and_stopping_it_is_not(
    pruned: Running,
) -> None:
    async def run() -> None:
        await pruned.write(2)
        client = Client(pruned.door)
        follow = await client.ask("chainHead_v1_follow", *WITH_RUNTIME)
        await client.read()
        block = client.told[0]["finalizedBlockHashes"][-1]
        many = [{"key": CODE, "type": "hash"}] * 1_000
        asked = {
            "jsonrpc": "2.0",
            "method": "chainHead_v1_storage",
            "params": [follow, block, many],
        }
        goes_on = {"jsonrpc": "2.0", "method": "chainHead_v1_continue", "params": [follow, "1"]}
        batch = json.dumps([{**asked, "id": 1}, {**goes_on, "id": 2}]).encode()
        found = json.loads(await pruned.door.answer(batch, client.connection, own=True))
        assert found[0]["result"]["operationId"] == "1"
        assert found[1]["error"]["code"] == -32803, "it has not begun"
        client.connection.start()
        await client.read()
        assert await client.ask("chainHead_v1_stopOperation", follow, "1") is None
        assert await client.ask("chainHead_v1_stopOperation", follow, "1") is None
        assert await client.ask("chainHead_v1_continue", follow, "1") is None
        await client.read()
        assert not client.events("operationStorageDone")

    asyncio.run(run())


def test_an_operation_on_a_state_that_is_gone_is_told_to_be_inaccessible(
    pruned: Running,
) -> None:
    async def run() -> None:
        await pruned.write(2)
        client = Client(pruned.door)
        follow = await client.ask("chainHead_v1_follow", *WITH_RUNTIME)
        await client.read()
        block = client.told[0]["finalizedBlockHashes"][-1]
        many = [{"key": CODE, "type": "hash"}] * 1_000
        started = await client.ask("chainHead_v1_storage", follow, block, many, None)
        await client.read()
        pruned.node.chain.oldest = pruned.node.chain.head.number  # as folding does
        await client.ask("chainHead_v1_continue", follow, started["operationId"])
        await client.read()
        assert client.told[-1] == {
            "event": "operationInaccessible", "operationId": started["operationId"],
        }  # fmt: skip

    asyncio.run(run())
