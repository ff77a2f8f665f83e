"""The node's door: what it answers, and what it makes of garbage. One process serves all tests."""

import json
import random
import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from tests.clients import chain
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from phala.node.rpc.connection import SUBSCRIPTIONS_MAX
from phala.node.rpc.errors import (
    BAD_FORMAT,
    INTERNAL,
    INVALID_PARAMS,
    INVALID_REQUEST,
    NO_METHOD,
    PARSE,
    TOO_BIG,
    TOO_MANY_SUBSCRIPTIONS,
)
from phala.node.rpc.server import BATCH_ITEMS_MAX, REQUEST_BYTES_MAX
from phala.sdk.keyring import dev_pair

WAIT_S = 20
ALICE = dev_pair("Alice")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chain.RunningNode]:
    with chain.running(tmp_path_factory.mktemp("chain")) as running:
        yield running
        assert running.process.poll() is None, "the node ended"
    log = (running.folder / "node.log").read_text()
    assert '"error"' not in log, log[-3000:]


def post(node: chain.RunningNode, body: bytes) -> Any:
    request = urllib.request.Request(node.http, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        found = answer.read()
        return json.loads(found) if found else None


def ask(node: chain.RunningNode, method: str, *params: Any) -> Any:
    asked = {"jsonrpc": "2.0", "id": "a name", "method": method, "params": params}
    found = post(node, json.dumps(asked).encode())
    assert found["id"] == "a name"
    return found


def plain(node: chain.RunningNode) -> socket.socket:
    return socket.create_connection(("127.0.0.1", node.port), timeout=WAIT_S)


def call(peer: ClientConnection, method: str, *params: Any) -> Any:
    peer.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    while True:
        found = json.loads(peer.recv(timeout=WAIT_S))
        if found.get("id") == 1:
            return found


def ensure_answers(node: chain.RunningNode) -> None:
    assert ask(node, "system_chain")["result"] == "Phala Development"


# ---- JSON-RPC


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", PARSE),
        (b"\0\xff\xfe", PARSE),
        (b"{", PARSE),
        (b"[" * 100_000, PARSE),
        (b'{"a":' * 50_000, PARSE),
        (b'"\\ud800"', PARSE),
        (b"NaN", PARSE),
        (b"7", INVALID_REQUEST),
        (b"null", INVALID_REQUEST),
        (b"{}", INVALID_REQUEST),
        (b"[]", INVALID_REQUEST),
        (b'{"id":1,"method":7}', INVALID_REQUEST),
        (b'{"id":{},"method":"system_chain"}', INVALID_REQUEST),
        (b'{"id":1,"method":"no_such_method"}', NO_METHOD),
        (b'{"id":1,"method":"chain_subscribeNewHeads"}', NO_METHOD),
        (b'{"id":1,"method":"state_getStorage","params":{"key":"0x"}}', INVALID_PARAMS),
        (b'{"id":1,"method":"state_getStorage"}', INVALID_PARAMS),
        (b'{"id":1,"method":"state_getStorage","params":["0x0"]}', INVALID_PARAMS),
        (b'{"id":1,"method":"state_getStorage","params":["0xzz"]}', INVALID_PARAMS),
        (b'{"id":1,"method":"chain_getBlock","params":["0x00"]}', INVALID_PARAMS),
        (b'{"id":1,"method":"author_submitExtrinsic","params":["0x"]}', BAD_FORMAT),
    ],
)
def test_what_is_no_good_request_is_answered_by_an_error(
    node: chain.RunningNode, body: bytes, code: int
) -> None:
    assert post(node, body)["error"]["code"] == code


def test_a_batch_is_answered_item_by_item(node: chain.RunningNode) -> None:
    asked = [
        {"jsonrpc": "2.0", "id": 1, "method": "system_chain"},
        {"jsonrpc": "2.0", "id": "two", "method": "nothing"},
        7,
        {"jsonrpc": "2.0", "method": "system_chain"},  # a notification: nobody waits for it
    ]

    found = post(node, json.dumps(asked).encode())

    assert [each["id"] for each in found] == [1, "two", None]
    assert found[0]["result"] == "Phala Development"
    assert [each["error"]["code"] for each in found[1:]] == [NO_METHOD, INVALID_REQUEST]


def test_batches_are_bounded_in_items_and_in_bytes(node: chain.RunningNode) -> None:
    one = {"id": 1, "method": "state_getMetadata"}

    assert (
        post(node, json.dumps([one] * (BATCH_ITEMS_MAX + 1)).encode())["error"]["code"]
        == INVALID_REQUEST
    )
    assert post(node, json.dumps([one] * BATCH_ITEMS_MAX).encode())["error"]["code"] == TOO_BIG


