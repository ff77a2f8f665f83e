"""A node's door: the shapes that clients know, and what strangers send. One process for all."""

import contextlib
import json
import random
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.clients import chain
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from phala.codec import encode_compact
from phala.crypto.hashes import blake2_128
from phala.finality import decode_justification
from phala.primitives.keys import storage_prefix
from phala.primitives.types import PHA
from phala.sdk.extrinsic import Terms, sign_extrinsic
from phala.sdk.keyring import dev_pair

ALICE, BOB, DAVE = (dev_pair(name) for name in ("Alice", "Bob", "Dave"))
EXTENSIONS = (
    "CheckNonZeroSender", "CheckSpecVersion", "CheckTxVersion", "CheckGenesis", "CheckMortality",
    "CheckNonce", "CheckWeight", "ChargeTransactionPayment",
)  # fmt: skip
UNKNOWN = "0x" + "ab" * 32
EVENTS = "0x" + storage_prefix("System", "Events").hex()
DEADLINE_S = 20


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chain.RunningNode]:
    with chain.running(tmp_path_factory.mktemp("chain")) as running:
        yield running


@pytest.fixture
def http(node: chain.RunningNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.http, timeout=DEADLINE_S) as client:
        yield client
        assert ask(client, "system_chain") == "Phala Development", "it answers afterwards"


@pytest.fixture
def ws(node: chain.RunningNode) -> Iterator[ClientConnection]:
    with connect(node.websocket, max_size=None) as connection:
        yield connection


def whole(client: httpx.Client, method: str, *params: Any) -> dict[str, Any]:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    answer = client.post("", json=request)
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    assert found["jsonrpc"] == "2.0"
    assert found["id"] == 1
    return found


def ask(client: httpx.Client, method: str, *params: Any) -> Any:
    found = whole(client, method, *params)
    assert "error" not in found, found
    return found["result"]


def error(client: httpx.Client, method: str, *params: Any) -> Any:
    return whole(client, method, *params)["error"]


def tell(ws: ClientConnection, method: str, *params: Any, name: Any = 1) -> None:
    ws.send(json.dumps({"jsonrpc": "2.0", "id": name, "method": method, "params": params}))


def hear(ws: ClientConnection) -> Any:
    return json.loads(ws.recv(timeout=DEADLINE_S))


def call(ws: ClientConnection, method: str, *params: Any) -> Any:
    tell(ws, method, *params)
    found = hear(ws)
    assert "result" in found, found
    return found["result"]


def signed(client: httpx.Client, pair: Any, nonce: int, *, tip: int = 0) -> str:
    genesis = bytes.fromhex(ask(client, "chain_getBlockHash", 0)[2:])
    transfer = b"\5\3\0" + BOB.public + encode_compact(PHA)
    terms = Terms(genesis, 1, 1, nonce=nonce, tip=tip, mortality=None)
    data: bytes = sign_extrinsic(transfer, pair, EXTENSIONS, terms)
    return "0x" + data.hex()


def account_key(pair: Any) -> str:
    front = storage_prefix("System", "Account")
    public: bytes = pair.public
    return "0x" + (front + blake2_128(public) + public).hex()


# ---- shapes


def test_a_chain_is_described_as_clients_expect(http: httpx.Client) -> None:
    assert ask(http, "system_name") == "Phala"
    assert ask(http, "system_chainType") == "Development"
    assert ask(http, "system_properties") == {
        "ss58Format": 30, "tokenDecimals": 12, "tokenSymbol": "PHA",
    }  # fmt: skip
    assert ask(http, "system_health") == {
        "peers": 0, "isSyncing": False, "shouldHavePeers": False,
    }  # fmt: skip
    version = ask(http, "state_getRuntimeVersion")
    assert version == ask(http, "chain_getRuntimeVersion")
    assert (version["specName"], version["stateVersion"]) == ("phala", 1)
    assert all(len(name) == 18 and isinstance(number, int) for name, number in version["apis"])
    assert ask(http, "state_getMetadata").startswith("0x6d6574610e")
    methods = ask(http, "rpc_methods")["methods"]
    for name in (
        "author_submitAndWatchExtrinsic", "chain_subscribeAllHeads", "chain_unsubscribeNewHead",
        "state_subscribeStorage", "state_getReadProof", "account_nextIndex", "state_callAt",
        "state_getStorageHash", "state_getStorageSize", "state_subscribeRuntimeVersion",
    ):  # fmt: skip
        assert name in methods


