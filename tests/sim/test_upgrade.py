"""A runtime upgrade at a height: the release before and the one after, side by side."""

import asyncio
import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.clients import chain as nodes
from tests.sim.second_release import MARK, edited, released, spec_with
from tests.sim.test_node_kills import ask
from tests.unit.chain_store import RUNTIME, SPEC, Grower, signed, transfer
from websockets.sync.client import ClientConnection, connect

from phala.crypto.hashes import blake2_256
from phala.errors import Invalid
from phala.frame.manifest import Manifest
from phala.node.chain import Chain
from phala.node.engines.author import Handed
from phala.node.main import open_node
from phala.node.rpc.errors import of_submission
from phala.node.runtimes.archive import load_release
from phala.node.runtimes.table import OtherRelease, Runtimes
from phala.node.spec import ChainSpec, ensure_begun, load_chain_spec
from phala.node.store import Store
from phala.node.tools.chainfile import export_chain, import_chain
from phala.node.tools.check import check
from phala.primitives.keys import storage_prefix
from phala.primitives.types import PHA, BlockNumber, Hash, Moment
from phala.runtime import CODE_KEY, DEV_ACCOUNTS, InvalidTransaction
from phala.runtime.version import RUNTIME_VERSION
from phala.trie import State

HEIGHT, BLOCKS = 5, 9
MIGRATED, MARKED, BEGAN, NOW = (
    storage_prefix("Timestamp", name) for name in ("Migrated", "Marked", "Began", "Now")
)
LAST_UPGRADE = storage_prefix("System", "LastRuntimeUpgrade")
BOB = DEV_ACCOUNTS["Bob"]


@dataclass(frozen=True)
class Second:
    folder: Path  # of the whole package, for `PYTHONPATH`
    archive: Path
    manifest: Manifest


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Second:
    folder = tmp_path_factory.mktemp("second")
    archive = folder / "second.phala"
    return Second(edited(folder / "src"), archive, released(folder / "src", archive))


@pytest.fixture
def runtimes(tmp_path: Path) -> Iterator[Runtimes]:
    found = Runtimes(RUNTIME, tmp_path / "node" / "runtimes")
    yield found
    found.close()


def begun(folder: Path, spec: ChainSpec, runtimes: Runtimes) -> tuple[Store, Grower]:
    store = Store(folder / "db")
    ensure_begun(store, spec, RUNTIME)
    return store, Grower(Chain(store), runtimes)


def upgraded(folder: Path, second: Second, runtimes: Runtimes) -> tuple[ChainSpec, Store, Grower]:
    """A chain over the upgrade: in its last blocks with the call that is new."""
    spec = spec_with(SPEC, RUNTIME, second.manifest.encode(), when=HEIGHT)
    store, grower = begun(folder, spec, runtimes)
    for _ in range(HEIGHT):
        grower.block(*grower.transfers(2))
    grower.spec_version = 2
    for number in range(HEIGHT + 1, BLOCKS + 1):
        grower.block(*grower.transfers(1), grower.signed(MARK + number.to_bytes(4, "little")))
    return spec, store, grower


def test_at_its_height_the_new_release_migrates_once_and_its_calls_work(
    tmp_path: Path, second: Second, runtimes: Runtimes
) -> None:
    runtimes.add(second.archive)
    _, store, grower = upgraded(tmp_path / "node", second, runtimes)
    chain = grower.chain

    def value(key: bytes, number: int) -> bytes | None:
        return chain.value(key, BlockNumber(number))

    assert value(CODE_KEY, HEIGHT - 1) == RUNTIME.code
    assert value(CODE_KEY, HEIGHT) == second.manifest.encode()
    assert value(MIGRATED, HEIGHT) is None
    assert value(BEGAN, HEIGHT + 1) == value(NOW, HEIGHT)
    for number in range(HEIGHT + 1, BLOCKS + 1):
        assert value(MIGRATED, number) == (1).to_bytes(4, "little")
        assert value(MARKED, number) == number.to_bytes(4, "little")
        assert value(LAST_UPGRADE, number) == bytes([2 << 2]) + b"\x14phala"
    check(store)
    store.close()