def test_hex_goes_with_and_without_its_prefix(node: chain.RunningNode) -> None:
    head = ask(node, "chain_getBlockHash", 0)["result"]

    headers = [ask(node, "chain_getHeader", each) for each in (head, head[2:])]

    assert headers[0]["result"] == headers[1]["result"]
    assert headers[0]["result"]["number"] == "0x0"
    assert ask(node, "state_getKeysPaged", "", 3, "")["result"]


def test_keys_come_page_by_page(node: chain.RunningNode) -> None:
    at = ask(node, "chain_getHead")["result"]
    whole = ask(node, "state_getKeysPaged", "0x", 1000, None, at)["result"]
    paged: list[str] = []
    while True:
        last = paged[-1] if paged else None
        more = ask(node, "state_getKeysPaged", "0x", 7, last, at)["result"]
        if not more:
            break
        paged += more

    assert paged == whole == sorted(set(whole))


def test_methods_that_are_listed_exist(node: chain.RunningNode) -> None:
    listed = ask(node, "rpc_methods")["result"]["methods"]

    with connect(node.websocket) as peer:
        for name in listed:
            assert call(peer, name).get("error", {}).get("code") != NO_METHOD, name


GARBAGE: tuple[Any, ...] = (
    None, True, -1, 0, 7, 1 << 63, 1e300, "", "0x", "0x00", "0x" + "ff" * 32, "0x" + "ff" * 600,
    "not hex", "\u0000\U0001f600", [], [[]], ["0x" + "ff" * 600], [None], {}, {"a": 1}, "9" * 6000,
)  # fmt: skip


def test_garbage_in_the_place_of_any_parameter_is_no_fault_of_the_node(
    node: chain.RunningNode,
) -> None:
    chance = random.Random(random.random())
    listed = ask(node, "rpc_methods")["result"]["methods"]
    asked = [
        {
            "id": number,
            "method": name,
            "params": [chance.choice(GARBAGE) for _ in range(chance.randint(1, 4))],
        }
        for number, name in enumerate(listed * 12)
    ]
    with connect(node.websocket, max_size=None) as peer:
        for at in range(0, len(asked), 50):
            peer.send(json.dumps(asked[at : at + 50]))
            while not isinstance(found := json.loads(peer.recv(timeout=WAIT_S)), list):
                pass  # a notification of what was subscribed to
            for each in found:
                code = each.get("error", {}).get("code")
                assert code != INTERNAL, asked[each["id"]]
    for name in ask(node, "dev_snapshots")["result"]["snapshots"]:
        ask(node, "dev_release", name)  # while one is there, nothing above it becomes final


def test_random_bytes_are_no_extrinsics(node: chain.RunningNode) -> None:
    chance = random.Random(random.random())
    for _ in range(100):
        data = chance.randbytes(chance.randint(1, 200))
        assert 1000 < ask(node, "author_submitExtrinsic", data.hex())["error"]["code"] < 1020
    ensure_answers(node)


# ---- HTTP


def test_only_post_is_answered_and_only_so_much(node: chain.RunningNode) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(node.http, timeout=WAIT_S)
    refused.value.close()
    assert refused.value.code == 405
    with closing(plain(node)) as peer:
        peer.sendall(
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (1 + REQUEST_BYTES_MAX)
        )
        peer.sendall(b" " * (1 + REQUEST_BYTES_MAX))
        assert peer.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0" * 1000,
        b"hello\r\n\r\n",
        b"POST / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"POST / HTTP/1.1\r\nx: " + b"y" * 1_000_000,
        b"POST /" + b"y" * 1_000_000,
    ],
)
def test_what_is_no_http_ends_its_connection_alone(node: chain.RunningNode, garbage: bytes) -> None:
    with closing(plain(node)) as peer:
        try:
            peer.sendall(garbage)
            while peer.recv(65_536):
                pass
        except ConnectionError:
            pass  # as good as a close
    ensure_answers(node)


def test_connections_left_half_open_do_not_keep_others_out(node: chain.RunningNode) -> None:
    left = [plain(node) for _ in range(100)]
    try:
        for each in left[::2]:
            each.sendall(b"POST / HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")
        ensure_answers(node)
        for each in left[::3]:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            each.close()  # with a reset
        ensure_answers(node)
    finally:
        for each in left:
            each.close()


# ---- WebSockets


def test_binary_frames_are_read_like_text(node: chain.RunningNode) -> None:
    with connect(node.websocket) as peer:
        for frame in (b"\0\xff", b'{"id":1,"method":"system_chain"}'):
            peer.send(frame)
        assert json.loads(peer.recv(timeout=WAIT_S))["error"]["code"] == PARSE
        assert json.loads(peer.recv(timeout=WAIT_S))["result"] == "Phala Development"