def test_blocks_have_the_shapes_of_substrate(http: httpx.Client) -> None:
    genesis = ask(http, "chain_getBlockHash", 0)
    header = ask(http, "chain_getHeader", genesis)
    assert set(header) == {"parentHash", "number", "stateRoot", "extrinsicsRoot", "digest"}
    assert (header["number"], header["digest"]) == ("0x0", {"logs": []})
    assert header["extrinsicsRoot"].startswith("0x03170a2e")
    assert ask(http, "chain_getBlockHash", "0x0") == genesis
    assert ask(http, "chain_getBlockHash", [0, 0]) == [genesis, genesis]
    assert ask(http, "chain_getBlockHash", []) == []
    assert ask(http, "chain_getBlockHash", 1 << 40) is None
    block = ask(http, "chain_getBlock", genesis)
    assert block == {"block": {"header": header, "extrinsics": []}, "justifications": None}
    assert ask(http, "chain_getBlock", UNKNOWN) is None
    assert ask(http, "chain_getHeader", UNKNOWN) is None


def test_storage_is_read_by_key_by_page_and_with_a_proof(http: httpx.Client) -> None:
    key = account_key(ALICE)
    value = ask(http, "state_getStorage", key)
    assert ask(http, "state_getStorageSize", key) == len(value) // 2 - 1
    assert len(ask(http, "state_getStorageHash", key)) == 66
    front = key[: 2 + 64]
    every = ask(http, "state_getKeysPaged", front, 1_000, None)
    assert key in every
    assert every == sorted(every)
    assert ask(http, "state_getKeysPaged", front, 2, every[0]) == every[1:3]
    assert ask(http, "state_getKeysPaged", front, 5, every[-1]) == []
    head = ask(http, "chain_getHead")
    (found,) = ask(http, "state_queryStorageAt", [key, key, "0x00"], head)
    assert found == {"block": head, "changes": [[key, value], ["0x00", None]]}
    proof = ask(http, "state_getReadProof", [key], head)
    assert proof["at"] == head
    assert len(proof["proof"]) > 1
    assert ask(http, "state_getStorage", "0x") is None
    assert ask(http, "state_getStorage", "0x" + "00" * 600) is None


def test_a_transfer_is_watched_until_it_is_final(ws: ClientConnection, http: httpx.Client) -> None:
    nonce = ask(http, "system_accountNextIndex", ALICE.address)
    extrinsic = signed(http, ALICE, nonce)
    watch = call(ws, "author_submitAndWatchExtrinsic", extrinsic)
    assert ask(http, "account_nextIndex", ALICE.address) == nonce + 1
    seen: list[Any] = []
    while not seen or "finalized" not in seen[-1]:
        notice = hear(ws)
        assert notice["method"] == "author_extrinsicUpdate"
        assert notice["params"]["subscription"] == watch
        seen.append(notice["params"]["result"])

    assert seen[0] == "ready"
    assert seen[1] == {"inBlock": seen[2]["finalized"]}
    assert call(ws, "author_unwatchExtrinsic", watch) is False  # it ended by itself
    block = ask(http, "chain_getBlock", seen[2]["finalized"])
    assert extrinsic in block["block"]["extrinsics"]
    ((engine, data),) = block["justifications"]
    assert engine == list(b"FRNK")
    justified = decode_justification(bytes(data))
    assert "0x" + justified.target_hash.hex() == seen[2]["finalized"]
    number = int(block["block"]["header"]["number"], 16)
    proof = ask(http, "grandpa_proveFinality", number)
    assert bytes.fromhex(proof[2:])
    assert ask(http, "grandpa_proveFinality", number + 1_000) is None


