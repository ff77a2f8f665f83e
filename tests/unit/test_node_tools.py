"""A node's folder: checked, exported and imported, reverted, moved as a snapshot."""

import faulthandler
import json
import os
import random
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest
from click.testing import CliRunner
from tests.clients import chain as nodes
from tests.sim.test_node_kills import ask
from tests.unit.chain_store import (
    CONFIG,
    RUNTIME,
    SPEC,
    Grower,
    grow,
    justify,
)

from phala.cli.main import phala
from phala.crypto.signatures import ed25519_from_seed
from phala.errors import Invalid, PhalaError, Refused, Unavailable
from phala.node import chain as chains
from phala.node import store as stores
from phala.node.chain import Chain
from phala.node.index import INDEX_FOLDER, Index
from phala.node.indexer import Indexer
from phala.node.journal import load
from phala.node.keys import load_grandpa_key
from phala.node.runtimes.table import Runtimes
from phala.node.spec import ensure_begun, load_chain_spec, raw_document, read_chain_spec
from phala.node.store import OtherChain, Store
from phala.node.tools.chainfile import export_chain, import_chain
from phala.node.tools.check import CheckFailed, check
from phala.node.tools.check_index import BadIndex, check_index
from phala.node.tools.files import BadFile
from phala.node.tools.revert import revert
from phala.node.tools.snapshot import restore_snapshot, take_snapshot
from phala.sdk.keyring import dev_pair

BLOCKS, WINDOW = 12, 4
RUNTIMES = Runtimes(RUNTIME)


@pytest.fixture(autouse=True)
def _short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "WINDOW_BLOCKS", WINDOW)


