"""Six unmodified clients, each with an account of its own, at one node at the same time.

Each script of `everything*` connects, reads state of now and then, pages keys, subscribes,
estimates a fee, sends with three kinds of keys, mortal and immortal, a batch and a call that fails,
and watches them to finality. All tell what they saw in one shape; the node is asked beside them.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.clients import chain, codegen, tools

from phala.runtime import Runtime

pytestmark = pytest.mark.timeout(300)

PHA = 10**12
CLIENTS = {
    "polkadot-js": "16.5.6",
    "polkadot-js-10": "10.9.1",
    "polkadot-api": "2.2.2",
    "polkadot-api-typed": "2.2.2",
    "substrate-interface": "1.8.1",
    "async-substrate-interface": "2.2.1",
}
# What a client cannot do, each said by its own script and in docs/guide/clients.md.
MISSING = {
    "substrate-interface": {"ecdsa"},
    "async-substrate-interface": {"keys", "absent values", "last value"},
}
SCHEMES = {"ed25519": 0, "sr25519": 1, "ecdsa": 2}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chain.RunningNode]:
    tools.node_js()
    with chain.running(tmp_path_factory.mktemp("chain")) as node:
        yield node


@pytest.fixture(scope="module")
def stories(
    node: chain.RunningNode, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What each client saw, by its name."""
    program, url = tools.node_js(), node.websocket
    si, asi = "substrate-interface", "async-substrate-interface"
    types = tmp_path_factory.mktemp("types")
    with ExitStack() as ending:

        def began(*command: str) -> tools.Script:
            return ending.enter_context(tools.running(*command))

        scripts = {
            si: began(tools.python_of(si), "python/everything_si.py", url, "//Alice"),
            asi: began(tools.python_of(asi), "python/everything_asi.py", url, "//Bob"),
            "polkadot-js": began(program, "everything.mjs", url, "//Charlie", "."),
            "polkadot-js-10": began(program, "everything.mjs", url, "//Dave", "polkadot-js-10"),
            "polkadot-api": began(program, "everything_papi.mjs", url, "//Eve"),
        }
        codegen.generate(types, Runtime().metadata(15))
        scripts["polkadot-api-typed"] = began(
            program, "everything_papi.mjs", url, "//Ferdie", str(types)
        )
        return {name: tools.told(script) for name, script in scripts.items()}


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def story(stories: dict[str, dict[str, Any]], client: str) -> dict[str, Any]:
    return stories[client]


def test_the_client_is_the_pinned_one(story: dict[str, Any], client: str) -> None:
    assert story["version"] == CLIENTS[client]


def test_what_a_client_cannot_do_is_known(story: dict[str, Any], client: str) -> None:
    assert set(story["missing"]) == MISSING.get(client, set())


def test_it_connects_and_reads_constants(story: dict[str, Any]) -> None:
    assert story["chain"] == "Phala Development"
    assert int(story["existentialDeposit"]) == PHA // 100


def test_state_is_read_as_it_is_and_as_it_was(story: dict[str, Any]) -> None:
    assert int(story["balance"]) == 10**6 * PHA
    assert int(story["before"]) == 0
    assert int(story["afterFirst"]) == 3 * PHA
    assert int(story["now"]) == 7 * PHA


def test_keys_are_paged_without_loss(story: dict[str, Any]) -> None:
    assert len(story["keys"]) == len(set(story["keys"])) >= 7


def test_new_heads_are_told_in_order(story: dict[str, Any]) -> None:
    heads = list(dict.fromkeys(story["heads"]))
    assert len(heads) >= 3
    assert heads == list(range(heads[0], heads[0] + len(heads)))


def test_changes_of_a_value_are_told_until_the_last(story: dict[str, Any]) -> None:
    watched = [int(each) for each in story["watched"]]
    assert watched == sorted(watched)
    assert len(set(watched)) >= 3
    assert watched[-1] == 7 * PHA


def test_the_estimate_is_the_fee(story: dict[str, Any]) -> None:
    assert int(story["paid"]) == 3 * PHA + int(story["fee"])


def test_every_kind_of_key_signs_mortal_and_immortal(
    story: dict[str, Any], node: chain.RunningNode
) -> None:
    sent = {(each["scheme"], each["mortal"]): each for each in story["sent"]}
    assert set(sent) == {(scheme, mortal) for scheme in SCHEMES for mortal in (True, False)}
    for (scheme, mortal), each in sent.items():
        assert each["error"] is None
        assert each["events"][-1].lower() == "system.extrinsicsuccess"
        block = tools.rpc(node.http, "chain_getBlock", each["block"])["block"]
        assert signed_how(block["extrinsics"][each["index"]]) == (SCHEMES[scheme], mortal)


def signed_how(extrinsic: str) -> tuple[int, bool]:
    """The number of the signature's kind, and whether the era is a mortal one: as sent, by hand.

    Source: substrate's `generic::UncheckedExtrinsic`, version 4.
    """
    data = bytes.fromhex(extrinsic[2:])
    length = data[0] >> 2 if data[0] & 3 == 0 else int.from_bytes(data[:2], "little") >> 2
    body = data[-length:]
    assert body[0] == 0x84  # signed, version 4
    assert body[1] == 0  # MultiAddress::Id
    kind = body[34]
    era = body[35 + (65 if kind == SCHEMES["ecdsa"] else 64)]
    return kind, era != 0


def test_a_batch_does_all_of_its_calls(story: dict[str, Any]) -> None:
    events = [each.lower() for each in story["batch"]["events"]]
    assert events.count("utility.itemcompleted") == 2
    assert events.count("balances.transfer") == 2
    assert "utility.batchcompleted" in events


def test_a_failing_calls_error_has_its_name(story: dict[str, Any]) -> None:
    assert story["failed"]["events"][-1].lower() == "system.extrinsicfailed"
    assert story["failed"]["error"].lower().removeprefix("proxy.") == "notfound"


def test_what_was_watched_to_the_end_is_final(
    story: dict[str, Any], node: chain.RunningNode
) -> None:
    head = tools.rpc(node.http, "chain_getFinalizedHead")
    final = int(tools.rpc(node.http, "chain_getHeader", head)["number"], 16)
    for each in (*story["sent"], story["failed"]):
        number = tools.rpc(node.http, "chain_getHeader", each["block"])["number"]
        assert tools.rpc(node.http, "chain_getBlockHash", int(number, 16)) == each["block"]
        assert int(number, 16) <= final