def test_subscriptions_tell_at_once_and_of_changes_alone(
    ws: ClientConnection, http: httpx.Client
) -> None:
    key = account_key(ALICE)
    heads = call(ws, "chain_subscribeNewHead")
    first = hear(ws)
    assert first["method"] == "chain_newHead"
    storage = call(ws, "state_subscribeStorage", [key, "0x1234"])
    told = hear(ws)
    while told["method"] != "state_storage":
        told = hear(ws)
    assert [change[0] for change in told["params"]["result"]["changes"]] == [key, "0x1234"]
    ask(
        http, "author_submitExtrinsic",
        signed(http, ALICE, ask(http, "system_accountNextIndex", ALICE.address)),
    )  # fmt: skip
    numbers = [int(first["params"]["result"]["number"], 16)]
    changed = None
    while changed is None or len(numbers) < 3:
        told = hear(ws)
        result = told["params"]["result"]
        if told["method"] == "chain_newHead":
            numbers.append(int(result["number"], 16))
        else:
            changed = result["changes"]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [each[0] for each in changed] == [key]
    tell(ws, "chain_unsubscribeNewHeads", storage, name="wrong kind")
    tell(ws, "chain_unsubscribeNewHead", heads, name="right")
    tell(ws, "state_unsubscribeStorage", storage, name="storage")
    answers: dict[str, Any] = {}
    while len(answers) < 3:
        told = hear(ws)
        if "id" in told:
            answers[told["id"]] = told["result"]
    assert answers == {"wrong kind": False, "right": True, "storage": True}


def test_refused_extrinsics_get_substrates_codes(http: httpx.Client) -> None:
    good = signed(http, DAVE, 0)
    assert error(http, "author_submitExtrinsic", "0x")["code"] == 1001
    assert error(http, "author_submitExtrinsic", "0x1234")["code"] == 1001
    assert error(http, "author_submitExtrinsic", good[:-2])["code"] == 1001
    bad = bytearray(bytes.fromhex(good[2:]))
    bad[60] ^= 1
    refused = error(http, "author_submitExtrinsic", "0x" + bad.hex())
    assert (refused["code"], refused["data"]) == (1010, "Transaction has a bad signature")
    assert error(http, "author_submitExtrinsic", "0x" + bad.hex())["code"] == 1012
    ahead = signed(http, DAVE, 7)
    assert ask(http, "author_submitExtrinsic", ahead)
    assert error(http, "author_submitExtrinsic", ahead)["code"] == 1013
    used = ask(http, "system_accountNextIndex", ALICE.address)
    if not used:
        ask(http, "author_submitExtrinsic", signed(http, ALICE, 0))
        wait_for(lambda: not ask(http, "author_pendingExtrinsics"))
    stale = error(http, "author_submitExtrinsic", signed(http, ALICE, 0, tip=1))
    assert (stale["code"], stale["data"]) == (1010, "Transaction is outdated")


def wait_for(condition: Any) -> None:
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


# ---- garbage


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("no_such", [], -32601),
        ("chain_subscribeNewHeads", [], -32601),
        ("state_getStorage", [], -32602),
        ("state_getStorage", ["0x0"], -32602),
        ("state_getStorage", ["0x 00"], -32602),
        ("state_getStorage", ["0xzz"], -32602),
        ("state_getStorage", [{"a": []}], -32602),
        ("state_getStorage", ["0x00", "0x1234"], -32602),
        ("state_getStorage", ["0x00", UNKNOWN], 4003),
        ("state_queryStorageAt", ["0x00"], -32602),
        ("state_queryStorageAt", [["0x00"] * 1_001], -32602),
        ("state_queryStorage", [["0x00"], UNKNOWN], 4001),
        ("state_getReadProof", [[1]], -32602),
        ("state_getKeysPaged", ["0x", 1_001], 4002),
        ("state_getKeysPaged", ["0x", -1], -32602),
        ("state_getKeysPaged", ["0x", "1_0"], -32602),
        ("state_getKeysPaged", ["0x", True], -32602),
        ("state_call", ["No_such", "0x"], 4003),
        ("state_call", ["AccountNonceApi_account_nonce", "0x00"], 4003),
        ("state_call", [7, "0x"], -32602),
        ("chain_getBlockHash", ["0x" + "1" * 40], -32602),
        ("chain_getBlockHash", [[0] * 1_001], -32602),
        ("chain_getBlock", ["0x12"], -32602),
        ("system_accountNextIndex", ["nobody"], -32602),
        ("system_accountNextIndex", [[]], -32602),
        ("grandpa_proveFinality", ["x"], -32602),
        ("payment_queryInfo", ["0x00"], 4003),
        ("mq_getMessages", ["0x00", 1.5], -32602),
    ],
)
def test_wrong_parameters_are_told(
    http: httpx.Client, method: str, params: list[Any], code: int
) -> None:
    assert error(http, method, *params)["code"] == code


