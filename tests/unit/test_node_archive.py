"""`archive_v1_*` at a node's door: shapes and events as the specification has them."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.clients import chain
from tests.unit.test_node_chain_head import CODE, UNKNOWN, Peer
from tests.unit.test_node_door import ALICE, DEADLINE_S, account_key, ask, error, signed, wait_for
from websockets.sync.client import connect

from phala.crypto.hashes import blake2_256
from phala.node.rpc.archive import RUNNING_MAX
from phala.node.rpc.items import ITEMS_MAX, PAGE_ITEMS


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chain.RunningNode]:
    with chain.running(tmp_path_factory.mktemp("chain")) as running:
        with httpx.Client(base_url=running.http, timeout=DEADLINE_S) as client:
            ask(client, "author_submitExtrinsic", signed(client, ALICE, 0))
            wait_for(lambda: not ask(client, "author_pendingExtrinsics"))
        yield running
    log = (running.folder / "node.log").read_text()
    assert '"error"' not in log, log[-3000:]


@pytest.fixture
def http(node: chain.RunningNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.http, timeout=DEADLINE_S) as client:
        yield client


@pytest.fixture
def peer(node: chain.RunningNode) -> Iterator[Peer]:
    with connect(node.websocket, max_size=None) as ws:
        yield Peer(ws)


def told(peer: Peer, method: str, *params: Any) -> list[Any]:
    """All events of an operation, to its last."""
    name = peer.ask(method, *params)
    out: list[Any] = []
    while not out or not out[-1]["event"].endswith(("Done", "Error")):
        found = peer.told.pop(0) if peer.told else peer.receive()["params"]
        assert found["subscription"] == name
        out.append(found["result"])
    return out


def block_with_transfer(http: httpx.Client) -> str:
    """A block that has Alice's transfer."""
    head = int(ask(http, "chain_getHeader")["number"], 16)
    for number in range(head + 1):
        (block,) = ask(http, "archive_v1_hashByHeight", number)
        if len(ask(http, "archive_v1_body", block)) > 1:
            return str(block)
    raise AssertionError("no block has it")


def test_blocks_are_found_by_height_and_hash(http: httpx.Client) -> None:
    genesis = ask(http, "chain_getBlockHash", 0)
    assert ask(http, "archive_v1_genesisHash") == genesis
    assert ask(http, "archive_v1_hashByHeight", 0) == [genesis]
    assert ask(http, "archive_v1_hashByHeight", 1 << 40) == []
    height = ask(http, "archive_v1_finalizedHeight")
    (final,) = ask(http, "archive_v1_hashByHeight", height)
    header = bytes.fromhex(ask(http, "archive_v1_header", final)[2:])
    assert "0x" + blake2_256(header).hex() == final
    assert (
        ask(http, "archive_v1_body", final)
        == (ask(http, "chain_getBlock", final)["block"]["extrinsics"])
    )
    for method in ("body", "header"):
        assert ask(http, f"archive_v1_{method}", UNKNOWN) is None
    assert ask(http, "archive_v1_call", UNKNOWN, "Core_version", "0x") is None
    for method in ("body", "header", "hashByHeight"):
        assert error(http, f"archive_v1_{method}")["code"] == -32602


def test_a_call_succeeds_with_a_value_or_fails_with_words(http: httpx.Client) -> None:
    genesis = ask(http, "archive_v1_genesisHash")
    found = ask(http, "archive_v1_call", genesis, "Core_version", "0x")
    assert found == {"success": True, "value": ask(http, "state_call", "Core_version", "0x")}
    found = ask(http, "archive_v1_call", genesis, "No_such", "0x")
    assert found["success"] is False
    assert "No_such" in found["error"]