def test_a_frame_that_is_too_large_or_broken_ends_its_connection_alone(
    node: chain.RunningNode,
) -> None:
    with connect(node.websocket) as peer, pytest.raises(ConnectionClosed):
        send_and_read(peer, " " * (1 + REQUEST_BYTES_MAX))
    with connect(node.websocket) as peer:
        peer.socket.sendall(b"\xff" * 100)
        with pytest.raises(ConnectionClosed):
            peer.recv(timeout=WAIT_S)
    ensure_answers(node)


def send_and_read(peer: ClientConnection, message: str) -> None:
    peer.send(message)
    peer.recv(timeout=WAIT_S)


def test_subscriptions_tell_at_once_then_of_each_block_until_they_end(
    node: chain.RunningNode,
) -> None:
    with connect(node.websocket) as peer:
        name = call(peer, "chain_subscribeNewHeads")["result"]
        told = [json.loads(peer.recv(timeout=WAIT_S)) for _ in range(2)]
        numbers = [int(each["params"]["result"]["number"], 16) for each in told]

        assert {each["method"] for each in told} == {"chain_newHead"}
        assert {each["params"]["subscription"] for each in told} == {name}
        assert numbers[1] == numbers[0] + 1
        assert call(peer, "chain_unsubscribeNewHeads", name)["result"] is True
        assert call(peer, "chain_unsubscribeNewHeads", name)["result"] is False
        assert call(peer, "chain_unsubscribeNewHeads", {})["result"] is False


def test_finality_lags_the_head_and_is_proven(node: chain.RunningNode) -> None:
    with connect(node.websocket) as peer:
        call(peer, "chain_subscribeFinalizedHeads")
        told = [json.loads(peer.recv(timeout=WAIT_S))["params"]["result"] for _ in range(3)]
        numbers = [int(each["number"], 16) for each in told]
        head = int(call(peer, "chain_getHeader")["result"]["number"], 16)

        assert numbers == list(range(numbers[0], numbers[0] + 3))
        assert head > numbers[-1]
        block_hash = call(peer, "chain_getBlockHash", numbers[-1])["result"]
        ((engine, _),) = call(peer, "chain_getBlock", block_hash)["result"]["justifications"]
        assert bytes(engine) == b"FRNK"
        proof = call(peer, "grandpa_proveFinality", numbers[-1])["result"]
        assert proof.startswith("0x")
        assert call(peer, "grandpa_proveFinality", 1 << 40)["result"] is None


def test_a_storage_subscription_begins_with_all_its_keys(node: chain.RunningNode) -> None:
    missing = "0x" + "ab" * 40
    with connect(node.websocket) as peer:
        call(peer, "state_subscribeStorage", [missing, "0x" + b":code".hex()])
        told = json.loads(peer.recv(timeout=WAIT_S))["params"]["result"]

    assert [key for key, _ in told["changes"]] == [missing, "0x" + b":code".hex()]
    assert told["changes"][0][1] is None


def test_subscriptions_of_a_connection_are_bounded(node: chain.RunningNode) -> None:
    asked = [{"id": each, "method": "grandpa_subscribeJustifications"} for each in range(500)]
    with connect(node.websocket) as peer:
        codes: list[int | None] = []
        while len(codes) <= SUBSCRIPTIONS_MAX:
            peer.send(json.dumps(asked))
            while not isinstance(found := json.loads(peer.recv(timeout=WAIT_S)), list):
                pass
            codes += [each.get("error", {}).get("code") for each in found]

        assert codes.index(TOO_MANY_SUBSCRIPTIONS) == SUBSCRIPTIONS_MAX
    ensure_answers(node)


def test_who_does_not_read_is_dropped(node: chain.RunningNode) -> None:
    asked = json.dumps([{"id": 1, "method": "state_getMetadata"}] * 60).encode()  # 10 MB back
    frame = b"\x81\xfe" + len(asked).to_bytes(2, "big") + bytes(4) + asked  # masked by zeros
    with closing(plain(node)) as peer:
        peer.sendall(
            b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-version: 13\r\n\r\n"
        )
        assert peer.recv(20).startswith(b"HTTP/1.1 101")
        with pytest.raises(ConnectionError):
            send_for_ever(peer, frame)
    ensure_answers(node)


def send_for_ever(peer: socket.socket, frame: bytes) -> None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        peer.sendall(frame)


def test_the_next_nonce_counts_what_waits(node: chain.RunningNode) -> None:
    first = ask(node, "system_accountNextIndex", ALICE.address)["result"]

    assert first == ask(node, "account_nextIndex", ALICE.address)["result"] == 0
    assert ask(node, "system_accountNextIndex", "Alice")["error"]["code"] == INVALID_PARAMS
