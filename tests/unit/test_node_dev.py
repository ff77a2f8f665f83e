"""What a development network's owner may do with it: over a real node of several processes."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from tests.clients import chain
from tests.unit.test_node_door import ALICE, BOB, DAVE, account_key, ask, error, signed

from phala.attest import PRODUCTION
from phala.cli.main import phala
from phala.codec import encode_compact
from phala.errors import PhalaError
from phala.finality import decode_justification, verify_own
from phala.frame import BadOrigin, Block, Root, Unsigned
from phala.node.blobs import Changes
from phala.node.chain import Chain, StateView
from phala.node.engines.opening import runtimes_of, store_of
from phala.node.spec import write_spec
from phala.node.store import Store
from phala.node.writer import authorities_after
from phala.pallets.dev import NotADevChain, SequencePassed, SequenceTooFar
from phala.primitives.address import encode_ss58
from phala.primitives.keys import storage_prefix
from phala.primitives.types import PHA, AccountId, BlockNumber, Hash
from phala.runtime import GenesisConfig, InvalidTransaction, Problem, Source
from phala.runtime.attestation import AttestVerifier
from phala.runtime.validity import validate_bare
from phala.runtime.world import CALLS, World
from phala.trie import State, Trie

WAIT_S = 20
TIME = "0x" + storage_prefix("Timestamp", "Now").hex()
ON = "dev chain"
DAY_S = 86_400


def until(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chain.RunningNode]:
    with chain.running(tmp_path_factory.mktemp("chain")) as running:
        yield running


@pytest.fixture
def http(node: chain.RunningNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.http, timeout=WAIT_S) as client:
        yield client
        for name in ask(client, "dev_snapshots")["snapshots"]:
            ask(client, "dev_release", name)


def address(pair: Any) -> str:
    return str(encode_ss58(AccountId(pair.public)))


def height(http: httpx.Client) -> int:
    return int(ask(http, "chain_getHeader")["number"], 16)


def final(http: httpx.Client) -> int:
    return int(ask(http, "chain_getHeader", ask(http, "chain_getFinalizedHead"))["number"], 16)


def clock_ms(http: httpx.Client, *at: str) -> int:
    return int.from_bytes(bytes.fromhex(ask(http, "state_getStorage", TIME, *at)[2:]), "little")


def free(http: httpx.Client, pair: Any) -> int:
    found = ask(http, "state_getStorage", account_key(pair))
    return 0 if found is None else int.from_bytes(bytes.fromhex(found[2:])[16:32], "little")


def transfer(pair: Any, amount: int) -> str:
    data: bytes = b"\5\3\0" + pair.public + encode_compact(amount)
    return "0x" + data.hex()


def test_blocks_are_mined_at_once(http: httpx.Client) -> None:
    before = height(http)

    found = ask(http, "dev_mine", 100)

    assert found["on"] == ON
    assert found["blocks"] == 100
    assert before + 100 <= found["number"] <= before + 101
    assert ask(http, "chain_getBlockHash", found["number"]) == found["hash"]
    assert error(http, "dev_mine", 0)["code"] == -32602
    assert error(http, "dev_mine", 4_097)["code"] == -32602


def test_time_goes_on_from_where_it_is_set_and_never_back(http: httpx.Client) -> None:
    later = clock_ms(http) + DAY_S * 1_000

    assert ask(http, "dev_setTime", later) == {"on": ON, "time_ms": later}
    first = ask(http, "dev_mine")
    assert later <= clock_ms(http, first["hash"]) < later + 60_000

    refused = error(http, "dev_setTime", later - 1)
    assert "never runs back" in refused["data"]


def test_time_passes_over_blocks_at_even_steps(http: httpx.Client) -> None:
    before = clock_ms(http)

    found = ask(http, "dev_forward", 10 * DAY_S, 10)

    hashes = [ask(http, "chain_getBlockHash", found["number"] - n) for n in reversed(range(10))]
    times = [clock_ms(http, each) for each in hashes]
    steps = [after - earlier for earlier, after in pairwise(times)]
    assert steps == [DAY_S * 1_000] * 9
    assert times[-1] - before >= 10 * DAY_S * 1_000
    assert found["time_ms"] == times[-1]


def test_a_call_runs_as_an_account_that_did_not_sign_it(http: httpx.Client) -> None:
    ask(http, "dev_setBalance", address(DAVE), str(20 * PHA))
    before, paid = free(http, DAVE), free(http, BOB)

    found = ask(http, "dev_impersonate", address(DAVE), transfer(BOB, 7 * PHA))

    assert found["on"] == ON
    assert found["ok"]
    assert found["error"] is None
    assert {"Balances"} <= {each["pallet"] for each in found["events"]}
    assert free(http, DAVE) == before - 7 * PHA, "and it pays no fee"
    assert free(http, BOB) == paid + 7 * PHA


def test_a_call_that_fails_says_why(http: httpx.Client) -> None:
    found = ask(http, "dev_impersonate", address(DAVE), transfer(BOB, 10**9 * PHA))

    assert not found["ok"]
    assert found["error"]


def test_a_balance_and_storage_are_set(http: httpx.Client) -> None:
    assert ask(http, "dev_setBalance", address(DAVE), str(5 * PHA))["ok"]
    assert free(http, DAVE) == 5 * PHA

    key = "0x" + storage_prefix("Nobodys", "Item").hex()
    done = ask(http, "dev_setStorage", {key: "0x1234"})
    assert (done["on"], done["changed"]) == (ON, 1)
    assert ask(http, "state_getStorage", key) == "0x1234"
    ask(http, "dev_setStorage", {key: None})
    assert ask(http, "state_getStorage", key) is None


def test_nothing_after_a_snapshot_is_final_and_all_of_it_is_gone_after_the_revert(
    http: httpx.Client,
) -> None:
    ask(http, "dev_mine", 2)
    before = free(http, BOB)
    kept = ask(http, "dev_snapshot", "start")
    nonce = ask(http, "system_accountNextIndex", address(ALICE))
    sent = ask(http, "author_submitExtrinsic", signed(http, ALICE, nonce))
    assert sent
    until(lambda: free(http, BOB) > before)
    ask(http, "dev_mine", 20)
    ask(http, "dev_forward", DAY_S)
    assert final(http) <= kept["number"]
    assert height(http) >= kept["number"] + 22

    found = ask(http, "dev_revert", "start")

    assert (found["number"], found["hash"]) == (kept["number"], kept["hash"])
    assert free(http, BOB) == before
    assert ask(http, "system_accountNextIndex", address(ALICE)) == nonce
    assert error(http, "dev_revert", "start")["code"] == -32602, "it is used up"
    ask(http, "author_submitExtrinsic", signed(http, ALICE, nonce))
    until(lambda: free(http, BOB) > before)
    until(lambda: final(http) > kept["number"])


def test_a_snapshot_may_be_kept_and_those_after_it_go(http: httpx.Client) -> None:
    ask(http, "dev_snapshot", "a")
    ask(http, "dev_mine", 3)
    ask(http, "dev_snapshot", "b")
    ask(http, "dev_mine", 3)

    for _ in range(3):
        ask(http, "dev_revert", "a", True)  # noqa: FBT003 - JSON's
        ask(http, "dev_mine", 5)

    assert list(ask(http, "dev_snapshots")["snapshots"]) == ["a"]
    ask(http, "dev_release", "a")
    head = height(http)
    until(lambda: final(http) >= head)


def test_a_dumped_state_is_loaded(http: httpx.Client) -> None:
    ask(http, "dev_setBalance", address(DAVE), str(5 * PHA))
    dump = ask(http, "dev_dumpState")
    issued = ask(http, "state_getStorage", "0x" + storage_prefix("Balances", "TotalIssuance").hex())
    ask(http, "dev_setBalance", address(DAVE), str(6 * PHA))
    other = dev_address(b"nobody")
    ask(http, "dev_setBalance", other, str(9 * PHA))

    found = ask(http, "dev_loadState", dump["top"])

    assert found["on"] == ON
    assert found["changed"] >= 3
    assert found["left_out"] > 10, "blocks, time, finality and enclaves are this chain's own"
    assert free(http, DAVE) == 5 * PHA
    assert ask(http, "system_accountNextIndex", other) == 0
    assert issued == ask(
        http, "state_getStorage", "0x" + storage_prefix("Balances", "TotalIssuance").hex()
    )


def test_what_is_no_dump_takes_nobodys_account(http: httpx.Client) -> None:
    ask(http, "dev_setBalance", address(DAVE), str(5 * PHA))

    for top in ({}, {"0x00": "0x00"}):
        assert error(http, "dev_loadState", top)["code"] == -32602

    assert free(http, DAVE) == 5 * PHA


def rooted(trie: Trie, view: StateView) -> Callable[[Changes], Hash]:
    return lambda changes: trie.update(changes, view).root


def dev_address(name: bytes) -> str:
    return encode_ss58(AccountId(name.ljust(32, b"\0")))


def test_strangers_cannot_ask(http: httpx.Client) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "dev_mine", "params": []}
    answer = http.post("", json=request, headers={"x-forwarded-for": "192.0.2.1"}).json()

    assert "unsafe" in answer["error"]["message"]


def test_an_unsigned_call_is_not_taken_from_strangers(http: httpx.Client) -> None:
    call = b"\xff\0" + bytes(8) + b"\0\0" + bytes.fromhex(transfer(BOB, PHA)[2:])
    bare = b"\4" + call
    found = error(http, "author_submitExtrinsic", "0x" + (encode_compact(len(bare)) + bare).hex())

    assert found["code"] == 1011


def test_blocks_come_to_the_same_for_whoever_makes_them_again(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("again")
    with (
        chain.running(folder) as running,
        httpx.Client(base_url=running.http, timeout=WAIT_S) as client,
    ):
        ask(client, "dev_impersonate", address(DAVE), transfer(BOB, PHA))
        ask(client, "dev_setBalance", address(BOB), 3 * PHA)
        ask(client, "dev_snapshot", "x")
        ask(client, "dev_setBalance", address(BOB), 4 * PHA)
        ask(client, "dev_revert", "x")
        ask(client, "dev_forward", DAY_S, 3)
        ask(client, "dev_impersonate", "root", "0x0004" + "04" + "1001020304" + "08aabb")
        head = height(client)
        until(lambda: final(client) >= head)
    store = Store(store_of(folder))
    try:
        made, runtimes = Chain(store), runtimes_of(folder)
        for number in range(1, head + 1):
            at = BlockNumber(number)
            parent, header = made.header(BlockNumber(number - 1)), made.header(at)
            before = made.trie_at(parent.number)
            view = made.state_at(parent.number)

            sealed = runtimes.at(made, parent.number).execute(
                State(view),
                parent,
                header,
                store.body(at),
                rooted(before, view),
            )

            assert sealed.hash == header.hash()
            justification = store.justification(at)
            assert justification is not None
            verify_own(
                decode_justification(justification),
                header,
                authorities_after(made, parent.number),
            )
    finally:
        store.close()


# ---- the command line


def run(node: chain.RunningNode, *words: str, code: int = 0) -> dict[str, Any]:
    command, *rest = words
    found = CliRunner().invoke(phala, ["dev", command, *rest, "--url", node.websocket, "--json"])
    if code:
        assert isinstance(found.exception, PhalaError)
        assert found.exception.exit_code == code
        return {"what": found.exception.what}
    assert found.exit_code == 0, found.output + repr(found.exception)
    document = json.loads(found.output)
    assert document["on"] == ON
    return dict(document)


def test_all_of_it_from_the_command_line(node: chain.RunningNode, tmp_path: Path) -> None:
    assert run(node, "mine", "3")["blocks"] == 3
    later = run(node, "forward", "2h", "--blocks", "2")["time_ms"]
    assert run(node, "time", str(later + 5_000))["time_ms"] == later + 5_000
    run(node, "set-balance", "Bob", "50")
    file = tmp_path / "state.json"
    assert run(node, "dump", str(file))["pairs"] > 10
    run(node, "snapshot", "cli")
    done = run(
        node, "impersonate", "Bob", "Balances.transfer_keep_alive",
        "--arg", "dest=Alice", "--arg", "value=1000000000000",
    )  # fmt: skip
    assert done["ok"]
    assert list(run(node, "snapshots")["snapshots"]) == ["cli"]
    assert run(node, "load", str(file))["changed"] >= 2
    assert run(node, "revert", "cli", "--keep")["gone"] >= 2
    run(node, "release", "cli")

    failed = run(
        node, "impersonate", "Bob", "Balances.burn", "--arg", "value=99999999999999999",
        "--arg", "keep_alive=true", code=77,
    )  # fmt: skip
    assert "dev chain" in failed["what"]
    assert "no snapshot" in run(node, "revert", "cli", code=77)["what"]


def test_another_chain_has_none_of_it(tmp_path: Path) -> None:
    spec = chain.prepare(tmp_path)
    document = json.loads(spec.read_text())
    config = GenesisConfig.from_json(json.dumps(document))
    policy = PRODUCTION
    live = replace(
        config,
        chain_type="Live",
        accepted_platforms=tuple(int(each) for each in policy.platforms),
        policy=policy.encode(),
    )
    write_spec(spec, live)
    node = chain.start(tmp_path, spec)
    try:
        with httpx.Client(base_url=node.http, timeout=WAIT_S) as client:
            methods = ask(client, "rpc_methods")["methods"]
            assert "chain_getHeader" in methods
            assert not [each for each in methods if each.startswith("dev_")]
            assert error(client, "dev_mine")["code"] == -32601
            key = "0x" + storage_prefix("Dev", "IsDev").hex()
            assert ask(client, "state_getStorage", key) is None
        assert "no dev chain" in run(node, "mine", code=77)["what"]
    finally:
        node.process.terminate()
        node.process.wait(10)


def test_a_call_that_nobody_signed_is_in_no_block_of_another_chain() -> None:
    world = World(Block(BlockNumber(1), phase=1), AttestVerifier())
    call = CALLS.decode(b"\xff\0" + bytes(8) + b"\0\0" + bytes.fromhex(transfer(BOB, PHA)[2:]))

    with pytest.raises(NotADevChain):
        call.dispatch(world.pallets[call.pallet], Unsigned())
    for source in Source:
        with pytest.raises(InvalidTransaction) as refused:
            validate_bare(world, call, source)
        assert refused.value.problem is Problem.NO_UNSIGNED_VALIDATOR
    world.dev.is_dev.put(True)  # noqa: FBT003 - the value itself
    assert validate_bare(world, call, Source.LOCAL).provides
    with pytest.raises(BadOrigin):
        call.dispatch(world.pallets[call.pallet], Root())


def test_each_unsigned_call_is_made_once_and_in_order() -> None:
    world = World(Block(BlockNumber(1), phase=1), AttestVerifier())
    world.dev.is_dev.put(True)  # noqa: FBT003 - the value itself

    def made(sequence: int) -> None:
        data = b"\xff\0" + sequence.to_bytes(8, "little") + b"\0\0" + b"\0\0\0"
        call = CALLS.decode(data)
        call.dispatch(world.pallets[call.pallet], Unsigned())

    with pytest.raises(SequenceTooFar):
        made(1)
    made(0)
    with pytest.raises(SequencePassed):
        made(0)
    made(1)


def test_a_key_that_the_running_node_made_finalizes_when_a_set_names_it(
    node: chain.RunningNode, http: httpx.Client
) -> None:
    rotated = ask(http, "author_rotateKeysWithOwner", "0x" + ALICE.public.hex())
    key = bytes.fromhex(rotated["keys"][2:66])
    call = b"\x10\1" + b"\4" + key + (1).to_bytes(8, "little")

    done = ask(http, "dev_impersonate", "root", "0x" + call.hex())

    assert done["ok"], done
    ask(http, "dev_mine", 3)
    until(lambda: final(http) > done["number"] + 1)
    (over,) = ask(http, "grandpa_roundState")["background"]
    assert over["precommits"]["missing"] == []
    authorities = ask(http, "state_call", "GrandpaApi_grandpa_authorities", "0x")
    assert key.hex() in authorities
    assert node.process.poll() is None