def test_each_state_is_read_by_the_release_that_it_names(
    tmp_path: Path, second: Second, runtimes: Runtimes
) -> None:
    runtimes.add(second.archive)
    _, store, grower = upgraded(tmp_path / "node", second, runtimes)
    chain = grower.chain
    for number in range(BLOCKS + 1):
        at = BlockNumber(number)
        found, new = runtimes.at(chain, at), number >= HEIGHT
        block = chain.header(at).hash()
        answer = found.call(State(chain.state_at(at)), block, "Core_version", b"")
        assert RUNTIME_VERSION.decode(answer) == found.version
        assert found.version.spec_version == 1 + new
        assert (found.metadata(14) == RUNTIME.metadata(14)) == (not new)
        assert (b"\x10mark" in found.metadata(15)) == new
        assert (
            blake2_256(found.metadata(15))
            == Manifest.decode(chain.value(CODE_KEY, at) or b"").metadata
        )
        nonce = found.call(
            State(chain.state_at(at)), block, "AccountNonceApi_account_nonce", DEV_ACCOUNTS["Alice"]
        )
        assert int.from_bytes(nonce, "little") == 2 * number
    store.close()


def test_another_release_refuses_in_the_words_of_this_one(
    tmp_path: Path, second: Second, runtimes: Runtimes
) -> None:
    """That is, by the same numbers at the RPC."""
    runtimes.add(second.archive)
    _, store, grower = upgraded(tmp_path / "node", second, runtimes)
    chain = grower.chain
    found = runtimes.at(chain, BlockNumber(BLOCKS))
    (good,) = grower.transfers(1)
    wrong = (b"", b"\x12\x34", good + b"\0", good[:-1], good[:40] + bytes(64) + good[104:])
    told = []
    for data in wrong:
        raised = []
        for judge in (found, RUNTIME):
            validator = judge.validator(State(chain.state_at(chain.head.number)), chain.head)
            with pytest.raises(InvalidTransaction) as refusal:
                validator.validate(data)
            error = refusal.value
            raised.append((error.what, error.problem, error.custom, of_submission(error).code))
        assert raised[0] == raised[1]
        told.append(raised[0][-1])
    assert told == [1001] * 4 + [1010]
    for method, argument in (("Nothing_x", b""), ("Core_version", b"\0")):
        with pytest.raises(Invalid):
            found.call(State(chain.state_at(chain.head.number)), chain.genesis, method, argument)
    store.close()


def test_a_node_without_the_release_stops_before_its_first_block_and_loses_nothing(
    tmp_path: Path, second: Second, runtimes: Runtimes
) -> None:
    spec = spec_with(SPEC, RUNTIME, second.manifest.encode(), when=HEIGHT)
    store, grower = begun(tmp_path / "node", spec, runtimes)
    for _ in range(HEIGHT):
        grower.block()

    for _ in range(2):
        with pytest.raises(OtherRelease, match=r"spec version 2 .*runtimes.*nothing is lost"):
            grower.block()

    assert check(store).head == HEIGHT
    runtimes.add(second.archive)
    grower.block()
    assert check(store).head == HEIGHT + 1
    store.close()


def test_an_archive_that_was_altered_is_another_release(second: Second, runtimes: Runtimes) -> None:
    release = load_release(second.archive)
    wanted = second.manifest.encode()
    files = dict(release.files)
    files["phala/runtime/version.py"] += b"# another\n"

    runtimes._keep(type(release)(release.manifest, files))
    with pytest.raises(OtherRelease):
        runtimes.of(wanted)

    runtimes.add(second.archive)
    assert runtimes.of(wanted).version.spec_version == 2


