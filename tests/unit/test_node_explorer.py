"""The index for people, and what is asked of it: `phala_*` at a node's door."""

import asyncio
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
    EXTENSIONS,
    UNKNOWN,
    ask,
    error,
    signed,
    wait_for,
)

from phala.codec import Malformed, encode_compact
from phala.crypto.hashes import blake2_256
from phala.node.engines.opening import runtimes_of, store_of
from phala.node.index import INDEX_FOLDER, NAMED, OUTSIDE, SIGNER, Entry, Index, Place
from phala.node.indexer import EVENTS_KEY, Indexer, Reading
from phala.node.main import open_node
from phala.node.store import Store
from phala.node.words import Words
from phala.primitives.types import PHA, BlockNumber, Hash
from phala.runtime import Runtime
from phala.sdk.extrinsic import Terms, sign_extrinsic
from phala.sdk.metadata import Metadata

TRANSFERS = 7
SENT: list[str] = []  # Alice's, in order; the last one fails. Signatures differ each time


def too_much(client: httpx.Client, nonce: int) -> str:
    """A transfer of what Alice does not have."""
    genesis = bytes.fromhex(ask(client, "chain_getBlockHash", 0)[2:])
    call = b"\5\3\0" + DAVE.public + encode_compact(10**9 * PHA)
    terms = Terms(genesis, 1, 1, nonce=nonce, tip=5, mortality=None)
    return "0x" + sign_extrinsic(call, ALICE, EXTENSIONS, terms).hex()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chain.RunningNode]:
    with chain.running(tmp_path_factory.mktemp("chain")) as running:
        with httpx.Client(base_url=running.http, timeout=DEADLINE_S) as client:
            SENT[:] = [signed(client, ALICE, nonce) for nonce in range(TRANSFERS)]
            SENT.append(too_much(client, TRANSFERS))
            for each in SENT:
                ask(client, "author_submitExtrinsic", each)
            wait_for(lambda: not ask(client, "author_pendingExtrinsics"))
            head = int(ask(client, "chain_getHeader")["number"], 16)
            wait_for(lambda: (ask(client, "phala_getIndexStatus")["indexed"] or 0) >= head)
        yield running
    log = (running.folder / "node.log").read_text()
    assert '"error"' not in log, log[-3000:]


@pytest.fixture
def http(node: chain.RunningNode) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=node.http, timeout=DEADLINE_S) as client:
        yield client


def name_of(extrinsic: str) -> str:
    return "0x" + blake2_256(bytes.fromhex(extrinsic[2:])).hex()


def test_an_extrinsic_is_told_by_its_hash(http: httpx.Client) -> None:
    extrinsic = SENT[0]
    found = ask(http, "phala_getExtrinsic", name_of(extrinsic))
    assert (found["signer"], found["nonce"], found["tip"]) == (ALICE.address, 0, "0")
    assert found["call"] == {
        "pallet": "Balances", "name": "transfer_keep_alive",
        "args": {"dest": {"Id": BOB.address}, "value": str(PHA)},
    }  # fmt: skip
    assert (found["success"], found["error"]) == (True, None)
    assert found["block"]["final"] is True
    assert found["block"]["time"] > 1_700_000_000_000
    body = ask(http, "chain_getBlock", found["block"]["hash"])["block"]["extrinsics"]
    assert body[found["index"]] == extrinsic
    names = [f"{each['pallet']}.{each['name']}" for each in found["events"]]
    assert "Balances.Transfer" in names
    (paid,) = [each for each in found["events"] if each["name"] == "TransactionFeePaid"]
    assert paid["fields"] == {"who": ALICE.address, "actual_fee": found["fee"], "tip": "0"}
    at = ask(http, "phala_getExtrinsicAt", found["block"]["number"], found["index"])
    assert at == found


def test_a_failed_one_is_told_with_its_error(http: httpx.Client) -> None:
    found = ask(http, "phala_getExtrinsic", name_of(SENT[-1]))
    assert (found["success"], found["tip"]) == (False, "5")
    assert found["error"]["pallet"] in ("Balances", None)
    assert found["error"]["name"] in ("InsufficientBalance", "Token")
    assert found["error"]["name"] != "Unknown"


def test_what_is_not_there_is_null_and_what_waits_is_pending(http: httpx.Client) -> None:
    assert ask(http, "phala_getExtrinsic", UNKNOWN) is None
    waiting = signed(http, DAVE, 40)
    ask(http, "author_submitExtrinsic", waiting)
    found = ask(http, "phala_getExtrinsic", name_of(waiting))
    assert found == {"hash": name_of(waiting), "block": None, "pending": True}
    assert ask(http, "phala_getExtrinsicAt", 1, 10_000) is None


