"""What a block of transfers costs without its signatures: decoded, executed, sealed with its state
root, over a state of many accounts. The compiled build against the same source in pure Python.

    python -m benches.execution ACCOUNTS TRANSFERS ROUNDS      one side, as a line of JSON
"""

import gc
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from phala.node.compiled import PURE, use_compiled

COMPILED = use_compiled()  # before anything of it is imported

from benches.report import Figure  # noqa: E402
from phala.codec import encode_compact  # noqa: E402
from phala.crypto.hashes import blake2_128  # noqa: E402
from phala.frame import ACCOUNT_INFO, NO_ACCOUNT  # noqa: E402
from phala.primitives.keys import storage_prefix  # noqa: E402
from phala.primitives.types import PHA, AccountId, Balance, Hash, Moment  # noqa: E402
from phala.runtime import GenesisConfig, Runtime  # noqa: E402
from phala.runtime.validity import decode  # noqa: E402
from phala.tee.simulated_key import SimulatedKey  # noqa: E402
from phala.trie import Layout, State, Trie  # noqa: E402

ACCOUNTS, TRANSFERS, ROUNDS = 1_000_000, 1_000, 10
QUICK = 50_000, 500, 3
TURNS = 2
AMOUNT = PHA // 50
GC_THRESHOLDS = (50_000, 20, 50)  # the node's
NAMES = {
    "decode": "decoding a transfer",
    "apply": "executing a transfer, without its signature",
    "root": "state root of a block of transfers, a transfer",
    "seal": "the rest of sealing a block, a transfer",
    "all": "a transfer: decoded, executed, sealed, with its root",
    "build": "the trie of the whole state, an account",
}


def run(*, quick: bool = False) -> Iterator[Figure]:
    size = QUICK if quick else (ACCOUNTS, TRANSFERS, ROUNDS)
    ours, pure = side(size, {}), side(size, {PURE: "1"})
    for _ in range(TURNS - 1):  # a busy moment meets both
        ours, pure = better(ours, side(size, {})), better(pure, side(size, {PURE: "1"}))
    if not ours["compiled"]:
        raise RuntimeError("there is no compiled build of these sources: run make setup")
    if ours["hash"] != pure["hash"]:
        raise RuntimeError("compiled and pure make different blocks")
    for key, name in NAMES.items():
        yield Figure(
            f"{name}, compiled", "us", ours[key], "the same source in pure Python", pure[key],
            more={"accounts": size[0], "transfers_in_block": size[1],
                  "peak_mb": ours["peak_mb"], "peak_mb_pure": pure["peak_mb"]},
        )  # fmt: skip


def better(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return {**one, **{name: min(one[name], other[name]) for name in NAMES}}


def side(size: tuple[int, int, int], environment: Mapping[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benches.execution", *map(str, size)],
        check=True,
        capture_output=True,
        text=True,
        env={**{k: v for k, v in os.environ.items() if k != PURE}, **environment},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class Flat(dict[bytes, bytes]):
    """The state, in memory."""

    def keys(self, prefix: bytes = b"") -> Iterator[bytes]:  # type: ignore[override]
        return (key for key in sorted(super().keys()) if key.startswith(prefix))


def account(number: int) -> AccountId:
    return AccountId(blake2b(number.to_bytes(8, "little"), digest_size=32).digest())


def transfer(sender: AccountId, recipient: AccountId) -> bytes:
    call = bytes([5, 3, 0]) + recipient + encode_compact(AMOUNT)
    body = bytes([0x84, 0]) + sender + b"\1" + bytes(64) + b"\0\0\0" + call
    return encode_compact(len(body)) + body


def measure(accounts: int, transfers: int, rounds: int) -> dict[str, Any]:
    """Microseconds of CPU, the least of some rounds: other work on the machine only adds."""
    runtime = Runtime()
    config = GenesisConfig.dev(
        authority=bytes(32),
        simulated_root=SimulatedKey(b"\1" * 32, b"\2" * 32).public_root,
        measurement=bytes(48),
        runtime_id=Hash(bytes(32)),
    )
    rich = replace(NO_ACCOUNT, providers=1, data=replace(NO_ACCOUNT.data, free=Balance(9 * PHA)))
    value, front = ACCOUNT_INFO.encode(rich), storage_prefix("System", "Account")
    state = Flat(runtime.genesis(config))
    for number in range(accounts):
        who = account(number)
        state[front + blake2_128(who) + who] = value
    items = iter(sorted(state.items()))
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    build_us, trie = timed(lambda: Trie.build(items, Layout.V1))
    header = runtime.genesis_header(trie.root)
    apart = max(1, accounts // transfers // 2)
    body = [
        transfer(account(at * apart), account((at * apart + accounts // 2 + 7) % accounts))
        for at in range(transfers)
    ]
    best: dict[str, float] = {}
    sealed_hash = b""
    for _ in range(rounds):
        gc.collect()
        took: dict[str, float] = {}
        took["decode"], decoded = timed(lambda: [decode(each) for each in body])
        builder = runtime.open_block(State(state), header)
        for inherent in builder.inherents(Moment(1_700_000_000_000)):
            builder.apply(inherent)

        def execute() -> None:
            for each, known in zip(body, decoded, strict=True):  # noqa: B023
                builder.apply(each, check_signature=False, decoded=known)  # noqa: B023

        def root(changes: Any) -> Hash:
            took["root"], after = timed(lambda: trie.update(changes, state))  # noqa: B023
            found: Hash = after.root
            return found

        took["apply"], _ = timed(execute)
        whole, sealed = timed(lambda: builder.seal(root))  # noqa: B023
        took["seal"] = whole - took["root"]
        took["all"] = sum(took.values())
        sealed_hash = sealed.hash
        for name, us in took.items():
            best[name] = min(best.get(name, us), us / transfers)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return {
        **best,
        "build": build_us / accounts,
        "hash": sealed_hash.hex(),
        "compiled": COMPILED,
        "peak_mb": peak_mb,
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time_ns()
    result = work()
    return (time.process_time_ns() - began) / 1000, result


if __name__ == "__main__":
    print(json.dumps(measure(*map(int, sys.argv[1:]))))
