"""A node that is killed at random instants, under a load of transfers."""

import json
import os
import random
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from tests.clients import chain

from phala.codec import U128, Compact, encode_compact
from phala.crypto.hashes import blake2_128
from phala.finality import AuthoritySet, SetId, decode_justification, verify_own
from phala.node.spec import Genesis, load_spec, make_genesis
from phala.node.store import Store
from phala.node.tools.check import check
from phala.node.tools.check_index import check_index
from phala.primitives.extrinsic import decode_extrinsic
from phala.primitives.header import HEADER, Header
from phala.primitives.keys import storage_prefix
from phala.primitives.types import PHA, Hash
from phala.runtime import DEV_BALANCE, Changes, Runtime
from phala.sdk.extrinsic import Terms, sign_extrinsic
from phala.sdk.keyring import dev_pair
from phala.sdk.rpc import bytes_of
from phala.trie import DictBase, Layout, State, Trie

KILLS = int(os.environ.get("PHALA_NODE_KILLS", "25"))
SEED = int(os.environ.get("PHALA_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
# With a short window, so that blocks are folded into the flat table while it is killed.
PROGRAM = """
import phala.node.chain as chain
chain.WINDOW_BLOCKS = 4
from phala.node.main import main
main()
"""
CHECK_EVERY = 5
PRIORITY_TOO_LOW = 1014
OUTDATED = (1010, "Transaction is outdated")
NAMES = ("Alice", "Bob", "Charlie", "Dave", "Eve", "Ferdie")
PAIRS = [dev_pair(name) for name in NAMES]
TRANSFER_KEEP_ALIVE = b"\5\3"
COMPACT = Compact(U128)
EXTENSIONS = (
    "CheckNonZeroSender", "CheckSpecVersion", "CheckTxVersion", "CheckGenesis", "CheckMortality",
    "CheckNonce", "CheckWeight", "ChargeTransactionPayment",
)  # fmt: skip


def ask(url: str, method: str, *params: Any) -> Any:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        found = json.loads(answer.read())
    if "error" in found:
        raise LookupError(found["error"])
    return found["result"]


class Witness:
    """Someone who remembers what the node said, over its deaths."""

    def __init__(self) -> None:
        self.blocks: dict[int, str] = {}  # any that was shown
        self.final: dict[int, str] = {}
        self.sent = 0

    def look(self, url: str) -> None:
        head = ask(url, "chain_getHead")
        number = int(ask(url, "chain_getHeader", head)["number"], 16)
        assert self.blocks.setdefault(number, head) == head
        final = ask(url, "chain_getFinalizedHead")
        at = int(ask(url, "chain_getHeader", final)["number"], 16)
        assert at >= max(self.final, default=0), "finality went back"
        assert self.final.setdefault(at, final) == final
        assert self.blocks.setdefault(at, final) == final

    def ensure_kept(self, url: str) -> None:
        """The node still has every block that it ever showed."""
        numbers = list(self.blocks)
        found = ask(url, "chain_getBlockHash", numbers) if numbers else []
        assert dict(zip(numbers, found, strict=True)) == self.blocks

    def send(self, url: str, terms: dict[str, Any], nonces: list[int], who: int) -> None:
        dest = PAIRS[(who + 1) % len(PAIRS)].public
        call = TRANSFER_KEEP_ALIVE + b"\0" + dest + encode_compact(PHA + self.sent)
        signed = sign_extrinsic(
            call, PAIRS[who], EXTENSIONS, Terms(nonce=nonces[who], tip=0, mortality=None, **terms)
        )
        try:
            ask(url, "author_submitExtrinsic", "0x" + signed.hex())
            self.sent += 1
        except LookupError as refusal:
            # One of an earlier life waits again under this nonce, or is in a block meanwhile.
            found = refusal.args[0]["code"], refusal.args[0].get("data")
            if found[0] != PRIORITY_TOO_LOW and found != OUTDATED:
                raise
        nonces[who] += 1


def live(url: str, witness: Witness, terms: dict[str, Any], seconds: float) -> None:
    """Send and look for a while."""
    nonces = [ask(url, "system_accountNextIndex", pair.address) for pair in PAIRS]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for who in range(len(PAIRS)):
            witness.send(url, terms, nonces, who)
        witness.look(url)


@pytest.mark.timeout(240)
def test_kills_lose_nothing_that_was_shown_and_never_finalize_two_blocks_of_one_number(
    tmp_path: Path,
) -> None:
    spec = chain.prepare(tmp_path)
    genesis = make_genesis(load_spec(spec), Runtime())
    version = Runtime().version
    terms = {
        "genesis": genesis.hash,
        "spec_version": version.spec_version,
        "transaction_version": version.transaction_version,
    }
    witness = Witness()
    chance = random.Random(SEED)
    sys.stdout.write(f"PHALA_SEED={SEED}\n")
    for kill in range(KILLS):
        node = chain.start(tmp_path, spec, program=("-c", PROGRAM))
        try:
            witness.ensure_kept(node.http)
            live(node.http, witness, terms, chance.uniform(0.05, 0.6))
        finally:
            node.process.kill()
            node.process.wait(10)
        if kill % CHECK_EVERY == CHECK_EVERY - 1:
            check_disk(tmp_path, witness)
    node = chain.start(tmp_path, spec, program=("-c", PROGRAM))
    try:
        witness.ensure_kept(node.http)
        witness.look(node.http)
        check_history(node.http, genesis, witness)
    finally:
        node.process.terminate()
        node.process.wait(10)


def check_disk(folder: Path, witness: Witness) -> None:
    """What `phala node check` says of the folder as the kill left it."""
    store = Store(folder / "db", reader=True)
    try:
        report = check(store)
        assert report.finalized >= max(witness.final)
        check_index(store, folder)
    finally:
        store.close()


def check_history(url: str, genesis: Genesis, witness: Witness) -> None:
    """Execute every block again, elsewhere: each header says what its body comes to, and each
    justification is the authority's, over that header."""
    runtime = Runtime()
    items, parent = dict(genesis.state), genesis.header
    trie = Trie.build(list(items.items()), Layout.V1)
    authorities = AuthoritySet(SetId(0), genesis.authorities)
    head = int(ask(url, "chain_getHeader")["number"], 16)
    transfers = final = 0
    fees: dict[int, int] = {}  # by an extrinsic's length
    ledger = {pair.public: (0, int(DEV_BALANCE)) for pair in PAIRS}
    for number in range(1, head + 1):
        block_hash = ask(url, "chain_getBlockHash", number)
        found = ask(url, "chain_getBlock", block_hash)
        header = read_header(found["block"]["header"])
        body = [bytes_of(each) for each in found["block"]["extrinsics"]]
        assert header.hash() == bytes_of(block_hash)
        made: list[Trie] = []

        def root_of(changes: Changes, *, trie: Trie = trie, made: list[Trie] = made) -> Hash:
            made.append(trie.update(changes, DictBase(items)))
            return made[0].root

        sealed = runtime.execute(State(DictBase(items)), parent, header, body, root_of)
        for key, value in sealed.changes:
            if value is None:
                del items[key]
            else:
                items[key] = value
        (trie,) = made
        parent = header
        transfers += len(body) - 1
        count(url, body[1:], ledger, fees)
        if found["justifications"]:
            ((_, data),) = found["justifications"]
            verify_own(decode_justification(bytes(data)), header, authorities)
            final = number
    assert 0 < transfers <= witness.sent
    for who, (nonce, free) in ledger.items():
        # As of that head: what the node accepted before it was killed goes into later blocks.
        info = bytes_of(ask(url, "state_getStorage", "0x" + account_key(who).hex(), block_hash))
        assert int.from_bytes(info[:4], "little") == nonce
        assert int.from_bytes(info[16:32], "little") == free
    assert final >= max(witness.final)


def count(
    url: str, body: list[bytes], ledger: dict[bytes, tuple[int, int]], fees: dict[int, int]
) -> None:
    """Each transfer once: its signer's next nonce, its amount and fee, by its bytes alone."""
    for data in body:
        extrinsic = decode_extrinsic(data)
        by, call = extrinsic.signature, extrinsic.call
        assert by is not None
        assert call[:3] == TRANSFER_KEEP_ALIVE + b"\0"
        amount = COMPACT.decode(call[35:])
        if len(data) not in fees:
            answer = ask(url, "payment_queryInfo", "0x" + data.hex())
            fees[len(data)] = int(answer["partialFee"])
        fee = fees[len(data)]
        nonce, free = ledger[by.signer.data]
        assert by.nonce == nonce
        ledger[by.signer.data] = nonce + 1, free - amount - fee
        other = ledger[call[3:35]]
        ledger[call[3:35]] = other[0], other[1] + amount


def account_key(who: bytes) -> bytes:
    return storage_prefix("System", "Account") + blake2_128(who) + who


def read_header(document: Any) -> Header:
    number = encode_compact(int(document["number"], 16))
    logs = [bytes_of(each) for each in document["digest"]["logs"]]
    front = bytes_of(document["parentHash"]) + number
    roots = bytes_of(document["stateRoot"]) + bytes_of(document["extrinsicsRoot"])
    return HEADER.decode(front + roots + encode_compact(len(logs)) + b"".join(logs))
