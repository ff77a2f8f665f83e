"""Transfers by RPC, from submission to a committed block, against `anvil --block-time 1` and
`geth --dev`; what a transfer costs, how long a call takes, and how a node with many accounts does.

Each side gets signed transfers of distinct accounts, prepared before the clock starts, over
keep-alive HTTP. Only what stands in committed blocks counts, until the last of them was seen there.
Afterwards every balance is computed again, from genesis and the blocks' extrinsics alone, and the
root of the whole state from its items alone.
"""

import gc
import json
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from benches.chain import (
    PHA,
    START,
    account_key,
    create_chain,
    running_node,
)
from benches.ethereum import Sender
from benches.peers import GETH_CHAIN_ID, anvil, geth, rpc, send
from benches.report import Figure
from phala.codec import encode_compact
from phala.crypto.signatures import Keypair, sr25519_from_seed, sr25519_sign
from phala.node.chain import Chain, View
from phala.node.engines.opening import runtimes_of
from phala.node.store import Store
from phala.node.verifiers import Verifiers
from phala.node.writer import Writer
from phala.primitives.types import Hash, Moment
from phala.runtime import Changes, Runtime
from phala.trie import Layout, State, Trie

ACCOUNTS = 1_000_000
ACCOUNTS_QUICK = 20_000
SENDERS = 2_000
EACH = 10
EACH_QUICK = 5
CONNECTIONS = 64
WAIT_S_MAX = 60
OFFERED = 3_000  # calls per second, at which their latency is measured
OFFERED_S = 5
IMPORTED = 1_000  # transfers in the block that is imported
AMOUNT = PHA // 50
TREASURY = b"modlpy/trsry".ljust(32, b"\0")
TREASURY_START = PHA // 100
BURN_PERCENT = 20  # of fees; the rest is the treasury's
SPEC_VERSION = TRANSACTION_VERSION = 1
ETHER = 10**18


@dataclass(frozen=True)
class Signed:
    """One transfer of ours, and what it does."""

    data: bytes
    sender: bytes
    recipient: bytes


def run(*, quick: bool = False) -> Iterator[Figure]:
    each = EACH_QUICK if quick else EACH
    baselines = {"anvil --block-time 1": ethereum(each)}
    dev = geth_dev(each)
    if dev is not None:
        baselines["geth --dev"] = dev
    ours = substrate(each, ACCOUNTS_QUICK if quick else ACCOUNTS)
    for name, value in baselines.items():
        yield Figure(
            name=f"transfers by RPC, included in blocks; {ours.accounts:,} accounts",
            unit="1/s",
            ours=ours.per_second,
            baseline=name,
            baseline_value=value,
            better="higher",
            more={f"cpu_us_{part}": us for part, us in ours.cpu_us.items()},
        )
    for name, unit, found, aim in (
        (f"call to hash at {ours.offered:,.0f}/s offered, p50", "ms", ours.p50_ms, 1.0),
        (f"call to hash at {ours.offered:,.0f}/s offered, p99", "ms", ours.p99_ms, 10.0),
        (f"import of a block of {IMPORTED:,} transfers", "s", ours.import_s, 0.1),
        (
            f"memory of all of a node's processes, beside {ours.cached_mb:,.0f} MB of files' pages",
            "MB",
            ours.memory_mb,
            500.0,
        ),
        ("cold start", "s", ours.start_s, 5.0),
    ):
        yield Figure(
            name=f"{name}; {ours.accounts:,} accounts", unit=unit, ours=found,
            baseline="aim", baseline_value=aim,
        )  # fmt: skip


