"""What Polkadot.js Apps asks when it starts, by unmodified `@polkadot/api`."""

from typing import Any

import pytest
from tests.clients import chain, tools

PHA = 10**12


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    program = tools.node_js()
    with (
        chain.running(tmp_path_factory.mktemp("chain")) as node,
        tools.running(program, "apps.mjs", node.websocket) as script,
    ):
        found: dict[str, Any] = tools.told(script)
        return found


def test_the_chain_and_its_node_are_named(seen: dict[str, Any]) -> None:
    assert seen["properties"] == {
        "isEthereum": False,
        "ss58Format": "30",
        "tokenDecimals": ["12"],
        "tokenSymbol": ["PHA"],
    }
    assert seen["name"] == "Phala Development"
    assert seen["chainType"] == "Development"
    assert all(seen["node"])
    assert seen["version"]


def test_of_nothing_else_is_warned(seen: dict[str, Any]) -> None:
    """It warns of methods newer than itself, and of its own reading of a fee (see below)."""
    known = ("RPC methods not decorated", "RuntimeDispatchInfoV1")
    assert [each for each in seen["warnings"] if not any(one in each for one in known)] == []


def test_the_explorer_sees_heads_and_blocks(seen: dict[str, Any]) -> None:
    assert 0 <= seen["finalized"] <= seen["best"]
    assert seen["lag"] <= 2
    assert seen["header"] == seen["block"][0]
    assert seen["head"] >= seen["header"] - 1
    assert int(seen["issuance"]) > 6 * 10**6 * PHA


def test_accounts_have_their_balances(seen: dict[str, Any]) -> None:
    free, available, voting = (int(each) for each in seen["alice"])
    assert free == voting == 10**6 * PHA
    assert available == free
    assert seen["account"]
    assert not seen["flags"]
    assert seen["nonce"] == 0
    assert seen["balances"] == 2


def test_the_node_tells_of_itself(seen: dict[str, Any]) -> None:
    assert seen["health"]["isSyncing"] is False
    assert seen["peers"] == seen["health"]["peers"] == 0
    assert seen["pending"] == 0
    assert seen["methods"] > 60
    assert seen["id"]
    assert seen["stored"] == [80, 66, 1]


def test_fees_are_the_same_by_both_ways(seen: dict[str, Any]) -> None:
    by_rpc, by_call = seen["fee"]
    assert int(by_rpc) == int(by_call) > int(seen["baseFee"]) > 0
    rpc, call = seen["weight"]
    assert (rpc["ref_time"], rpc["proof_size"]) == (call["refTime"], call["proofSize"])


def test_the_typed_query_of_fees_is_the_clients_own_fault(seen: dict[str, Any]) -> None:
    """Its `RuntimeDispatchInfoV1` reads weights of one number, which no node gives any more."""
    assert seen["typed"] is False