def test_a_new_one_is_found_before_it_is_final(http: httpx.Client) -> None:
    nonce = ask(http, "system_accountNextIndex", BOB.address)
    extrinsic = signed(http, BOB, nonce)
    ask(http, "author_submitExtrinsic", extrinsic)
    wait_for(lambda: ask(http, "phala_getExtrinsic", name_of(extrinsic)).get("block"))
    found = ask(http, "phala_getExtrinsic", name_of(extrinsic))
    assert (found["signer"], found["success"]) == (BOB.address, True)


def test_an_accounts_history_comes_page_by_page_the_newest_first(http: httpx.Client) -> None:
    items: list[Any] = []
    cursor = None
    while True:
        page = ask(http, "phala_getAccountHistory", ALICE.address, cursor, 3)
        assert len(page["items"]) <= 3
        items += page["items"]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert page["index"]["first"] == 1
    mine = [each for each in items if each["signer"] is True]
    assert len(mine) == TRANSFERS + 1
    places = [(each["block"], each["index"]) for each in items]
    assert places == sorted(places, reverse=True)
    assert all(each["hash"] and each["call"] for each in mine)
    assert [each["success"] for each in mine].count(False) == 1
    whole = ask(http, "phala_getAccountHistory", "0x" + ALICE.public.hex())["items"]
    assert whole == items


def test_who_was_paid_finds_it_too(http: httpx.Client) -> None:
    items = ask(http, "phala_getAccountHistory", BOB.address)["items"]
    paid = [each for each in items if each["named"] and not each["signer"]]
    assert len(paid) == TRANSFERS
    assert ask(http, "phala_getAccountHistory", UNKNOWN)["items"] == []


def test_an_account_is_told_as_of_the_head(http: httpx.Client) -> None:
    found = ask(http, "phala_getAccount", ALICE.address)
    assert found == ask(http, "phala_getAccount", "0x" + ALICE.public.hex())
    assert (found["address"], found["nonce"]) == (ALICE.address, TRANSFERS + 1)
    assert int(found["free"]) > PHA
    assert ask(http, "phala_getAccount", UNKNOWN)["free"] == "0"


def test_blocks_are_summed_up(http: httpx.Client) -> None:
    extrinsic = SENT[0]
    at = ask(http, "phala_getExtrinsic", name_of(extrinsic))["block"]["number"]
    block = ask(http, "phala_getBlockSummary", at)
    assert block["number"] == at
    assert block["hash"] == ask(http, "chain_getBlockHash", at)
    assert block == ask(http, "phala_getBlockSummary", block["hash"])
    assert len(block["items"]) == block["extrinsics"]
    assert block["signed"] == sum(each["signer"] is not None for each in block["items"])
    assert name_of(extrinsic) in [each["hash"] for each in block["items"]]
    assert block["items"][0]["call"] == {"pallet": "Timestamp", "name": "set"}
    assert ask(http, "phala_getBlockSummary", at, 1)["items"] == block["items"][1:]
    many = ask(http, "phala_getBlockSummaries", at, 3)
    assert [each["number"] for each in many] == list(range(at, max(-1, at - 3), -1))
    assert many[0].items() <= block.items()
    genesis = ask(http, "phala_getBlockSummary", 0)
    assert (genesis["extrinsics"], genesis["time"]) == (0, None)


def test_a_text_is_searched_for_in_all_that_it_may_mean(http: httpx.Client) -> None:
    (block,) = ask(http, "phala_search", "1")
    assert (block["kind"], block["block"]["number"]) == ("block", 1)
    (same,) = ask(http, "phala_search", block["block"]["hash"])
    assert same == block
    (extrinsic,) = ask(http, "phala_search", name_of(SENT[0]))
    assert extrinsic["kind"] == "extrinsic"
    for text in (ALICE.address, "0x" + ALICE.public.hex()):
        (account,) = ask(http, "phala_search", text)
        assert (account["kind"], account["account"]["address"]) == ("account", ALICE.address)
    for text in ("99999999", UNKNOWN, "nothing", "²"):
        assert ask(http, "phala_search", text) == []


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("phala_getExtrinsic", ["0x00"]), ("phala_getExtrinsicAt", [1]),
        ("phala_getAccountHistory", ["nobody"]), ("phala_getAccountHistory", [UNKNOWN, "0x00"]),
        ("phala_getAccountHistory", [UNKNOWN, None, 0]), ("phala_getAccount", [7]),
        ("phala_getAccountHistory", [UNKNOWN, None, 101]), ("phala_search", [""]),
        ("phala_search", ["x" * 129]), ("phala_getBlockSummary", [1 << 40]),
        ("phala_getBlockSummaries", [0, "x"]),
    ],
)  # fmt: skip
def test_wrong_questions_are_told(http: httpx.Client, method: str, params: list[Any]) -> None:
    assert error(http, method, *params)["code"] == -32602