def test_a_parameter_that_is_missing_is_named(http: httpx.Client) -> None:
    for method in ("system_accountNextIndex", "state_getStorage", "payment_queryInfo"):
        assert error(http, method)["data"] == "parameter 0 is missing"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"\xff\xfe garbage", -32700),
        (b'{"jsonrpc": "2.0", "id": 1, "method": ', -32700),
        (b"[" * 100_000, -32700),
        (b'{"a":' * 100_000, -32700),
        (b"7", -32600),
        (b"{}", -32600),
        (b"[]", -32600),
        (b'{"id": 1, "method": 7}', -32600),
        (b'{"id": [], "method": "system_name"}', -32600),
        (b'{"id": true, "method": "system_name"}', -32600),
        (b'{"id": 1, "method": "system_name", "params": 7}', -32602),
        (b'{"id": 1, "method": "state_getStorage", "params": {"key": "0x"}}', -32602),
        (json.dumps([{"id": 1, "method": "system_name"}] * 1_001).encode(), -32600),
    ],
)
def test_bodies_that_are_no_request_are_told(
    http: httpx.Client, node: chain.RunningNode, body: bytes, code: int
) -> None:
    assert http.post("", content=body).json()["error"]["code"] == code
    with connect(node.websocket) as ws:
        for kind in (True, False):
            ws.send(body, text=kind and body[:1] != b"\xff")
            assert hear(ws)["error"]["code"] == code


def test_a_batch_is_answered_in_order_and_notifications_are_not(http: httpx.Client) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": "a", "method": "system_name"},
        {"jsonrpc": "2.0", "method": "system_name"},
        {"jsonrpc": "2.0", "id": 2, "method": "no_such"},
        7,
    ]
    answers = http.post("", json=batch).json()
    assert [each["id"] for each in answers] == ["a", 2, None]
    assert answers[0]["result"] == "Phala"
    assert http.post("", json=batch[1]).content == b""
    assert http.post("", json=batch[1:2]).content == b""


def test_what_is_too_large_is_refused_and_what_is_just_not_is_read(
    http: httpx.Client, node: chain.RunningNode
) -> None:
    large = b'{"id": 1, "method": "state_getStorage", "params": ["0x%s"]}' % (b"00" * 10_000_000)
    with contextlib.suppress(httpx.WriteError):  # refused while it was still being sent
        assert http.post("", content=large).status_code == 413
    with connect(node.websocket, max_size=None) as ws, pytest.raises(ConnectionClosed):
        send_and_hear(ws, large)
    assert whole(http, "state_getStorage", "0x" + "00" * 5_000_000)["result"] is None


def send_and_hear(ws: ClientConnection, data: bytes) -> Any:
    ws.send(data)
    return hear(ws)


def test_who_balances_loads_reads_health_without_json_rpc(http: httpx.Client) -> None:
    answer = http.get("/health")

    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == ask(http, "system_health")


def test_other_methods_of_http_are_refused(http: httpx.Client) -> None:
    assert http.get("").status_code == 405
    assert http.put("", content=b"{}").status_code == 405


def raw(node: chain.RunningNode, data: bytes = b"") -> socket.socket:
    found = socket.create_connection(("127.0.0.1", node.port), timeout=DEADLINE_S)
    found.sendall(data)
    return found


@pytest.mark.usefixtures("http")
def test_answers_come_in_the_order_of_their_requests(node: chain.RunningNode) -> None:
    """Plain requests, which are answered on the spot, among others that are not."""
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n"
    asked = [b'{"jsonrpc":"2.0","id":%d,"method":"system_name"}' % number for number in range(90)]
    with raw(node) as found:
        for number, body in enumerate(asked):
            other = b"[" + body + b"]" if number % 5 == 4 else b" " + body  # takes the longer way
            sent = body if number % 3 else other
            found.sendall(head % len(sent) + sent)
        data = b""
        while data.count(b'"id":') < len(asked):
            data += found.recv(65_536)
    assert [int(each) for each in re.findall(rb'"id":(\d+)', data)] == list(range(90))