def test_the_whole_chain_is_executed_again_from_genesis_by_each_blocks_release(
    tmp_path: Path, second: Second, runtimes: Runtimes
) -> None:
    runtimes.add(second.archive)
    spec, store, _ = upgraded(tmp_path / "node", second, runtimes)
    export_chain(store, tmp_path / "blocks")
    other = Store(tmp_path / "other" / "db")
    alone = Runtimes(RUNTIME, tmp_path / "other" / "runtimes")

    with pytest.raises(OtherRelease):
        import_chain(other, tmp_path / "blocks", spec, alone)
    assert check(other).head == HEIGHT
    alone.add(second.archive)
    done = import_chain(other, tmp_path / "blocks", spec, alone)

    assert (done.known, done.executed) == (HEIGHT, BLOCKS - HEIGHT)
    assert other.head() == store.head()
    check(other)
    alone.close()
    other.close()
    store.close()


def test_what_waits_over_the_upgrade_is_judged_by_the_release_that_makes_its_block(
    tmp_path: Path, second: Second
) -> None:
    """Signed for the version before, it is invalid: no peer would take a block with it."""
    spec = prepared(tmp_path, second)
    node, solo, _ = open_node(tmp_path, spec, archive=False)
    node.runtimes.add(second.archive)
    genesis, moment = node.chain.genesis, Moment(1_800_000_000_000)

    def sent(name: str, nonce: int, call: bytes, version: int = 1) -> bytes:
        data = signed(genesis, name, nonce, call, spec_version=version)
        node.submit(data)
        return data

    def hand(count: int) -> None:
        solo._hand()
        solo.author.execute(moment, count=count)

    early = sent("Bob", 1, transfer(BOB, PHA))  # in the future of another
    sent("Alice", 0, upgrade_call(second))
    hand(1)
    late = sent("Charlie", 0, transfer(BOB, PHA))
    hand(0)  # waits beside the block that upgrades
    solo.author.write(moment)
    assert len(node.chain.store.body(BlockNumber(1))) == 2
    assert Hash(blake2_256(late)) in node.pool
    solo._handover.end_block()
    assert Hash(blake2_256(early)) not in node.pool
    assert Hash(blake2_256(late)) not in node.pool
    solo.author.hand([Handed(late, 1 << 63)], seen=0)  # as if it was on its way meanwhile
    assert solo.author._waiting.pop().valid_till == 0
    current = sent("Bob", 0, transfer(BOB, PHA), 2)
    for _ in range(2):
        asyncio.run(solo.write())

    assert current in node.chain.store.body(BlockNumber(2))
    export_chain(node.chain.store, tmp_path / "blocks", last=2)
    other = Store(tmp_path / "other" / "db")
    import_chain(other, tmp_path / "blocks", load_chain_spec(spec), node.runtimes)
    assert other.head() == node.chain.header(BlockNumber(2))
    other.close()
    node.runtimes.close()
    node.chain.store.close()


# ---- a node's process


def prepared(folder: Path, second: Second) -> Path:
    """A folder whose chain lets anybody apply the second release's code."""
    spec = nodes.prepare(folder)
    found = spec_with(load_chain_spec(spec), RUNTIME, second.manifest.encode())
    spec.write_text(json.dumps(found.document))
    return spec


def upgrade_call(second: Second) -> bytes:
    code = second.manifest.encode()
    return bytes([0, 11]) + (len(code) << 2 | 1).to_bytes(2, "little") + code


def apply_upgrade(url: str, genesis: str, second: Second) -> None:
    data = signed(Hash(bytes.fromhex(genesis[2:])), "Alice", 0, upgrade_call(second))
    ask(url, "author_submitExtrinsic", "0x" + data.hex())


