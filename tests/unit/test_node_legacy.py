"""What Substrate's tools ask beside blocks and state, and who may ask it: codes as Substrate's."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.clients import chain
from tests.unit.test_node_door import (
    ALICE,
    BOB,
    DAVE,
    DEADLINE_S,
    UNKNOWN,
    account_key,
    ask,
    error,
    signed,
    wait_for,
)
from websockets.sync.client import connect

from phala.crypto.signatures import ed25519_from_seed
from phala.node.keys import load_grandpa_key, load_grandpa_keys
from phala.node.rpc.own import is_own
from phala.node.suri import DEV_PHRASE, ed25519_seed
from phala.pallets.session import SESSION_KEYS, verify_ownership
from phala.sdk.keyring import KeyType, dev_pair, pair_from_suri

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "rpc.md"
CHILD = "0x" + b":child_storage:default:x".hex()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chain.RunningNode]:
    with chain.running(tmp_path_factory.mktemp("chain")) as running:
        yield running
    log = (running.folder / "node.log").read_text()
    assert '"error"' not in log, log[-3000:]


@pytest.fixture
def http(node: chain.RunningNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.http, timeout=DEADLINE_S) as client:
        yield client


# ---- who may ask


FOREIGN = (
    {"x-forwarded-for": "203.0.113.7"}, {"X-Forwarded-Host": "a"}, {"forwarded": "for=a"},
    {"via": "1.1 proxy"}, {"x-real-ip": "::1"}, {"origin": "https://example.org"},
    {"origin": "null"}, {"origin": "http://localhost.example.org"},
)  # fmt: skip


@pytest.mark.parametrize("headers", FOREIGN)
def test_who_speaks_for_another_is_not_the_owner(
    http: httpx.Client, node: chain.RunningNode, headers: dict[str, str]
) -> None:
    asked = {"id": 1, "method": "state_getPairs", "params": ["0x"]}
    refused = http.post("", json=asked, headers=headers).json()["error"]
    assert (refused["code"], "unsafe" in refused["message"]) == (-32601, True)
    (refused,) = http.post("", json=[asked], headers=headers).json()
    assert refused["error"]["code"] == -32601
    with connect(node.websocket, additional_headers=headers) as ws:
        ws.send(json.dumps(asked))
        assert json.loads(ws.recv(timeout=DEADLINE_S))["error"]["code"] == -32601
    safe = http.post("", json={"id": 1, "method": "system_name"}, headers=headers).json()
    assert safe["result"] == "Phala"


def test_the_owner_asks_from_this_machine(http: httpx.Client) -> None:
    assert len(ask(http, "state_getPairs", account_key(ALICE))) == 1
    for own in ("http://localhost:3000", "http://127.0.0.1"):
        asked = {"id": 1, "method": "author_hasKey", "params": ["0x00", "gran"]}
        assert http.post("", json=asked, headers={"origin": own}).json()["result"] is False


@pytest.mark.parametrize(
    ("peer", "own"),
    [
        (("127.0.0.1", 1), True), (("127.8.8.8", 1), True), (("::1", 1), True),
        (("203.0.113.7", 1), False), (("::ffff:203.0.113.7", 1), False), (None, False),
        (("", 0), False), (("localhost", 1), False),
    ],
)  # fmt: skip
def test_an_owner_has_an_address_of_this_machine(peer: Any, own: Any) -> None:
    assert is_own(peer, []) is own


# ---- what is asked


def test_the_methods_listed_are_those_of_the_reference(http: httpx.Client) -> None:
    listed = ask(http, "rpc_methods")["methods"]
    rows = re.findall(r"^\| `([A-Za-z0-9_]+)` \|([^|]*)\|", TABLE.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == listed
    for name, mark in rows:
        asked = {"id": 1, "method": name, "params": []}
        refused = http.post("", json=asked, headers={"via": "a"}).json().get("error", {})
        is_unsafe = "unsafe" in refused.get("message", "")
        assert is_unsafe == (mark.strip() == "unsafe"), name


def test_fees_are_told_in_the_shapes_of_a_real_node(http: httpx.Client) -> None:
    extrinsic = signed(http, ALICE, 0)
    info = ask(http, "payment_queryInfo", extrinsic)
    assert set(info) == {"weight", "class", "partialFee"}
    assert set(info["weight"]) == {"ref_time", "proof_size"}
    assert info["class"] == "normal"
    details = ask(http, "payment_queryFeeDetails", extrinsic)["inclusionFee"]
    assert set(details) == {"baseFee", "lenFee", "adjustedWeightFee"}
    assert sum(int(each, 16) for each in details.values()) == int(info["partialFee"])
    head = ask(http, "chain_getHead")
    assert ask(http, "payment_queryInfo", extrinsic, head) == info
    bare = bytes([4, 4]).hex()
    assert error(http, "payment_queryFeeDetails", bare)["code"] == 4003


def test_a_dry_run_tells_what_would_become_of_an_extrinsic(http: httpx.Client) -> None:
    nonce = ask(http, "system_accountNextIndex", ALICE.address)
    head = ask(http, "chain_getHead")
    assert ask(http, "system_dryRun", signed(http, ALICE, nonce)) == "0x0000"
    assert ask(http, "system_dryRunAt", signed(http, ALICE, nonce + 1), head) == "0x010002"
    assert ask(http, "system_dryRun", "0x00") == "0x010000"
    assert ask(http, "system_accountNextIndex", ALICE.address) == nonce, "nothing was sent"


def test_a_round_is_told_with_its_voters(http: httpx.Client) -> None:
    found = ask(http, "grandpa_roundState")
    assert found["setId"] == 0
    best = found["best"]
    assert (best["totalWeight"], best["thresholdWeight"]) == (1, 1)
    for kind in ("prevotes", "precommits"):
        assert best[kind]["currentWeight"] == 0
        assert len(best[kind]["missing"]) == 1


def test_child_tries_are_empty(http: httpx.Client) -> None:
    assert ask(http, "childstate_getKeys", CHILD, "0x") == []
    assert ask(http, "childstate_getKeysPaged", CHILD, "0x", 10, None) == []
    for what in ("Storage", "StorageHash", "StorageSize"):
        assert ask(http, f"childstate_get{what}", CHILD, "0x00") is None
        assert ask(http, f"state_getChild{what}", CHILD, "0x00") is None
    assert ask(http, "childstate_getStorageEntries", CHILD, ["0x00", "0x01"]) == [None, None]
    found = ask(http, "state_getChildReadProof", CHILD, ["0x00"])
    assert found["proof"]
    assert error(http, "childstate_getKeys", "0x1234", "0x")["code"] == 4003
    assert error(http, "childstate_getKeysPaged", CHILD, "0x", 1_001)["code"] == 4002
    assert error(http, "childstate_getStorage", CHILD, "0x00", UNKNOWN)["code"] == 4003


def test_the_votes_of_the_last_round_are_told(http: httpx.Client) -> None:
    wait_for(lambda: ask(http, "grandpa_roundState")["background"])
    found = ask(http, "grandpa_roundState")
    (over,) = found["background"]

    assert over["round"] == found["best"]["round"] - 1
    assert over["precommits"] == {"currentWeight": 1, "missing": []}
    assert over["prevotes"]["currentWeight"] == 0


def test_keys_are_made_and_kept_by_the_node(http: httpx.Client, node: chain.RunningNode) -> None:
    key = "0x" + load_grandpa_key(node.folder / "grandpa.key").public.hex()
    assert ask(http, "author_hasKey", key, "gran") is True
    assert ask(http, "author_hasKey", key, "babe") is False
    assert ask(http, "author_hasSessionKeys", key + "00") is True
    assert ask(http, "author_hasSessionKeys", "0x" + "00" * 33) is False
    assert error(http, "author_hasSessionKeys", "0x00")["code"] == 1040

    rotated = ask(http, "author_rotateKeys")
    assert len(rotated) == 2 + 2 * 33
    assert ask(http, "author_hasSessionKeys", rotated) is True
    assert ask(http, "author_hasKey", rotated[:66], "gran") is True
    owned = ask(http, "author_rotateKeysWithOwner", "0x" + ALICE.public.hex())
    keys = SESSION_KEYS.decode(bytes.fromhex(owned["keys"][2:]))
    verify_ownership(ALICE.account, keys, bytes.fromhex(owned["proof"][2:]))

    pair = ed25519_from_seed(b"s" * 32)
    public, seed = "0x" + pair.public.hex(), "0x" + (b"s" * 32).hex()
    assert ask(http, "author_hasKey", public, "gran") is False
    for wrong in (
        "",
        " ",
        "//Alice/soft",
        "no phrase",
        "0x00",
        seed + "00",
        "/" * 2000,
        7,
    ):
        assert error(http, "author_insertKey", "gran", wrong, public)["code"] in (-32602, 1040)
    assert error(http, "author_insertKey", "gran", seed, key)["code"] == 1040
    assert error(http, "author_insertKey", "babe", seed, public)["code"] == 1040
    assert ask(http, "author_insertKey", "gran", seed, public) is None
    assert ask(http, "author_hasKey", public, "gran") is True
    files = list((node.folder / "keystore").iterdir())
    assert len(files) == 3
    alice = "0x" + dev_pair("Alice", KeyType.ED25519).public.hex()
    assert ask(http, "author_insertKey", "gran", "//Alice", alice) is None
    assert ask(http, "author_hasKey", alice, "gran") is True
    assert all(each.stat().st_mode & 0o077 == 0 for each in files)
    assert pair.public in [each.public for each in load_grandpa_keys(node.folder)]
    assert error(http, "author_hasKey", key, 7)["code"] == -32602


@pytest.mark.parametrize(
    "suri",
    [
        "//Alice",
        "//Alice//stash",
        "//0",
        "//18446744073709551615",
        "//18446744073709551616",
        "//" + "long" * 20,
        DEV_PHRASE,
        DEV_PHRASE + "//Bob///secret",
        "///secret",
        "0x" + "5a" * 32,
        "0x" + "5a" * 32 + "//1",
    ],
)
def test_a_secret_uri_names_the_key_that_it_names_to_wallets(suri: str) -> None:
    assert (
        ed25519_from_seed(ed25519_seed(suri)).public == pair_from_suri(suri, KeyType.ED25519).public
    )


def test_an_extrinsic_is_removed_and_kept_out(http: httpx.Client) -> None:
    waiting = signed(http, DAVE, 50)
    name = ask(http, "author_submitExtrinsic", waiting)
    assert ask(http, "author_removeExtrinsic", [{"hash": UNKNOWN}]) == []
    assert ask(http, "author_removeExtrinsic", [{"extrinsic": waiting}]) == [name]
    assert ask(http, "author_removeExtrinsic", [{"hash": name}]) == []
    assert error(http, "author_submitExtrinsic", waiting)["code"] == 1012
    wrongs: list[Any] = [{}, [7], [{"hash": "0x00"}], [{"name": 1}]]
    for wrong in wrongs:
        assert error(http, "author_removeExtrinsic", wrong)["code"] == -32602


def test_a_node_without_peers_says_so(http: httpx.Client) -> None:
    assert ask(http, "system_peers") == []
    assert ask(http, "system_reservedPeers") == []
    assert ask(http, "system_localPeerId").startswith("12D3KooW")
    assert ask(http, "system_localListenAddresses") == []
    assert error(http, "system_addReservedPeer", "/ip4/127.0.0.1")["code"] == 2002


def test_logs_are_made_finer_and_put_back(http: httpx.Client) -> None:
    assert ask(http, "system_addLogFilter", "phala.node.rpc=debug,phala.node=info") is None
    assert ask(http, "system_resetLogFilter") is None
    assert error(http, "system_addLogFilter", "all of them")["code"] == -32602


def test_nothing_runs_off_the_chain(http: httpx.Client) -> None:
    assert error(http, "offchain_localStorageGet", "PERSISTENT", "0x00")["code"] == 5001
    assert error(http, "offchain_localStorageSet", "LOCAL", "0x00", "0x00")["code"] == 5001


def test_ranges_and_counts_have_their_codes(http: httpx.Client) -> None:
    genesis = ask(http, "chain_getBlockHash", 0)
    wait_for(lambda: ask(http, "chain_getHead") != genesis)
    head = ask(http, "chain_getHead")
    key = account_key(ALICE)
    (found,) = ask(http, "state_queryStorage", [key], genesis, genesis)
    assert found["block"] == genesis
    assert error(http, "state_queryStorage", [key], head, genesis)["code"] == 4001
    assert error(http, "state_queryStorage", [key], UNKNOWN)["code"] == 4001
    assert error(http, "state_getKeysPaged", "0x", 1_001)["code"] == 4002
    assert error(http, "state_getStorage", key, UNKNOWN)["code"] == 4003


def test_refusals_of_the_pool_have_their_codes(http: httpx.Client) -> None:
    taken = signed(http, BOB, 3)
    assert ask(http, "author_submitExtrinsic", taken)
    assert error(http, "author_submitExtrinsic", taken)["code"] == 1013
    wait_for(lambda: not ask(http, "author_pendingExtrinsics"))
    first, second = (signed(http, BOB, 0, tip=tip) for tip in (5, 4))
    found = http.post(
        "", json=[{"id": 1, "method": "author_submitExtrinsic", "params": [each]}
                  for each in (first, second)],
    ).json()  # fmt: skip
    assert "result" in found[0]
    assert found[1]["error"]["code"] == 1014, "it pays less for the same place"


def test_a_proof_that_takes_a_while_holds_up_nobody_else_and_comes_in_order(
    node: chain.RunningNode,
) -> None:
    """Over one connection: the answer that is due first comes first."""
    proof = b'{"id":1,"method":"state_getReadProof","params":[["0x00"]]}'
    name = b'{"id":2,"method":"system_name"}'
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", node.port), timeout=DEADLINE_S) as peer:
        peer.sendall(head % len(proof) + proof)
        peer.sendall(head % len(name) + name)
        data = b""
        while data.count(b'"result"') < 2:
            more = peer.recv(65_536)
            assert more
            data += more
    assert data.index(b'"id":1') < data.index(b'"id":2')