# ---- the index itself


def entry(number: int, *names: bytes) -> Entry:
    places = tuple(
        (
            Hash(blake2_256(name)),
            Place(
                BlockNumber(number),
                at,
                known=True,
                success=True,
                signed=True,
                fee=3,
                tip=0,
                error=b"",
            ),
        )
        for at, name in enumerate(names)
    )
    accounts = {(b"a" * 32, at): SIGNER | NAMED for at in range(len(names))}
    accounts[b"b" * 32, OUTSIDE] = NAMED
    return Entry(
        BlockNumber(number), Hash(blake2_256(b"%d" % number)), places, accounts, has_events=True
    )


def test_an_index_tells_what_was_written_and_forgets_another_chains(tmp_path: Path) -> None:
    index = Index(tmp_path / "index")
    genesis = Hash(b"g" * 32)
    assert index.mark() is None
    index.begin(genesis, BlockNumber(1))
    index.write([entry(1, b"x", b"y"), entry(2, b"z")])
    mark = index.mark()
    assert mark is not None
    assert (mark.first, mark.number, mark.eventless) == (1, 2, 0)
    found = index.place(Hash(blake2_256(b"y")))
    assert found is not None
    assert (found.number, found.index, found.fee) == (1, 1, 3)
    parts = index.parts(b"a" * 32, b"", 10)
    assert [(each.number, each.index) for each in parts] == [(2, 0), (1, 1), (1, 0)]
    rest = index.parts(b"a" * 32, parts[0].cursor, 10)
    assert rest == parts[1:]
    (outside, _) = index.parts(b"b" * 32, b"", 10)
    assert (outside.number, outside.index, outside.signer) == (2, None, False)
    assert index.is_of(genesis)
    other = Hash(b"h" * 32)
    assert not index.is_of(other)
    index.begin(other, BlockNumber(1))
    assert index.mark() is None
    assert index.parts(b"a" * 32, b"", 10) == []
    index.close()


def test_an_index_made_anew_is_the_same(node: chain.RunningNode, tmp_path: Path) -> None:
    store = Store(store_of(node.folder), reader=True)
    old = Index(node.folder / INDEX_FOLDER, reader=True)
    new = Indexer(store, Index(tmp_path / "again"), runtimes_of(node.folder))
    while new.step():
        pass
    assert new.step() == 0, "what is indexed is not indexed again"
    for account in (ALICE.public, BOB.public):
        parts = old.parts(account, b"", 1_000)
        assert parts
        assert new.index.parts(account, b"", 1_000)[-len(parts) :] == parts
    new.index.close()
    old.close()
    store.close()


def test_events_are_read_as_an_independent_reader_of_metadata_reads_them(
    node: chain.RunningNode,
) -> None:
    data = Runtime().metadata(14)
    words, other = Words(data), Metadata.decode(data)
    store = Store(store_of(node.folder), reader=True)
    reading = Reading(store)
    seen = 0
    for number in range(max(1, reading.oldest), store.finalized + 1):
        events = reading.value(EVENTS_KEY, BlockNumber(number)) or b"\0"
        mine = [(each.extrinsic, words.event(events, each)) for each in words.events(events)]
        theirs = other.decode_events(events)
        assert [(at, each["pallet"], each["name"]) for at, each in mine] == [
            (each.extrinsic, each.pallet, each.name) for each in theirs
        ]
        seen += len(mine)
        for cut in range(1, len(events)):
            with pytest.raises(Malformed):
                list(words.events(events[:cut]))
    assert seen > TRANSFERS
    store.close()


def test_a_late_index_has_what_was_pruned_without_outcomes_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phala.node.chain.WINDOW_BLOCKS", 4)
    node, solo, _ = open_node(tmp_path, chain.prepare(tmp_path), archive=False)

    async def write() -> None:
        for _ in range(20):
            await solo.write()

    asyncio.run(write())
    store = node.chain.store
    assert store.oldest > 1
    indexer = Indexer(store, Index(tmp_path / INDEX_FOLDER), node.runtimes)
    while indexer.step():
        pass
    mark = indexer.index.mark()
    assert mark is not None
    assert (mark.first, mark.number) == (1, store.finalized)
    assert mark.eventless == store.oldest - 1, "from there on all is known"
    for number in range(1, store.finalized + 1):
        (time,) = store.body(BlockNumber(number))
        place = indexer.index.place(Hash(blake2_256(time)))
        assert place is not None
        assert (place.number, place.index) == (number, 0)
        assert place.known == place.success == (number >= store.oldest)
    indexer.index.close()
    store.close()
