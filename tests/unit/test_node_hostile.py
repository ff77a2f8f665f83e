"""Every method of a node, asked with whatever comes: it answers, by typed errors alone.

One process is asked all the time; that it is the same one, and still answers, is seen at the end.
"""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.clients import chain
from tests.unit.test_node_door import (
    ALICE,
    DEADLINE_S,
    account_key,
    ask,
    send_for_ever,
    wait_for,
)
from websockets.sync.client import ClientConnection, connect

from phala.crypto.hashes import blake2_256
from phala.node.rpc import errors

CODES = {value for name, value in vars(errors).items() if name.isupper() and type(value) is int}
KNOWN = [
    account_key(ALICE), ALICE.address, "0x", "0x3a636f6465", "Core_version", "gran", "1", "7",
    "0x" + "ab" * 32, "Metadata_metadata_at_version", "AccountNonceApi_account_nonce",
]  # fmt: skip
HEX = st.binary(max_size=80).map(lambda data: "0x" + data.hex())
LEAVES = st.one_of(
    st.sampled_from(KNOWN), HEX, st.none(), st.booleans(), st.text(max_size=40),
    st.integers(-(1 << 70), 1 << 70), st.integers(-2, 300), st.floats(),
    st.integers(4_990, 5_000).map(lambda size: "9" * size),
)  # fmt: skip
ITEMS = st.fixed_dictionaries(
    {},
    optional={
        "key": HEX | LEAVES,
        "type": st.sampled_from(["value", "hash", "descendantsValues", "descendantsHashes",
                                 "closestDescendantMerkleValue"]) | LEAVES,
        "returnType": st.sampled_from(["value", "hash"]) | LEAVES,
        "paginationStartKey": HEX | LEAVES,
        "childTrieKey": LEAVES, "hash": HEX | LEAVES, "extrinsic": HEX | LEAVES,
    },
)  # fmt: skip
VALUES = st.recursive(
    LEAVES | ITEMS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
QUIET = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chain.RunningNode]:
    with chain.running(tmp_path_factory.mktemp("chain")) as running:
        yield running
        assert running.process.poll() is None, "the node ended"
    log = (running.folder / "node.log").read_text()
    assert '"error"' not in log, log[-3000:]


@pytest.fixture(scope="module")
def http(node: chain.RunningNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.http, timeout=DEADLINE_S) as client:
        yield client
        assert ask(client, "system_name") == "Phala"


@pytest.fixture(scope="module")
def methods(http: httpx.Client) -> list[str]:
    found: list[str] = ask(http, "rpc_methods")["methods"]
    return found


@pytest.fixture(scope="module")
def known(http: httpx.Client) -> list[str]:
    """Hashes that mean something on this chain."""
    body = ask(http, "chain_getBlock", ask(http, "chain_getBlockHash", 0))
    head = ask(http, "chain_getHead")
    extrinsics = [bytes.fromhex(each[2:]) for each in body["block"]["extrinsics"]]
    return [ask(http, "chain_getBlockHash", 0), head] + [
        "0x" + blake2_256(each).hex() for each in extrinsics
    ]


def ensure_typed(found: Any, asked: Any) -> None:
    if "error" not in found:
        assert "result" in found, asked
        return
    error = found["error"]
    assert error["code"] in CODES - {errors.INTERNAL, errors.NOT_NOW}, (asked, error)
    assert isinstance(error["message"], str)


@QUIET
@given(data=st.data())
def test_no_parameters_make_an_internal_error(
    node: chain.RunningNode, methods: list[str], known: list[str], data: st.DataObject
) -> None:
    """Twenty at once over a WebSocket: subscriptions, follows and operations too."""
    params = st.lists(VALUES | st.sampled_from(known), max_size=5)
    one = st.tuples(st.sampled_from(methods), params | VALUES)
    asked = [
        {"jsonrpc": "2.0", "id": place, "method": name, "params": given_}
        for place, (name, given_) in enumerate(data.draw(st.lists(one, min_size=20, max_size=20)))
    ]
    with connect(node.websocket, max_size=None) as ws:
        for found in answers(ws, asked):
            ensure_typed(found, asked[found["id"]])


def answers(ws: ClientConnection, asked: list[Any]) -> list[Any]:
    ws.send(json.dumps(asked))  # NaN and the infinite are no JSON, and are told to be none
    while True:
        found = json.loads(ws.recv(timeout=DEADLINE_S))
        if isinstance(found, list):
            return found
        if "error" in found:
            assert found["error"]["code"] in (errors.PARSE, errors.TOO_BIG)
            return []


@QUIET
@given(body=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_no_body_makes_an_internal_error(http: httpx.Client, body: bytes) -> None:
    answer = http.post("", content=body)
    assert answer.status_code == 200
    if answer.content:
        found = answer.json()
        for each in found if isinstance(found, list) else [found]:
            ensure_typed(each, body)


@pytest.mark.parametrize("depth", [10, 100, 254, 1_000, 100_000])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_however_deep_it_nests_it_is_read_or_refused(
    http: httpx.Client, methods: list[str], depth: int, opening: str
) -> None:
    nested = opening * depth + "1" + ("]" if opening == "[" else "}") * depth
    for method in methods[:: max(1, depth // 100)][:60]:
        body = f'{{"id":1,"method":"{method}","params":[{nested}]}}'
        found = http.post("", content=body.encode()).json()
        ensure_typed(found, method)
        if depth >= 2_000:
            assert found["error"]["code"] == errors.PARSE
            break


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "1" * 400, "-0", "0.1", "1e2", "18446744073709551616"]
)
def test_however_large_a_number_is_it_is_read_or_refused(
    http: httpx.Client, methods: list[str], number: str
) -> None:
    for method in methods:
        body = f'{{"id":1,"method":"{method}","params":[{number},{number},{number}]}}'
        found = http.post("", content=body.encode()).json()
        ensure_typed(found, (method, number))


def test_a_connection_that_asks_and_never_reads_is_ended_and_counted(
    node: chain.RunningNode, http: httpx.Client
) -> None:
    def dropped() -> int:
        text = http.get("/metrics").text
        return int(text.split("\nphala_rpc_dropped_total ")[1].split("\n")[0])

    before = dropped()
    metadata = b'{"id":1,"method":"state_getMetadata"}'
    hello = (
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", node.port), timeout=DEADLINE_S) as peer:
        peer.sendall(hello)
        with pytest.raises(OSError, match=r".+"):
            send_for_ever(peer, b"\x81" + bytes([0x80 | len(metadata)]) + bytes(4) + metadata)
    wait_for(lambda: dropped() == before + 1)