def test_storage_is_told_item_by_item_then_done(peer: Peer, http: httpx.Client) -> None:
    block = ask(http, "archive_v1_genesisHash")
    key = account_key(ALICE)
    value = ask(http, "state_getStorage", key, block)
    events = told(peer, "archive_v1_storage", block, [
        {"key": key, "type": "value"}, {"key": CODE, "type": "hash"},
        {"key": key, "type": "closestDescendantMerkleValue"}, {"key": UNKNOWN, "type": "value"},
    ], None)  # fmt: skip
    assert events[0] == {"event": "storage", "key": key, "value": value}
    code = ask(http, "state_getStorageHash", CODE, block)
    assert events[1] == {"event": "storage", "key": CODE, "hash": code}
    assert set(events[2]) == {"event", "key", "closestDescendantMerkleValue"}
    assert events[3:] == [{"event": "storageDone"}]
    under = told(
        peer, "archive_v1_storage", block, [{"key": key[:66], "type": "descendantsHashes"}]
    )
    assert [each["key"] for each in under[:-1]] == ask(http, "state_getKeys", key[:66], block)


def test_more_than_a_page_comes_without_asking_again(peer: Peer, http: httpx.Client) -> None:
    block = ask(http, "archive_v1_genesisHash")
    items = [{"key": CODE, "type": "hash"}] * (PAGE_ITEMS + 100)
    assert len(told(peer, "archive_v1_storage", block, items)) == PAGE_ITEMS + 101


def test_a_block_that_nobody_knows_is_an_error_of_the_operation(peer: Peer) -> None:
    (event,) = told(peer, "archive_v1_storage", UNKNOWN, [{"key": CODE, "type": "hash"}])
    assert event["event"] == "storageError"
    assert UNKNOWN in event["error"]
    (event,) = told(peer, "archive_v1_storageDiff", UNKNOWN)
    assert event["event"] == "storageDiffError"


def test_a_difference_is_what_a_block_changed(peer: Peer, http: httpx.Client) -> None:
    block = block_with_transfer(http)
    parent = ask(http, "chain_getHeader", block)["parentHash"]
    key = account_key(ALICE)
    *events, done = told(peer, "archive_v1_storageDiff", block, [{"returnType": "value"}])
    assert done == {"event": "storageDiffDone"}
    assert [each["key"] for each in events] == sorted(each["key"] for each in events)
    (mine,) = [each for each in events if each["key"] == key]
    assert mine["type"] == "modified"
    assert mine["value"] == ask(http, "state_getStorage", key, block)
    for each in events:
        old = ask(http, "state_getStorage", each["key"], parent)
        new = ask(http, "state_getStorage", each["key"], block)
        assert old != new
        assert each["type"] == (
            "added" if old is None else "deleted" if new is None else "modified"
        )
    front = [{"key": key[:66], "returnType": "hash"}]
    *some, _ = told(peer, "archive_v1_storageDiff", block, front, parent)
    assert {each["key"] for each in some} == {
        each["key"] for each in events if each["key"].startswith(key[:66])
    }
    assert all("hash" in each and "value" not in each for each in some)
    assert told(peer, "archive_v1_storageDiff", block, front, block) == [done]
    (backwards,) = told(peer, "archive_v1_storageDiff", parent, front, block)
    assert backwards["event"] == "storageDiffError"


def test_operations_are_stopped_and_bounded(peer: Peer, http: httpx.Client) -> None:
    block = ask(http, "archive_v1_genesisHash")
    items = [{"key": CODE, "type": "hash"}] * ITEMS_MAX
    many = peer.batch(*[("archive_v1_storage", [block, items])] * (RUNNING_MAX + 1))
    assert [each.get("error", {}).get("code") for each in many][-1] == -32006
    assert peer.ask("archive_v1_stopStorage", many[0]["result"]) is None
    assert peer.ask("archive_v1_stopStorage", "no such") is None
    assert peer.ask("archive_v1_stopStorageDiff", "no such") is None
    assert peer.code("archive_v1_storage", block, items * 2) == -32602


@pytest.mark.parametrize(
    "params", [[], ["0x00"], [UNKNOWN, {}], [UNKNOWN, [{}]], [UNKNOWN, [{"returnType": 1}]],
               [UNKNOWN, [{"returnType": "hash", "key": "0x1"}]],
               [UNKNOWN, [{"returnType": "hash", "childTrieKey": "0x00"}]],
               [UNKNOWN, [], "0x00"]],
)  # fmt: skip
def test_wrong_parameters_of_a_difference_are_told(peer: Peer, params: list[Any]) -> None:
    assert peer.code("archive_v1_storageDiff", *params) == -32602
