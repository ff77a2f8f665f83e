"""A node of a chain with many accounts, and what its processes cost."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from pathlib import Path

from phala.crypto.signatures import Keypair
from phala.node.keys import create_grandpa_key
from phala.node.spec import ChainSpec
from phala.node.store import Store
from phala.primitives.keys import storage_prefix
from phala.primitives.types import AccountId, Balance, Hash
from phala.runtime import GenesisConfig, Runtime
from phala.tee.simulated_key import create_simulated_key

PHA = 10**12
START = Balance(1_000 * PHA)
ACCOUNTS = storage_prefix("System", "Account")
ISSUANCE = storage_prefix("Balances", "TotalIssuance")
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
READY_S_MAX = 120


def account_key(who: bytes) -> bytes:
    return ACCOUNTS + blake2b(who, digest_size=16).digest() + who


def create_chain(folder: Path, pairs: Sequence[Keypair], accounts: int) -> Path:
    """The folder of a node whose chain has so many accounts, with funds for these pairs; its spec.

    The state is written straight into the store: a spec that lists a million accounts is read for
    minutes. The spec names the genesis by its hash, so the node takes the store as it is.
    """
    config = GenesisConfig.dev(
        authority=create_grandpa_key(folder / "grandpa.key").public,
        simulated_root=create_simulated_key(folder / "simulated.key").public_root,
        measurement=bytes(48),
        runtime_id=Hash(bytes(32)),
    )
    funded = tuple((AccountId(pair.public), START) for pair in pairs)
    runtime = Runtime()
    state = dict(runtime.genesis(replace(config, balances=funded)))
    info = state[account_key(pairs[0].public)]
    more = max(0, accounts - len(pairs))
    for number in range(more):
        state[account_key(sha256(b"account%d" % number).digest())] = info
    issuance = int.from_bytes(state[ISSUANCE], "little") + more * int(START)
    state[ISSUANCE] = issuance.to_bytes(16, "little")
    document = json.loads(config.to_json())
    whole = ChainSpec("bench", "bench", "Development", {}, None, dict(sorted(state.items())), None)
    genesis = whole.genesis(runtime)
    store = Store(folder / "db")
    try:
        store.create(
            genesis.header,
            genesis.state.items(),
            authorities_proof=genesis.authorities_proof,
            spec_digest=whole.digest,
        )
    finally:
        store.close()
    spec = folder / "spec.json"
    spec.write_text(json.dumps({**document, "genesisHash": "0x" + genesis.hash.hex()}))
    return spec


@dataclass(frozen=True)
class RunningNode:
    """A node that serves, and its processes: the front first."""

    url: str
    pids: dict[str, int]
    start_s: float

    def cpu_s(self) -> dict[str, float]:
        """What each process has used."""
        out = {}
        for name, pid in self.pids.items():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            out[name] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return out

    def memory_mb(self) -> tuple[float, float]:
        """Of all processes together, what they share counted once: their own, and pages of files.

        The latter are the store's above all: the system's cache, dropped when it needs room.
        """
        kb = {"Pss_Anon": 0, "Pss_File": 0}
        for pid in self.pids.values():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                name, _, rest = line.partition(":")
                if name in kb:
                    kb[name] += int(rest.split()[0])
        return kb["Pss_Anon"] / 1000, kb["Pss_File"] / 1000


@contextmanager
def running_node(folder: Path, spec: Path) -> Iterator[RunningNode]:
    command: list[str | Path] = [sys.executable, "-m", "phala.node", "--dir", folder]
    command += ["--port", "0", "--spec", spec]
    began = time.monotonic()
    with (folder / "node.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
    assert process.stdout is not None
    try:
        with process.stdout as out:
            line = out.readline()
        if not line:
            raise RuntimeError((folder / "node.log").read_text()[-2000:])
        start_s = time.monotonic() - began
        pid = process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        names = ("verifier", "indexer", "builder")[-len(children) :]
        pids = {"front": pid} | dict(zip(names, map(int, children), strict=True))
        yield RunningNode(f"http://127.0.0.1:{json.loads(line)['port']}/", pids, start_s)
    finally:
        process.terminate()
        process.wait(30)
