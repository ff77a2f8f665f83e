"""Transfers by RPC, from submission to a committed block, against `anvil --block-time 1`.

Each side gets signed transfers of distinct accounts, prepared before the clock starts, over
keep-alive HTTP. Only what stands in committed blocks counts, until the last of them was seen there.
Afterwards every balance is computed again, from genesis and the blocks' extrinsics alone.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from pathlib import Path

from benches.ethereum import Sender
from benches.peers import anvil, rpc, send
from benches.report import Figure
from phala.codec import encode_compact
from phala.crypto.signatures import Keypair, sr25519_from_seed, sr25519_sign
from phala.node.keys import create_grandpa_key
from phala.node.spec import write_spec
from phala.primitives.keys import storage_prefix
from phala.primitives.types import AccountId, Balance, Hash
from phala.runtime import GenesisConfig
from phala.tee.simulated_key import create_simulated_key

SENDERS = 2_000
EACH = 10
EACH_QUICK = 5
CONNECTIONS = 64
WAIT_S_MAX = 60
PHA = 10**12
START = Balance(1_000 * PHA)
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
    theirs = ethereum(each)
    ours = substrate(each)
    yield Figure(
        name="transfers by RPC, included in blocks",
        unit="1/s",
        ours=ours,
        baseline="anvil --block-time 1",
        baseline_value=theirs,
        better="higher",
    )


def request(method: str, parameter: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": [parameter]}).encode()


def measured(url: str, bodies: list[bytes], included: Callable[[], int]) -> float:
    """Included transfers per second, from the first request to when the last was seen included."""
    began = time.monotonic()
    load = send(url, bodies, connections=CONNECTIONS, kind="application/json")
    if load.failed:
        raise RuntimeError(f"{load.failed} were refused: {load.first_failure}")
    until = time.monotonic() + WAIT_S_MAX
    while included() < len(bodies):
        if time.monotonic() > until:
            raise RuntimeError(f"{included()} of {len(bodies)} were included in time")
        time.sleep(0.01)
    return len(bodies) / (time.monotonic() - began)


# ---- ours


def substrate(each: int) -> float:
    pairs = [sr25519_from_seed(sha256(b"sender%d" % n).digest()) for n in range(SENDERS)]
    with tempfile.TemporaryDirectory() as folder, node(Path(folder), pairs) as url:
        transfers = signed(pairs, each, bytes.fromhex(rpc(url, "chain_getBlockHash", 0)[2:]))
        bodies = [request("author_submitExtrinsic", "0x" + one.data.hex()) for one in transfers]
        seen = Seen(url)
        rate = measured(url, bodies, seen.count)
        recompute(url, transfers, seen.extrinsics)
    return rate


def signed(pairs: list[Keypair], each: int, genesis: bytes) -> list[Signed]:
    """Each account's transfers to its neighbour, all accounts' first ones first."""
    checked = SPEC_VERSION.to_bytes(4, "little") + TRANSACTION_VERSION.to_bytes(4, "little")
    out = []
    for nonce in range(each):
        extra = b"\0" + encode_compact(nonce) + encode_compact(0)
        for number, pair in enumerate(pairs):
            to = pairs[(number + 1) % len(pairs)].public
            call = bytes([5, 3, 0]) + to + encode_compact(AMOUNT)
            signature = sr25519_sign(pair, call + extra + checked + genesis + genesis)
            body = bytes([0x84, 0]) + pair.public + b"\1" + signature + extra + call
            out.append(Signed(encode_compact(len(body)) + body, pair.public, to))
    return out


@contextmanager
def node(folder: Path, pairs: list[Keypair]) -> Iterator[str]:
    """A node of a new chain on which these accounts have funds; its URL."""
    config = GenesisConfig.dev(
        authority=create_grandpa_key(folder / "grandpa.key").public,
        simulated_root=create_simulated_key(folder / "simulated.key").public_root,
        measurement=bytes(48),
        runtime_id=Hash(bytes(32)),
    )
    funded = tuple((AccountId(pair.public), START) for pair in pairs)
    write_spec(folder / "spec.json", replace(config, balances=funded))
    command: list[str | Path] = [sys.executable, "-m", "phala.node", "--dir", folder]
    command += ["--port", "0", "--spec", folder / "spec.json"]
    with (folder / "node.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        with process.stdout as out:
            ready = json.loads(out.readline())
        yield f"http://127.0.0.1:{ready['port']}/"
    finally:
        process.terminate()
        process.wait(10)


class Seen:
    """The signed extrinsics of a node's blocks, each with its block's parent, read as they come."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.extrinsics: list[tuple[bytes, str]] = []
        self._next = 1

    def count(self) -> int:
        head = int(rpc(self.url, "chain_getHeader")["number"], 16)
        while self._next <= head:
            block = rpc(self.url, "chain_getBlock", rpc(self.url, "chain_getBlockHash", self._next))
            found = (bytes.fromhex(each[2:]) for each in block["block"]["extrinsics"])
            parent = block["block"]["header"]["parentHash"]
            self.extrinsics += ((each, parent) for each in found if b"\x84" in each[1:5])
            self._next += 1
        return len(self.extrinsics)


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
    front = storage_prefix("System", "Account")
    for who, balance in balances.items():
        key = front + blake2b(who, digest_size=16).digest() + who
        info = bytes.fromhex(rpc(url, "state_getStorage", "0x" + key.hex())[2:])
        nonce, free = int.from_bytes(info[:4], "little"), int.from_bytes(info[16:32], "little")
        if (nonce, free) != (nonces[who], balance):
            raise RuntimeError(f"0x{who.hex()}: {nonce}, {free}; not {nonces[who]}, {balance}")


# ---- anvil


def ethereum(each: int) -> float:
    senders = [Sender(number) for number in range(SENDERS)]
    bodies = [
        request("eth_sendRawTransaction", "0x" + sender.transfer(recipient.address, 1).hex())
        for _ in range(each)
        for sender, recipient in zip(senders, senders[1:] + senders[:1], strict=True)
    ]
    with anvil() as url:
        for sender in senders:
            rpc(url, "anvil_setBalance", "0x" + sender.address.hex(), hex(ETHER))
        blocks = AnvilBlocks(url)
        return measured(url, bodies, blocks.count)


class AnvilBlocks:
    """How many transactions a chain's blocks hold."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._next = int(rpc(url, "eth_blockNumber"), 16) + 1
        self._count = 0

    def count(self) -> int:
        head = int(rpc(self.url, "eth_blockNumber"), 16)
        while self._next <= head:
            count = rpc(self.url, "eth_getBlockTransactionCountByNumber", hex(self._next))
            self._count += int(count, 16)
            self._next += 1
        return self._count