def follow(socket: ClientConnection, method: str, *params: Any) -> None:
    socket.send(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
    assert "result" in json.loads(socket.recv(40))


def told(socket: ClientConnection) -> Any:
    return json.loads(socket.recv(40))["params"]["result"]


def version_at(url: str, *block: str) -> int:
    return int(ask(url, "state_getRuntimeVersion", *block)["specVersion"])


def upgrade_by_rpc(node: nodes.RunningNode, second: Second) -> str:
    """Apply the code, see clients told of it; the hash of the block that holds it."""
    with connect(node.websocket) as versions, connect(node.websocket) as heads:
        follow(versions, "state_subscribeRuntimeVersion")
        assert told(versions)["specVersion"] == 1
        follow(heads, "chainHead_v1_follow", *[True])
        assert told(heads)["finalizedBlockRuntime"]["spec"]["specVersion"] == 1
        apply_upgrade(node.http, node.genesis, second)
        assert told(versions)["specVersion"] == 2
        while True:
            event = told(heads)
            if event["event"] == "newBlock" and event["newRuntime"] is not None:
                assert event["newRuntime"]["spec"]["specVersion"] == 2
                return str(event["blockHash"])


@pytest.mark.timeout(180)
def test_a_node_goes_over_the_upgrade_and_so_does_the_release_that_takes_its_place(
    tmp_path: Path, second: Second, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = prepared(tmp_path, second)
    (tmp_path / "runtimes").mkdir()
    (tmp_path / "runtimes" / "second.phala").write_bytes(second.archive.read_bytes())
    node = nodes.start(tmp_path, spec)
    try:
        block = upgrade_by_rpc(node, second)
        answers = answers_of(node.http, node.genesis, block)
        send_and_wait(node, 1, transfer(BOB, PHA))
        send_and_wait(node, 2, MARK + (7).to_bytes(4, "little"))
    finally:
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(40) == 0

    (tmp_path / "runtimes" / "second.phala").unlink()  # it is the node's own now
    monkeypatch.setenv("PYTHONPATH", str(second.folder))
    node = nodes.start(tmp_path, spec)
    try:
        assert answers_of(node.http, node.genesis, block) == answers
        send_and_wait(node, 3, MARK + (8).to_bytes(4, "little"))
        marked = ask(node.http, "state_getStorage", "0x" + MARKED.hex())
        assert marked == "0x08000000"
        migrated = ask(node.http, "state_getStorage", "0x" + MIGRATED.hex())
        assert migrated == "0x01000000"
    finally:
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(40) == 0


def answers_of(url: str, genesis: str, block: str) -> list[Any]:
    """What each release says of its states."""
    out = []
    for at, version in ((genesis, 1), (block, 2)):
        assert version_at(url, at) == version
        out.append(ask(url, "state_getMetadata", at))
        out.append(ask(url, "state_call", "Core_version", "0x", at))
        out.append(ask(url, "state_call", "Metadata_metadata_versions", "0x", at))
    assert out[0] != out[3]
    return out


def send_and_wait(node: nodes.RunningNode, nonce: int, call: bytes) -> None:
    """Until the block with it is finalized."""
    genesis = Hash(bytes.fromhex(node.genesis[2:]))
    data = signed(genesis, "Alice", nonce, call, spec_version=2)
    with connect(node.websocket) as socket:
        follow(socket, "author_submitAndWatchExtrinsic", "0x" + data.hex())
        while "finalized" not in (status := told(socket)):
            assert status in ("ready", "future") or "inBlock" in status or "broadcast" in status


@pytest.mark.timeout(120)
def test_a_node_without_the_release_ends_with_the_mend_and_starts_once_it_is_there(
    tmp_path: Path, second: Second
) -> None:
    spec = prepared(tmp_path, second)
    node = nodes.start(tmp_path, spec)
    apply_upgrade(node.http, node.genesis, second)

    assert node.process.wait(60) == 77
    lines = [json.loads(line) for line in (tmp_path / "node.log").read_text().splitlines()]
    errors = [line["message"] for line in lines if line["level"] == "error"]
    assert any("spec version 2" in each and "runtimes" in each for each in errors)
    store = Store(tmp_path / "db", reader=True)
    head = check(store).head
    store.close()

    Runtimes(RUNTIME, tmp_path / "runtimes").add(second.archive)
    node = nodes.start(tmp_path, spec)
    try:
        send_and_wait(node, 1, MARK + bytes(4))
        assert int(ask(node.http, "chain_getHeader")["number"], 16) > head
    finally:
        node.process.send_signal(signal.SIGTERM)
        assert node.process.wait(40) == 0
