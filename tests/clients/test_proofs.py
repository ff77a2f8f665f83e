"""Read proofs of our node hold for unmodified `@polkadot-api/substrate-bindings`."""

import json
from typing import Any

import pytest
from tests.clients import chain, tools

from phala.crypto.hashes import blake2_128
from phala.primitives.keys import storage_prefix
from phala.sdk.keyring import dev_pair

NOBODY = b"\7" * 32
ACCOUNTS = (dev_pair("Alice").account, dev_pair("Bob").account, NOBODY)


def key_of(account: bytes) -> str:
    return "0x" + (storage_prefix("System", "Account") + blake2_128(account) + account).hex()


def looked_up(proved: dict[str, Any], key: str) -> str | None:
    """What the proof says of a key: its value, or None where it has none.

    By the nodes as the client read them. KeyError where the proof holds too little to tell, and for
    values so small that their node lies inside its parent, where the client leaves it as it is.
    """
    nodes = proved["proofs"]
    node, rest = nodes[proved["rootHash"]], key[2:]
    while True:
        partial = node["partialKey"]
        if not rest.startswith(partial):
            return None
        rest = rest[len(partial) :]
        if not rest:
            value: str | None = node.get("value")
            hashed = node["type"] in {"LeafWithHash", "BranchWithHash"}
            return nodes[value]["value"] if hashed else value
        child = node.get("children", {}).get(rest[0])
        if child is None:
            return None
        node, rest = nodes[child], rest[1:]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A block's root, the values of some keys, and what the client makes of their proofs."""
    program = tools.node_js()
    folder = tmp_path_factory.mktemp("chain")
    keys = [
        *map(key_of, ACCOUNTS),
        "0x" + storage_prefix("Grandpa", "Authorities").hex(),
        "0x3a636f6465",
    ]
    with chain.running(folder) as node:
        head = tools.rpc(node.http, "chain_getFinalizedHead")
        root = tools.rpc(node.http, "chain_getHeader", head)["stateRoot"]
        values = {key: tools.rpc(node.http, "state_getStorage", key, head) for key in keys}
        read = tools.rpc(node.http, "state_getReadProof", keys, head)
        assert read["at"] == head
        proof = read["proof"]
        others = [tools.rpc(node.http, "state_getReadProof", [key], head)["proof"] for key in keys]
    first = proof[0]
    flipped = [first[:-1] + ("0" if first[-1] != "0" else "1"), *proof[1:]]
    file = folder / "proofs.json"
    file.write_text(json.dumps([proof, flipped, *others]))
    with tools.running(program, "proofs.mjs", str(file)) as script:
        proved, broken, *single = tools.told(script)
    return {
        "root": root, "values": values, "proved": proved, "broken": broken, "single": single,
    }  # fmt: skip


def test_a_proof_of_many_keys_holds_to_the_blocks_root(seen: dict[str, Any]) -> None:
    assert seen["proved"]["rootHash"] == seen["root"]
    for key, value in seen["values"].items():
        assert looked_up(seen["proved"], key) == value


def test_a_proof_of_one_key_holds_to_the_blocks_root(seen: dict[str, Any]) -> None:
    for proved, (key, value) in zip(seen["single"], seen["values"].items(), strict=True):
        assert proved["rootHash"] == seen["root"]
        assert looked_up(proved, key) == value


def test_some_keys_have_values_and_one_has_none(seen: dict[str, Any]) -> None:
    assert [value is not None for value in seen["values"].values()] == [
        True,
        True,
        False,
        True,
        True,
    ]


def test_a_changed_proof_does_not_hold(seen: dict[str, Any]) -> None:
    assert seen["broken"] is None or seen["broken"]["rootHash"] != seen["root"]