@pytest.mark.usefixtures("http")
def test_bytes_that_are_no_http_and_random_ones_end_their_own_connection_alone(
    node: chain.RunningNode,
) -> None:
    chance = random.Random(7)
    for data in (b"\0" * 100, b"GET\r\n\r\n", b"POST / HTTP/9.9\r\n\r\n", chance.randbytes(5_000)):
        with raw(node, data) as found:
            found.shutdown(socket.SHUT_WR)
            while found.recv(65_536):
                pass


@pytest.mark.usefixtures("http")
def test_an_endless_head_ends_the_connection(node: chain.RunningNode) -> None:
    with raw(node, b"POST / HTTP/1.1\r\n") as found, pytest.raises(OSError, match=r".+"):
        send_for_ever(found, b"X-More: " + b"x" * 1_000 + b"\r\n")


def send_for_ever(found: socket.socket, data: bytes) -> None:
    while True:
        found.sendall(data)


@pytest.mark.parametrize("pieces", [1, 2, 3, 50])
def test_a_request_is_answered_however_it_is_cut(node: chain.RunningNode, pieces: int) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"system_name"}'
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    size = -(-len(request) // pieces)
    with raw(node) as found:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):  # on one connection
            for at in range(0, len(request), size):
                found.sendall(request[at : at + size])
            assert read_answer(found) == {"jsonrpc": "2.0", "id": 1, "result": "Phala"}
        found.sendall(request * 3)  # pipelined
        answers = b""
        while answers.count(b'"result"') < 3:
            answers += found.recv(65_536)


def read_answer(found: socket.socket) -> Any:
    data = b""
    while b"\r\n\r\n" not in data or not data.endswith(b"}"):
        more = found.recv(65_536)
        assert more
        data += more
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    return json.loads(data.split(b"\r\n\r\n", 1)[1])


def test_half_open_connections_keep_nobody_out(http: httpx.Client, node: chain.RunningNode) -> None:
    silent = [raw(node) for _ in range(100)]
    silent += [raw(node, b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n{") for _ in range(100)]
    try:
        assert ask(http, "system_name") == "Phala"
        with connect(node.websocket) as ws:
            assert call(ws, "system_name") == "Phala"
    finally:
        for each in silent:
            each.close()


@pytest.mark.usefixtures("http")
def test_subscriptions_of_a_connection_are_bounded(ws: ClientConnection) -> None:
    batch = [{"id": n, "method": "chain_subscribeFinalizedHeads"} for n in range(600)]
    answers: list[Any] = []
    for _ in range(2):
        ws.send(json.dumps(batch))
        while not isinstance(told := hear(ws), list):
            assert told["method"] == "chain_finalizedHead"
        answers += told
    refused = [each["error"]["code"] for each in answers if "error" in each]
    assert len(answers) == 1_200
    assert refused == [-32006] * (1_200 - 1_024)
    assert call_by_id(ws, "system_name") == "Phala"


def call_by_id(ws: ClientConnection, method: str) -> Any:
    tell(ws, method, name="asked")
    while (told := hear(ws)).get("id") != "asked":
        pass
    return told["result"]


@pytest.mark.usefixtures("http")
def test_who_does_not_read_is_cut_off(node: chain.RunningNode) -> None:
    metadata = b'{"id":1,"method":"state_getMetadata"}'
    frame = b"\x81" + bytes([0x80 | len(metadata)]) + b"\0\0\0\0" + metadata
    hello = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with raw(node, hello) as found, pytest.raises(OSError, match=r".+"):
        send_for_ever(found, frame)


def test_what_would_be_too_large_an_answer_is_an_error(http: httpx.Client) -> None:
    batch = [{"id": n, "method": "state_getMetadata"} for n in range(1_000)]
    assert http.post("", json=batch).json()["error"]["code"] == -32008


def test_json_of_random_shapes_gets_an_answer(http: httpx.Client) -> None:
    chance = random.Random(11)
    # The owner's cheats do as they are told, and this chain is others' too.
    methods = [each for each in ask(http, "rpc_methods")["methods"] if not each.startswith("dev_")]
    values: list[Any] = [
        None,
        "",
        "0x",
        "0x00",
        UNKNOWN,
        0,
        -1,
        2**63,
        1.5,
        True,
        [],
        {},
        [[]],
        "é",
        EVENTS,
    ]
    for _ in range(400):
        params = [chance.choice(values) for _ in range(chance.randrange(4))]
        found = whole(http, chance.choice(methods), *params)
        if "error" in found:
            assert found["error"]["code"] != -32603, (params, found)