def request(method: str, parameter: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": [parameter]}).encode()


class Blocks(ABC):
    """A chain's blocks, looked at one after the other; `seen_s` is when the last one looked at was
    first seen to be there, which takes less than to read what it holds."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.seen_s = 0.0
        self._total = 0
        self._next = self.head() + 1
        self._heads: list[tuple[int, float]] = []

    @abstractmethod
    def head(self) -> int:
        """The number of the last block."""

    @abstractmethod
    def take(self, number: int) -> int:
        """Read a block; how many transactions it holds."""

    def count(self) -> int:
        """Transactions of the blocks so far, one block more than last time at the most."""
        head, now = self.head(), time.monotonic()
        if not self._heads or head > self._heads[-1][0]:
            self._heads.append((head, now))
        if self._next <= head:
            self.seen_s = next(when for number, when in self._heads if number >= self._next)
            self._total += self.take(self._next)
            self._next += 1
        return self._total


def measured(url: str, bodies: list[bytes], blocks: Blocks) -> float:
    """Included transfers per second, from the first request to when the last was seen included."""
    began = time.monotonic()
    load = send(url, bodies, connections=CONNECTIONS, kind="application/json")
    if load.failed:
        raise RuntimeError(f"{load.failed} were refused: {load.first_failure}")
    wait_for(blocks.count, len(bodies))
    return len(bodies) / (blocks.seen_s - began)


def wait_for(included: Callable[[], int], count: int) -> None:
    until = time.monotonic() + WAIT_S_MAX
    while included() < count:
        if time.monotonic() > until:
            raise RuntimeError(f"{included()} of {count} were included in time")
        time.sleep(0.01)


# ---- ours


@dataclass(frozen=True)
class Ours:
    """What was measured of a node."""

    accounts: int
    per_second: float
    cpu_us: dict[str, float]  # a transfer, by process
    offered: float
    p50_ms: float
    p99_ms: float
    import_s: float
    memory_mb: float
    cached_mb: float  # pages of files, the store's above all, that the system drops at need
    start_s: float


def substrate(each: int, accounts: int) -> Ours:
    pairs = [sr25519_from_seed(sha256(b"sender%d" % n).digest()) for n in range(SENDERS)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spec = create_chain(folder, pairs, accounts)
        with running_node(folder, spec) as node:
            url = node.url
            later = -(-OFFERED * OFFERED_S // SENDERS)
            genesis = bytes.fromhex(rpc(url, "chain_getBlockHash", 0)[2:])
            transfers = signed(pairs, each + later, genesis)
            first, rest = transfers[: each * SENDERS], transfers[each * SENDERS :]
            seen = Seen(url)
            before = node.cpu_s()
            rate = measured(url, bodies_of(first), seen)
            used = {part: now - before[part] for part, now in node.cpu_s().items()}
            load = send(
                url, bodies_of(rest), connections=CONNECTIONS, kind="application/json",
                per_second=OFFERED,
            )  # fmt: skip
            if load.failed:
                raise RuntimeError(f"{load.failed} were refused: {load.first_failure}")
            wait_for(seen.count, len(transfers))
            recompute(url, transfers, seen.extrinsics)
            memory_mb, cached_mb = node.memory_mb()
        with running_node(folder, spec) as again:
            start_s = again.start_s
        check_root(folder)
        import_s = import_of(folder, pairs, each + later)
    cpu_us = {part: seconds / len(first) * 1e6 for part, seconds in used.items()}
    return Ours(
        accounts, rate, cpu_us, load.per_second, load.p50_ms, load.p99_ms, import_s, memory_mb,
        cached_mb, start_s,
    )  # fmt: skip


def bodies_of(transfers: list["Signed"]) -> list[bytes]:
    return [request("author_submitExtrinsic", "0x" + one.data.hex()) for one in transfers]


def check_root(folder: Path) -> None:
    """The head's state has the root that the header says, by a trie built anew of all items."""
    store = Store(folder / "db")
    try:
        view = View(store)
        state = view.state_at(view.head.number)
        items = [(key, state.get(key) or b"") for key in state.keys(b"")]
        if not all(one < other for (one, _), (other, _) in pairwise(items)):
            raise RuntimeError("the keys of the state are not in order")
        found = Trie.build(items, Layout.V1).root
        if found != view.head.state_root:
            raise RuntimeError(f"the state's root is 0x{found.hex()}")
    finally:
        store.close()


def import_of(folder: Path, pairs: list[Keypair], nonce: int) -> float:
    """Seconds to import a block, its signatures verified in two processes."""
    verifiers = Verifiers.start(1)
    store = Store(folder / "db")
    try:
        chain = Chain(store)
        gc.freeze()  # as the node has it: the collector need not walk the trie
        runtime = Runtime()
        parent = chain.state_at(chain.head.number)  # whose reads nobody keeps for the import
        builder = runtime.open_block(State(parent), chain.head)
        for inherent in builder.inherents(Moment(time.time_ns() // 1_000_000)):
            builder.apply(inherent)
        for one in signed(pairs[:IMPORTED], 1, chain.genesis, first=nonce):
            builder.apply(one.data)

        def root_of(changes: Changes) -> Hash:
            trie = chain.trie_at(chain.head.number)
            return trie.update(changes, parent).root

        made = builder.seal(root_of)
        writer = Writer(chain, runtimes_of(folder), check_signatures=verifiers.check)
        began = time.perf_counter()
        writer.import_block(made.header, made.body)
        return time.perf_counter() - began
    finally:
        gc.unfreeze()
        verifiers.close()
        store.close()


def signed(pairs: list[Keypair], each: int, genesis: bytes, *, first: int = 0) -> list[Signed]:
    """Each account's transfers to its neighbour, all accounts' first ones first."""
    checked = SPEC_VERSION.to_bytes(4, "little") + TRANSACTION_VERSION.to_bytes(4, "little")
    out = []
    for nonce in range(first, first + each):
        extra = b"\0" + encode_compact(nonce) + encode_compact(0)
        for number, pair in enumerate(pairs):
            to = pairs[(number + 1) % len(pairs)].public
            call = bytes([5, 3, 0]) + to + encode_compact(AMOUNT)
            signature = sr25519_sign(pair, call + extra + checked + genesis + genesis)
            body = bytes([0x84, 0]) + pair.public + b"\1" + signature + extra + call
            out.append(Signed(encode_compact(len(body)) + body, pair.public, to))
    return out


class Seen(Blocks):
    """The signed extrinsics of a node's blocks, each with its block's parent."""

    def __init__(self, url: str) -> None:
        self.extrinsics: list[tuple[bytes, str]] = []
        super().__init__(url)

    def head(self) -> int:
        return int(rpc(self.url, "chain_getHeader")["number"], 16)

    def take(self, number: int) -> int:
        block = rpc(self.url, "chain_getBlock", rpc(self.url, "chain_getBlockHash", number))
        found = (bytes.fromhex(each[2:]) for each in block["block"]["extrinsics"])
        parent = block["block"]["header"]["parentHash"]
        ours = [(each, parent) for each in found if b"\x84" in each[1:5]]
        self.extrinsics += ours
        return len(ours)


def recompute(url: str, transfers: list[Signed], included: list[tuple[bytes, str]]) -> None:
    """Every account's nonce and balance are what genesis and the blocks' extrinsics come to."""
    known = {each.data: each for each in transfers}
    if len(known) != len(transfers) or sorted(known) != sorted(data for data, _ in included):
        raise RuntimeError("the blocks do not hold each transfer exactly once")
    start = int(START)
    balances = {each.sender: start for each in transfers} | {TREASURY: TREASURY_START}
    nonces = dict.fromkeys(balances, 0)
    fees: dict[tuple[int, str], int] = {}
    for data, parent in included:
        transfer = known[data]
        priced = len(data), parent
        if priced not in fees:
            answer = rpc(url, "payment_queryInfo", "0x" + data.hex(), parent)
            fees[priced] = int(answer["partialFee"])
        fee = fees[priced]
        balances[transfer.sender] -= AMOUNT + fee
        balances[transfer.recipient] += AMOUNT
        balances[TREASURY] += fee - fee * BURN_PERCENT // 100
        nonces[transfer.sender] += 1
    for who, balance in balances.items():
        key = "0x" + account_key(who).hex()
        info = bytes.fromhex(rpc(url, "state_getStorage", key)[2:])
        nonce, free = int.from_bytes(info[:4], "little"), int.from_bytes(info[16:32], "little")
        if (nonce, free) != (nonces[who], balance):
            raise RuntimeError(f"0x{who.hex()}: {nonce}, {free}; not {nonces[who]}, {balance}")


# ---- Ethereum's


def ethereum(each: int) -> float:
    senders = [Sender(number) for number in range(SENDERS)]
    bodies = raw_transfers(senders, each)
    with anvil() as url:
        for sender in senders:
            rpc(url, "anvil_setBalance", "0x" + sender.address.hex(), hex(ETHER))
        blocks = EthereumBlocks(url)
        return measured(url, bodies, blocks)


def geth_dev(each: int) -> float | None:
    """None, with the reason on stderr, where geth cannot be had."""
    senders = [Sender(number, GETH_CHAIN_ID) for number in range(SENDERS)]
    bodies = raw_transfers(senders, each)
    try:
        with geth() as url:
            (rich,) = rpc(url, "eth_accounts")
            blocks = EthereumBlocks(url)
            for sender in senders:
                to = "0x" + sender.address.hex()
                rpc(url, "eth_sendTransaction", {"from": rich, "to": to, "value": hex(ETHER)})
            wait_for(blocks.count, SENDERS)
            blocks = EthereumBlocks(url)
            return measured(url, bodies, blocks)
    except (OSError, LookupError) as error:
        print(f"without geth: {error}", file=sys.stderr)
        return None


def raw_transfers(senders: list[Sender], each: int) -> list[bytes]:
    return [
        request("eth_sendRawTransaction", "0x" + sender.transfer(recipient.address, 1).hex())
        for _ in range(each)
        for sender, recipient in zip(senders, senders[1:] + senders[:1], strict=True)
    ]


class EthereumBlocks(Blocks):
    """How many transactions a chain's blocks hold."""

    def head(self) -> int:
        return int(rpc(self.url, "eth_blockNumber"), 16)

    def take(self, number: int) -> int:
        return int(rpc(self.url, "eth_getBlockTransactionCountByNumber", hex(number)), 16)
