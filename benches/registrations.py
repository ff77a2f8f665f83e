"""A thousand workers registering by RPC at once: blocks come as often as on an idle chain.

Evidence is simulated, for the node judges hardware by its vendors' own roots alone; what judging
each vendor's takes, `python -m benches attest` says. All registrations are made and signed before
the clock starts, and every one of them must stand in the state in the end.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

from benches.chain import running_node
from benches.peers import rpc, send
from benches.report import Figure
from phala.codec import U64
from phala.messages.registration import PLATFORM_SIMULATED
from phala.node.keys import create_grandpa_key
from phala.node.spec import write_spec
from phala.primitives.keys import storage_prefix
from phala.primitives.types import BlockNumber, Hash
from phala.runtime import GenesisConfig
from phala.tee.simulated import SimulatedPlatform
from phala.tee.simulated_key import create_simulated_key, load_simulated_key
from phala.testing.worker import WorkerKeys, register_extrinsic

WORKERS = 1_000
WORKERS_QUICK = 100
CONNECTIONS = 16
IDLE_BLOCKS = 5
WAIT_S_MAX = 120
NOW_KEY = "0x" + storage_prefix("Timestamp", "Now").hex()
ENCLAVES = "0x" + storage_prefix("PhalaRegistry", "Enclaves").hex()
PAGE = 1_000


def run(*, quick: bool = False) -> Iterator[Figure]:
    workers = WORKERS_QUICK if quick else WORKERS
    with tempfile.TemporaryDirectory() as name, running_node(Path(name), spec(Path(name))) as node:
        url = node.url
        idle = intervals(url, *settle(url, IDLE_BLOCKS))
        first = number(url)
        bodies = registrations(url, Path(name) / "simulated.key", workers)
        began = time.monotonic()
        load = send(url, bodies, connections=CONNECTIONS, kind="application/json")
        if load.failed:
            raise RuntimeError(f"{load.failed} were refused: {load.first_failure}")
        while (listed := count(url)) < workers:
            if time.monotonic() > began + WAIT_S_MAX:
                raise RuntimeError(f"{listed} of {workers} workers were listed in time")
            time.sleep(0.05)
        took = time.monotonic() - began
        busy = intervals(url, first, number(url))
    yield Figure(
        name=f"block interval, {workers:,} workers registering",
        unit="ms",
        ours=statistics.median(busy),
        baseline="the same node idle",
        baseline_value=statistics.median(idle),
        more={"longest_ms": max(busy), "blocks": len(busy), "registrations_a_s": workers / took},
    )


def spec(folder: Path) -> Path:
    """A development chain whose simulated key lies beside it."""
    config = GenesisConfig.dev(
        authority=create_grandpa_key(folder / "grandpa.key").public,
        simulated_root=create_simulated_key(folder / "simulated.key").public_root,
        measurement=bytes(48),
        runtime_id=Hash(bytes(32)),
    )
    write_spec(folder / "spec.json", config)
    return folder / "spec.json"


def registrations(url: str, key: Path, workers: int) -> list[bytes]:
    """Requests with a good registration of each worker, bound to the head."""
    block_hash = Hash(bytes.fromhex(rpc(url, "chain_getFinalizedHead")[2:]))
    header = rpc(url, "chain_getHeader", "0x" + block_hash.hex())
    platform = SimulatedPlatform(measurement=bytes(48), key=load_simulated_key(key))
    genesis = Hash(bytes.fromhex(rpc(url, "chain_getBlockHash", 0)[2:]))
    out = []
    for index in range(workers):
        seed = sha256(b"worker%d" % index).digest()
        worker = WorkerKeys(seed, genesis, platform, PLATFORM_SIMULATED, Hash(bytes(32)))
        body = worker.registration_at(BlockNumber(int(header["number"], 16)), block_hash)
        extrinsic = register_extrinsic(worker.signed(body))
        request = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "author_submitExtrinsic",
            "params": ["0x" + extrinsic.hex()],
        }
        out.append(json.dumps(request).encode())
    return out


def number(url: str) -> int:
    return int(rpc(url, "chain_getHeader")["number"], 16)


def settle(url: str, blocks: int) -> tuple[int, int]:
    """The numbers between which the chain was idle, once so many blocks were made."""
    first = number(url) + 2  # what it does at the start is over
    deadline = time.monotonic() + WAIT_S_MAX
    while number(url) < first + blocks:
        if time.monotonic() > deadline:
            raise RuntimeError("an idle node makes no blocks")
        time.sleep(0.1)
    return first, first + blocks


def intervals(url: str, first: int, last: int) -> list[float]:
    """Milliseconds from each block of the chain to the next, by the time that they bear."""
    times = []
    for each in range(first, last + 1):
        block = rpc(url, "chain_getBlockHash", each)
        times.append(U64.decode(bytes.fromhex(rpc(url, "state_getStorage", NOW_KEY, block)[2:])))
    return [float(after - before) for before, after in pairwise(times)]


def count(url: str) -> int:
    """Workers that the chain lists."""
    found, last = 0, ENCLAVES
    while page := rpc(url, "state_getKeysPaged", ENCLAVES, PAGE, last):
        found, last = found + len(page), page[-1]
    return found