@pytest.fixture(params=[False, True], ids=["pruned", "archive"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    found = grow(tmp_path / "node", BLOCKS, archive=request.param)
    yield found
    found.close()


def test_a_store_that_nobody_touched_fits(store: Store) -> None:
    report = check(store)

    assert (report.head, report.finalized, report.headers) == (BLOCKS, BLOCKS - 1, BLOCKS + 1)
    assert report.extrinsics == 3 * BLOCKS
    assert report.justifications == BLOCKS - 1
    assert report.roots == report.head - report.oldest + 1
    assert report.keys > 20


def altered(folder: Path, table: str, at: int) -> None:
    """Flip one bit of an entry's value, behind the store's back."""
    with lmdb.open(str(folder), map_size=1 << 40, max_dbs=32) as env:
        db = env.open_db(table.encode())
        with env.begin(write=True, db=db) as transaction:
            entries = [pair for pair in transaction.cursor() if pair[1]]
            key, value = entries[at % len(entries)]
            bit = random.Random(at).randrange(8 * len(value))
            damaged = bytearray(value)
            damaged[bit // 8] ^= 1 << bit % 8
            transaction.put(key, bytes(damaged))


def test_an_index_that_says_other_than_the_chain_is_noticed(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    assert check_index(store, folder) == 0
    index = Index(folder / INDEX_FOLDER)
    indexer = Indexer(store, index, RUNTIMES)
    while indexer.step():
        continue
    index.close()

    assert check_index(store, folder) == 3 * (BLOCKS - 1)
    for table in ("extrinsics", "accounts"):
        with lmdb.open(str(folder / INDEX_FOLDER), map_size=1 << 38, max_dbs=8) as env:
            db = env.open_db(table.encode())
            with env.begin(write=True, db=db) as transaction:
                gone = [key for key, how in transaction.cursor() if table[0] == "e" or how[0] & 1]
                kept = {key: transaction.get(key) or b"" for key in gone}
                transaction.delete(gone[0])
        with pytest.raises(BadIndex, match="remove the folder index"):
            check_index(store, folder)
        with (
            lmdb.open(str(folder / INDEX_FOLDER), map_size=1 << 38, max_dbs=8) as env,
            env.begin(write=True, db=env.open_db(table.encode())) as transaction,
        ):
            transaction.put(gone[0], kept[gone[0]])
    assert check_index(store, folder) == 3 * (BLOCKS - 1)


@pytest.mark.parametrize("archive", [False, True])
@pytest.mark.parametrize(
    "table",
    ["headers", "bodies", "justifications", "changes", "undos", "hashes", "flat", "history"],
)
def test_one_bit_anywhere_is_noticed(tmp_path: Path, table: str, *, archive: bool) -> None:
    if table == "history" and not archive:
        return
    for at in range(3):
        folder = tmp_path / str(at)
        grow(folder, BLOCKS, archive=archive).close()
        altered(folder / "db", table, 7 * at)
        store = Store(folder / "db", reader=True)

        with pytest.raises(CheckFailed):
            check(store)
        store.close()


def read_all(folder: Path) -> int:
    """Of a process of its own: LMDB itself falls over some pages. 0: all fits; 1: a typed error."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    faulthandler.disable()
    found = 2
    try:
        store = Store(folder)
        Chain(store)
        check(store)
        found = 0
    except (Unavailable, CheckFailed):
        found = 1
    except BaseException:  # noqa: BLE001 - it is shown, and counts
        traceback.print_exc()
    finally:
        os._exit(found)


def test_whatever_page_is_wiped_reading_ends_in_no_untyped_error(tmp_path: Path) -> None:
    grow(tmp_path, 12, each=20).close()
    data = tmp_path / "db" / "data.mdb"
    whole, page = data.read_bytes(), 4_096
    found = []
    for at in range(2 * page, len(whole), 3 * page):  # after the two that describe the rest
        data.write_bytes(whole[:at] + bytes(page) + whole[at + page :])
        found.append(read_all(tmp_path / "db"))
    assert 2 not in found
    assert found.count(1) > len(found) // 4, "some pages are free, most are not"


def test_a_killed_reader_does_not_make_the_file_grow_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "READERS_BLOCKS", 4)
    store = grow(tmp_path, 1)
    program = (
        "import os, pathlib, sys; from phala.node.store import Store;"
        "store = Store(pathlib.Path(sys.argv[1]), reader=True); os._exit(store.head().number)"
    )
    killed = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "db")])
    assert killed.wait(30) == 1, "it read the head, and did not end its reading"
    pid = killed.pid
    assert str(pid) in store._env.readers()
    grower = Grower(Chain(store))
    grower.nonce = 2
    for _ in range(3):
        grower.block()
    assert str(pid) not in store._env.readers()
    store.close()


def test_a_journal_that_is_not_read_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "pending").mkdir()
    with pytest.raises(Unavailable, match=r"pending is not read: Is a directory; mend"):
        load(tmp_path / "pending")


def test_blocks_that_are_exported_are_executed_again_elsewhere(
    store: Store, tmp_path: Path
) -> None:
    done = export_chain(store, tmp_path / "blocks")
    assert (done.first, done.last, done.finalized) == (1, BLOCKS, BLOCKS - 1)
    other = Store(tmp_path / "other" / "db")

    first = import_chain(other, tmp_path / "blocks", SPEC, RUNTIMES)
    again = import_chain(other, tmp_path / "blocks", SPEC, RUNTIMES)

    assert (first.executed, first.known) == (BLOCKS, 0)
    assert (again.executed, again.known) == (0, BLOCKS)
    assert other.head() == store.head()
    assert other.finalized == store.finalized == BLOCKS - 1
    check(other)
    other.close()


def test_parts_of_a_chain_are_imported_in_order(store: Store, tmp_path: Path) -> None:
    export_chain(store, tmp_path / "one", last=5)
    export_chain(store, tmp_path / "two", first=6)
    other = Store(tmp_path / "other" / "db")

    with pytest.raises(Refused, match="between them first"):
        import_chain(other, tmp_path / "two", SPEC, RUNTIMES)
    import_chain(other, tmp_path / "one", SPEC, RUNTIMES)
    import_chain(other, tmp_path / "two", SPEC, RUNTIMES)

    assert other.head() == store.head()
    with pytest.raises(Invalid, match="name blocks that are there"):
        export_chain(store, tmp_path / "none", first=BLOCKS + 1)
    assert not (tmp_path / "none").exists()
    other.close()


def test_a_damaged_file_is_refused_and_what_came_before_is_kept(
    store: Store, tmp_path: Path
) -> None:
    export_chain(store, tmp_path / "blocks")
    data = (tmp_path / "blocks").read_bytes()
    chance = random.Random(20261125)
    heads = set()
    for cut in range(12):
        at = chance.randrange(len(data))
        (tmp_path / "bad").write_bytes(
            data[:at] if cut % 2 else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        )
        other = Store(tmp_path / str(cut) / "db")
        with pytest.raises(BadFile):
            import_chain(other, tmp_path / "bad", SPEC, RUNTIMES)
        if other.genesis_hash is not None:
            heads.add(other.head().number)
            check(other)
        import_chain(other, tmp_path / "blocks", SPEC, RUNTIMES)
        assert other.head() == store.head()
        other.close()
    assert len(heads) > 2


def test_another_chains_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    document = json.loads(CONFIG.to_json())
    document["genesis"]["balances"].pop()
    spec = read_chain_spec(json.dumps(document))
    store = grow(tmp_path / "node", 2, spec=spec)
    export_chain(store, tmp_path / "blocks")
    other = Store(tmp_path / "other" / "db")

    with pytest.raises(OtherChain):
        import_chain(other, tmp_path / "blocks", SPEC, RUNTIMES)

    assert other.genesis_hash is None
    store.close()
    other.close()


def test_another_branch_of_the_chain_is_refused(store: Store, tmp_path: Path) -> None:
    other = grow(tmp_path / "other", 3, each=1)
    export_chain(other, tmp_path / "blocks")

    with pytest.raises(OtherChain, match="phala node revert"):
        import_chain(store, tmp_path / "blocks", SPEC, RUNTIMES)
    other.close()


def test_a_justification_by_others_is_refused_with_its_block(tmp_path: Path) -> None:
    store = grow(tmp_path / "node", 1)
    head = store.head()
    stranger = ed25519_from_seed(b"s" * 32)
    store.finalize(head.number, justify(head.hash(), head.number, stranger))
    export_chain(store, tmp_path / "blocks")
    other = Store(tmp_path / "other" / "db")

    with pytest.raises(Invalid, match="is in no set 0"):
        import_chain(other, tmp_path / "blocks", SPEC, RUNTIMES)

    assert other.head().number == 0
    with pytest.raises(CheckFailed, match="is in no set 0"):
        check(store)
    store.close()
    other.close()


def test_reverting_stops_at_what_is_finalized(store: Store) -> None:
    before = store.header(store.finalized)

    with pytest.raises(Refused, match="begin another chain"):
        revert(store, store.finalized - 1)
    assert revert(store, store.finalized) == 1

    assert store.head() == before
    assert check(store).head == BLOCKS - 1
    grower = Grower(Chain(store))
    grower.block()
    assert check(store).head == BLOCKS
    with pytest.raises(Invalid, match="name a block that is there"):
        revert(store, BLOCKS + 1)


def test_a_snapshot_begins_a_node_that_goes_on(store: Store, tmp_path: Path) -> None:
    genesis = store.genesis_hash
    assert genesis is not None
    taken = take_snapshot(store, tmp_path / "state")
    restored = restore_snapshot(tmp_path / "state", tmp_path / "other", genesis)

    assert restored == taken
    assert taken.number == BLOCKS - 1
    other = Store(tmp_path / "other" / "db")
    ensure_begun(other, SPEC, RUNTIME)
    report = check(other)
    assert (report.base, report.oldest, report.head) == (BLOCKS - 1,) * 3
    export_chain(store, tmp_path / "rest", first=BLOCKS)
    import_chain(other, tmp_path / "rest", SPEC, RUNTIMES)
    assert other.head() == store.head()
    take_snapshot(other, tmp_path / "again")
    check(other)
    other.close()
    with pytest.raises(Refused, match="give an empty folder"):
        restore_snapshot(tmp_path / "state", tmp_path / "other", genesis)


def test_a_node_serves_what_was_restored_and_says_what_it_has_not(tmp_path: Path) -> None:
    spec = nodes.prepare(tmp_path / "first")
    authority = load_grandpa_key(tmp_path / "first" / "grandpa.key")
    found = load_chain_spec(spec)
    store = grow(tmp_path / "first", BLOCKS, spec=found, key=authority)
    genesis = store.genesis_hash
    assert genesis is not None
    take_snapshot(store, tmp_path / "state")
    store.close()
    restore_snapshot(tmp_path / "state", tmp_path / "second", genesis)
    for name in ("grandpa.key", "spec.json"):
        (tmp_path / "second" / name).write_bytes((tmp_path / "first" / name).read_bytes())

    node = nodes.start(tmp_path / "second", tmp_path / "second" / "spec.json")
    try:
        assert node.genesis == "0x" + genesis.hex()
        assert run("status", str(tmp_path / "second"))["running"]
        told = run("status", "--url", node.websocket)
        assert (told["genesis"], told["specVersion"]) == (node.genesis, 1)
        assert told["head"] >= BLOCKS - 1
        assert ask(node.http, "chain_getBlockHash", 0) == node.genesis
        assert ask(node.http, "chain_getBlockHash", 1) is None
        last = ask(node.http, "chain_getBlockHash", BLOCKS - 1)
        assert len(ask(node.http, "chain_getBlock", last)["block"]["extrinsics"]) == 3
        with pytest.raises(LookupError, match="pruned"):
            ask(node.http, "state_getMetadata", node.genesis)
        assert ask(node.http, "system_accountNextIndex", dev_pair("Alice").address) == 2 * (
            BLOCKS - 1
        )
    finally:
        node.process.terminate()
        assert node.process.wait(20) == 0


def test_a_snapshot_of_another_chain_or_a_damaged_one_leaves_nothing(
    store: Store, tmp_path: Path
) -> None:
    genesis = store.genesis_hash
    assert genesis is not None
    take_snapshot(store, tmp_path / "state")
    data = (tmp_path / "state").read_bytes()
    other = tmp_path / "other"

    with pytest.raises(OtherChain):
        restore_snapshot(tmp_path / "state", other, type(genesis)(b"x" * 32))
    for at in range(0, len(data), len(data) // 9):
        (tmp_path / "bad").write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        with pytest.raises(PhalaError):
            restore_snapshot(tmp_path / "bad", other, genesis)
        assert not (other / "db").exists()
        assert not (other / "db.restored").exists()


def test_a_raw_spec_begins_the_same_chain(tmp_path: Path) -> None:
    made = SPEC.genesis(RUNTIME)
    raw = read_chain_spec(json.dumps(raw_document(SPEC, made)))

    assert raw.config is None
    assert raw.genesis(RUNTIME) == made
    store = grow(tmp_path / "node", 2, spec=raw)
    ensure_begun(store, SPEC, RUNTIME)  # told by the hash
    store.close()


@pytest.mark.parametrize(
    "alter",
    [
        lambda raw: raw["top"].update({"0xGG": "0x"}),
        lambda raw: raw["top"].update({"": "0x"}),
        lambda raw: raw["top"].update({"0x": "0x00"}),
        lambda raw: raw["top"].update({"0x" + "00" * 512: "0x"}),
        lambda raw: raw.update(top=7),
        lambda raw: raw.update(childrenDefault={"0x00": {}}),
    ],
)
def test_what_is_no_raw_state_is_refused(alter: Any) -> None:
    document = raw_document(SPEC, SPEC.genesis(RUNTIME))
    alter(document["genesis"]["raw"])

    with pytest.raises(Invalid, match="no chain spec"):
        read_chain_spec(json.dumps(document))


def run(*arguments: str, code: int = 0) -> Any:
    ran = CliRunner().invoke(phala, ["node", *arguments, "--json"])
    if code:
        assert isinstance(ran.exception, PhalaError)
        assert ran.exception.exit_code == code
        return ran.exception
    assert ran.exit_code == 0, (ran.output, ran.exception)
    return json.loads(ran.stdout)


def test_the_commands_do_it_from_the_outside(tmp_path: Path) -> None:
    folder, other = str(tmp_path / "node"), str(tmp_path / "other")
    spec, blocks = str(tmp_path / "spec.json"), str(tmp_path / "blocks")
    Path(spec).write_text(CONFIG.to_json())
    grow(tmp_path / "node", BLOCKS).close()

    found = run("status", folder)
    assert (found["head"], found["finalized"], found["running"]) == (BLOCKS, BLOCKS - 1, False)
    assert run("check", folder)["genesis"] == found["genesis"]
    assert run("export", folder, blocks)["last"] == BLOCKS
    assert run("import", other, blocks, "--spec", spec)["executed"] == BLOCKS
    assert run("spec", spec)["genesisHash"] == found["genesis"]
    assert len(run("spec", spec, "--raw")["genesis"]["raw"]["top"]) > 20
    released = run("release", str(tmp_path / "own.phala"))
    assert bytes.fromhex(released["manifest"][2:]).startswith(b"phala runtime manifest 1\n")
    assert run("revert", other, str(BLOCKS - 1))["reverted"] == 1
    assert "finalized" in run("revert", other, "3", code=77).what
    state = str(tmp_path / "state")
    assert run("snapshot", folder, state)["number"] == BLOCKS - 1
    third = str(tmp_path / "third")
    assert run("restore", third, state, "--genesis", found["genesis"])["number"] == BLOCKS - 1
    assert run("check", third)["base"] == BLOCKS - 1
    altered(Path(other) / "db", "flat", 5)
    assert "root" in run("check", other, code=65).what
    run("status", code=65)
    Store(tmp_path / "begun" / "db").close()  # as an import leaves it that was ended at once
    for folder in (str(tmp_path / "nothing"), str(tmp_path / "begun")):
        for what in (("status",), ("check",)):
            run(*what, folder, code=65)
        for what in (("export",), ("snapshot",)):
            run(*what, folder, str(tmp_path / "file"), code=65)
        run("revert", folder, "1", code=65)
    assert not (tmp_path / "file").exists()
    begun = str(tmp_path / "begun")
    assert run("restore", begun, state, "--genesis", found["genesis"])["number"] == BLOCKS - 1
    assert (
        "holds a chain" in run("restore", begun, state, "--genesis", found["genesis"], code=77).what
    )
