"""The new JSON-RPC API at a node's door: follows, pins, operations, sending."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.clients import chain
from tests.unit.test_node_door import ALICE, DAVE, account_key, ask, signed
from websockets.sync.client import ClientConnection, connect

from phala.crypto.hashes import blake2_256
from phala.node.rpc.chain_head import OPERATIONS_MAX
from phala.node.rpc.items import PAGE_ITEMS
from phala.node.rpc.transactions import BROADCASTS_MAX
from phala.primitives.header import HEADER

WAIT_S = 20
UNKNOWN = "0x" + "ab" * 32
CODE = "0x" + b":code".hex()
WITH_RUNTIME, WITHOUT = [True], [False]  # parameters of a follow


class Peer:
    """A connection that keeps what it is told apart from what it is answered."""

    def __init__(self, ws: ClientConnection) -> None:
        self.ws = ws
        self.told: list[Any] = []
        self.count = 0

    def receive(self) -> Any:
        return json.loads(self.ws.recv(timeout=WAIT_S))

    def whole(self, method: str, *params: Any) -> Any:
        self.count += 1
        asked = {"jsonrpc": "2.0", "id": self.count, "method": method, "params": params}
        self.ws.send(json.dumps(asked))
        while (found := self.receive()).get("id") != self.count:
            self.told.append(found["params"])
        return found

    def ask(self, method: str, *params: Any) -> Any:
        found = self.whole(method, *params)
        assert "error" not in found, found
        return found["result"]

    def code(self, method: str, *params: Any) -> int:
        code: int = self.whole(method, *params)["error"]["code"]
        return code

    def batch(self, *asked: tuple[str, list[Any]]) -> list[Any]:
        self.ws.send(json.dumps([{"id": 0, "method": m, "params": p} for m, p in asked]))
        while not isinstance(found := self.receive(), list):
            self.told.append(found["params"])
        return found

    def hear(self, *events: str, **fields: Any) -> Any:
        """The next of these events that has these fields; those before it are passed over."""
        while True:
            told = self.told.pop(0) if self.told else self.receive()["params"]
            event = told["result"]
            if event["event"] in events and fields.items() <= event.items():
                return event

    def follow(self, *, with_runtime: bool = True) -> tuple[str, str]:
        """A follow, and the newest final block that it began with."""
        name = self.ask("chainHead_v1_follow", with_runtime)
        final = self.hear("initialized")["finalizedBlockHashes"][-1]
        return name, final

    def operate(self, method: str, *params: Any) -> Any:
        """What an operation that has one event tells."""
        started = self.ask(method, *params)
        assert started["result"] == "started", started
        return self.hear(
            "operationBodyDone", "operationCallDone", "operationError", "operationInaccessible",
            operationId=started["operationId"],
        )  # fmt: skip

    def read(self, follow: str, block: str, *items: dict[str, str]) -> list[Any]:
        """All items that a storage operation tells of."""
        started = self.ask("chainHead_v1_storage", follow, block, list(items), None)
        assert started["discardedItems"] == 0
        name = started["operationId"]
        out: list[Any] = []
        while True:
            event = self.hear(
                "operationStorageItems", "operationWaitingForContinue", "operationStorageDone",
                operationId=name,
            )  # fmt: skip
            match event["event"]:
                case "operationStorageItems":
                    assert 0 < len(event["items"]) <= PAGE_ITEMS
                    out += event["items"]
                case "operationWaitingForContinue":
                    assert self.ask("chainHead_v1_continue", follow, name) is None
                case _:
                    return out


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chain.RunningNode]:
    with chain.running(tmp_path_factory.mktemp("chain")) as running:
        yield running
    log = (running.folder / "node.log").read_text()
    assert '"error"' not in log, log[-3000:]


@pytest.fixture
def http(node: chain.RunningNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.http, timeout=WAIT_S) as client:
        yield client


@pytest.fixture
def peer(node: chain.RunningNode) -> Iterator[Peer]:
    with connect(node.websocket, max_size=None) as ws:
        yield Peer(ws)


# ---- following


def test_a_follow_begins_with_final_blocks_and_a_runtime_then_tells_of_each_block(
    peer: Peer,
) -> None:
    name = peer.ask("chainHead_v1_follow", *WITH_RUNTIME)
    first = peer.hear("initialized")
    runtime = first["finalizedBlockRuntime"]
    assert runtime["type"] == "valid"
    assert set(runtime["spec"]) == {
        "specName", "implName", "specVersion", "implVersion", "transactionVersion", "apis",
    }  # fmt: skip
    known = list(first["finalizedBlockHashes"])
    assert 0 < len(known) <= 16
    final: list[str] = []
    parents: dict[str, str] = {}
    best = None
    while len(final) < 2:
        event = peer.hear("newBlock", "bestBlockChanged", "finalized")
        match event["event"]:
            case "newBlock":
                assert event["parentBlockHash"] in known
                assert event["newRuntime"] is None
                parents[event["blockHash"]] = event["parentBlockHash"]
                known.append(event["blockHash"])
            case "bestBlockChanged":
                best = event["bestBlockHash"]
                assert best == known[-1]
            case _:
                assert event["prunedBlockHashes"] == []
                final += event["finalizedBlockHashes"]
    assert best not in final
    assert parents[final[1]] == final[0]
    assert peer.ask("chainHead_v1_unfollow", name) is None
    assert peer.ask("chainHead_v1_unfollow", name) is None


def test_a_follow_without_runtime_has_none_and_calls_none(peer: Peer) -> None:
    name = peer.ask("chainHead_v1_follow", *WITHOUT)
    first = peer.hear("initialized")
    assert "finalizedBlockRuntime" not in first
    assert "newRuntime" not in peer.hear("newBlock")
    block = first["finalizedBlockHashes"][-1]
    assert peer.code("chainHead_v1_call", name, block, "Core_version", "0x") == -32802


def test_a_third_follow_is_refused_until_one_ends(peer: Peer) -> None:
    first, _ = peer.follow()
    peer.follow()
    assert peer.code("chainHead_v1_follow", *WITH_RUNTIME) == -32800
    peer.ask("chainHead_v1_unfollow", first)
    peer.follow()


def test_blocks_stay_readable_until_they_are_unpinned(peer: Peer, http: httpx.Client) -> None:
    name, block = peer.follow()
    header = bytes.fromhex(peer.ask("chainHead_v1_header", name, block)[2:])
    assert "0x" + blake2_256(header).hex() == block
    number = HEADER.decode(header).number
    assert ask(http, "chain_getBlockHash", number) == block
    new = peer.hear("newBlock")["blockHash"]
    assert peer.code("chainHead_v1_unpin", name, [block, new, block]) == -32804
    assert peer.code("chainHead_v1_unpin", name, [block, UNKNOWN]) == -32801
    assert peer.ask("chainHead_v1_header", name, block), "neither unpinned it"
    assert peer.ask("chainHead_v1_unpin", name, [block]) is None
    assert peer.code("chainHead_v1_unpin", name, block) == -32801
    for method, rest in (("header", []), ("body", []), ("storage", [[]]), ("call", ["a", "0x"])):
        assert peer.code(f"chainHead_v1_{method}", name, block, *rest) == -32801
    assert peer.ask("chainHead_v1_unpin", name, new) is None


def test_what_names_no_follow_reaches_a_limit_and_is_no_error(peer: Peer) -> None:
    limit = {"result": "limitReached"}
    assert peer.ask("chainHead_v1_body", "x", UNKNOWN) == limit
    assert peer.ask("chainHead_v1_storage", "x", UNKNOWN, [], None) == limit
    assert peer.ask("chainHead_v1_call", "x", UNKNOWN, "Core_version", "0x") == limit
    assert peer.ask("chainHead_v1_header", "x", UNKNOWN) is None
    assert peer.ask("chainHead_v1_unpin", "x", [UNKNOWN]) is None
    assert peer.ask("chainHead_v1_continue", "x", "1") is None
    assert peer.ask("chainHead_v1_stopOperation", "x", "1") is None


def test_follows_are_for_connections(http: httpx.Client, peer: Peer) -> None:
    answer = http.post("", json={"id": 1, "method": "chainHead_v1_follow", "params": [True]})
    assert answer.json()["error"]["code"] == -32601
    answer = http.post("", json={"id": 1, "method": "chainHead_v1_header", "params": ["1", "0x"]})
    assert answer.json()["error"]["code"] == -32601
    for params in ([], ["yes"], [1], [None]):
        assert peer.code("chainHead_v1_follow", *params) == -32602


# ---- operations


def test_bodies_and_calls_are_answered_as_events(peer: Peer, http: httpx.Client) -> None:
    name, block = peer.follow()
    body = peer.operate("chainHead_v1_body", name, block)["value"]
    assert body == ask(http, "chain_getBlock", block)["block"]["extrinsics"]
    output = peer.operate("chainHead_v1_call", name, block, "Core_version", "0x")["output"]
    assert output == ask(http, "state_call", "Core_version", "0x", block)
    nonce = peer.operate(
        "chainHead_v1_call", name, block, "AccountNonceApi_account_nonce", "0x" + ALICE.public.hex()
    )
    assert len(nonce["output"]) == 10
    failed = peer.operate("chainHead_v1_call", name, block, "No_such", "0x")
    assert failed["event"] == "operationError"
    assert failed["error"]


def test_storage_is_read_by_value_hash_and_prefix(peer: Peer, http: httpx.Client) -> None:
    name, block = peer.follow()
    key = account_key(ALICE)
    front = key[:66]
    value = ask(http, "state_getStorage", key, block)
    (found,) = peer.read(name, block, {"key": key, "type": "value"})
    assert found == {"key": key, "value": value}
    (found,) = peer.read(name, block, {"key": key, "type": "hash"})
    assert found == {"key": key, "hash": ask(http, "state_getStorageHash", key, block)}
    assert peer.read(name, block, {"key": UNKNOWN, "type": "value"}) == []
    under = peer.read(name, block, {"key": front, "type": "descendantsValues"})
    assert [each["key"] for each in under] == ask(http, "state_getKeys", front, block)
    assert {"key": key, "value": value} in under
    mixed = peer.read(
        name, block, {"key": CODE, "type": "hash"}, {"key": front, "type": "descendantsHashes"}
    )
    assert [each["key"] for each in mixed] == [CODE, *(each["key"] for each in under)]


def test_a_merkle_value_is_the_tries(peer: Peer) -> None:
    name, block = peer.follow()
    kind = "closestDescendantMerkleValue"
    header = HEADER.decode(bytes.fromhex(peer.ask("chainHead_v1_header", name, block)[2:]))
    (root,) = peer.read(name, block, {"key": "0x", "type": kind})
    assert root == {"key": "0x", kind: "0x" + header.state_root.hex()}
    key = account_key(ALICE)
    (leaf,) = peer.read(name, block, {"key": key, "type": kind})
    (branch,) = peer.read(name, block, {"key": key[:66], "type": kind})
    assert len({leaf[kind], branch[kind], root[kind]}) == 3
    assert peer.read(name, block, {"key": UNKNOWN, "type": kind}) == []


def test_long_reads_wait_for_the_client_between_pages(peer: Peer) -> None:
    name, block = peer.follow()
    asked = [{"key": CODE, "type": "hash"}] * (PAGE_ITEMS + 1)
    started = peer.ask("chainHead_v1_storage", name, block, asked, None)
    operation = started["operationId"]
    assert len(peer.hear("operationStorageItems", operationId=operation)["items"]) == PAGE_ITEMS
    peer.hear("operationWaitingForContinue", operationId=operation)
    assert peer.ask("chainHead_v1_continue", name, operation) is None
    assert len(peer.hear("operationStorageItems", operationId=operation)["items"]) == 1
    peer.hear("operationStorageDone", operationId=operation)
    assert peer.ask("chainHead_v1_continue", name, operation) is None
    assert len(peer.read(name, block, *asked)) == PAGE_ITEMS + 1


def test_operations_of_a_connection_are_bounded_until_they_are_stopped(peer: Peer) -> None:
    name, block = peer.follow()
    asked = [{"key": CODE, "type": "hash"}] * (PAGE_ITEMS + 1)
    params = [name, block, asked, None]
    many = peer.batch(*[("chainHead_v1_storage", params)] * (OPERATIONS_MAX + 2))
    results = [each["result"] for each in many]
    assert [each["result"] for each in results] == [
        *["started"] * OPERATIONS_MAX, "limitReached", "limitReached",
    ]  # fmt: skip
    assert peer.ask("chainHead_v1_body", name, block) == {"result": "limitReached"}
    assert peer.ask("chainHead_v1_stopOperation", name, results[0]["operationId"]) is None
    done = peer.operate("chainHead_v1_body", name, block)
    assert done["event"] == "operationBodyDone"  # of genesis, maybe: that one is empty


def test_items_past_the_most_are_told_to_be_discarded(peer: Peer) -> None:
    name, block = peer.follow()
    asked = [{"key": UNKNOWN, "type": "value"}] * 1_003
    assert peer.ask("chainHead_v1_storage", name, block, asked, None)["discardedItems"] == 3


@pytest.mark.parametrize(
    "items",
    [
        "0x", {}, [7], [{}], [{"key": "0x"}], [{"key": "0x", "type": "all"}],
        [{"key": "0x1", "type": "value"}], [{"key": 1, "type": "value"}],
        [{"key": "0x", "type": []}],
    ],
)  # fmt: skip
def test_wrong_items_are_told(peer: Peer, items: Any) -> None:
    name, block = peer.follow()
    assert peer.code("chainHead_v1_storage", name, block, items, None) == -32602
    assert peer.code("chainHead_v1_storage", name, block, [], "0x00") == -32602


# ---- sending, and what the chain is


def test_a_broadcast_transaction_gets_into_a_block(peer: Peer, http: httpx.Client) -> None:
    name, _ = peer.follow()
    extrinsic = signed(http, ALICE, ask(http, "system_accountNextIndex", ALICE.address))
    operation = peer.ask("transaction_v1_broadcast", extrinsic)
    assert isinstance(operation, str)
    while True:
        block = peer.hear("newBlock")["blockHash"]
        if extrinsic in peer.operate("chainHead_v1_body", name, block)["value"]:
            break
    assert peer.code("transaction_v1_stop", operation) == -32602, "it ended by itself"


def test_broadcasts_of_a_connection_are_bounded_and_can_be_stopped(
    peer: Peer, http: httpx.Client
) -> None:
    ahead = [signed(http, DAVE, 100 + each) for each in range(BROADCASTS_MAX + 1)]
    ids = [peer.ask("transaction_v1_broadcast", each) for each in ahead]
    assert None not in ids[:-1]
    assert ids[-1] is None
    assert peer.ask("transaction_v1_stop", ids[0]) is None
    assert peer.code("transaction_v1_stop", ids[0]) == -32602
    assert peer.ask("transaction_v1_broadcast", ahead[-1]) is not None
    assert peer.ask("transaction_v1_broadcast", "0x1234") is None
    assert peer.code("transaction_v1_broadcast", "no hex") == -32602


def test_a_watched_transaction_is_told_of_until_it_is_final(peer: Peer, http: httpx.Client) -> None:
    extrinsic = signed(http, ALICE, ask(http, "system_accountNextIndex", ALICE.address))
    peer.ask("transactionWatch_v1_submitAndWatch", extrinsic)
    peer.hear("validated")
    best = peer.hear("bestChainBlockIncluded")["block"]
    assert peer.hear("finalized")["block"] == best
    block = ask(http, "chain_getBlock", best["hash"])["block"]
    assert block["extrinsics"][best["index"]] == extrinsic
    name = peer.ask("transactionWatch_v1_submitAndWatch", extrinsic)
    assert peer.hear("invalid", "dropped")["error"]
    assert peer.ask("transactionWatch_v1_unwatch", name) is None
    for _ in range(2):  # at first it is wrong, then banned for it
        peer.ask("transactionWatch_v1_submitAndWatch", "0x1234")
        assert peer.hear("invalid")["error"]


def test_the_chain_is_described_and_all_methods_are_named(http: httpx.Client) -> None:
    assert ask(http, "chainSpec_v1_chainName") == ask(http, "system_chain")
    assert ask(http, "chainSpec_v1_genesisHash") == ask(http, "chain_getBlockHash", 0)
    assert ask(http, "chainSpec_v1_properties") == ask(http, "system_properties")
    methods = ask(http, "rpc_methods")["methods"]
    for name in (
        "follow", "unfollow", "header", "body", "storage", "call", "continue", "stopOperation",
        "unpin",
    ):  # fmt: skip
        assert f"chainHead_v1_{name}" in methods
    for name in ("transaction_v1_broadcast", "transaction_v1_stop"):
        assert name in methods
