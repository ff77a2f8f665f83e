"""A chain whose spec is not `dev`, in a process of its own, and a worker that says that it is."""

import json
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.test_pherry import Process

from phala.node.keys import create_grandpa_key
from phala.node.spec import make_genesis, write_light, write_spec
from phala.primitives.keys import storage_prefix
from phala.primitives.types import Hash
from phala.runtime import GenesisConfig, Runtime
from phala.sealed.measurement import simulated_measurement
from phala.tee.simulated_key import create_simulated_key
from phala.wasm.runtime_module import ensure_compiled, load_runtime

WAIT_S = 40
ENCLAVES = "0x" + storage_prefix("PhalaRegistry", "Enclaves").hex()
REFUSAL = "does not accept the platform"


def until(holds: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def ask(port: int, method: str, *params: object) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)["result"]


@pytest.mark.parametrize("chain_type", ["Live"])
def test_a_simulated_worker_is_refused_whatever_its_own_files_say(
    tmp_path: Path, chain_type: str
) -> None:
    """The chain lists the worker's very code, and its files call the chain `dev`: it stays out."""
    module = load_runtime()
    ensure_compiled(module)
    runtime_id = Hash(module.runtime_id)
    key = create_simulated_key(tmp_path / "simulated.key")
    (tmp_path / "node").mkdir()
    config = GenesisConfig.hardware(
        authority=create_grandpa_key(tmp_path / "node" / "grandpa.key").public,
        measurements=(simulated_measurement(runtime_id),),
        runtime_id=runtime_id,
        chain_type=chain_type,
    )
    genesis = make_genesis(config, Runtime())
    write_spec(tmp_path / "spec.json", config)
    write_light(tmp_path / "light.json", genesis)
    trust = {
        "genesis": "0x" + genesis.hash.hex(),
        "name": config.name,
        "policy": "dev",
        "simulatedRoot": "0x" + key.public_root.hex(),
    }
    (tmp_path / "trust.json").write_text(json.dumps(trust))
    start = [sys.executable, "-m"]
    place = ["--dir", str(tmp_path / "node"), "--spec", str(tmp_path / "spec.json"), "--port", "0"]
    node = Process([*start, "phala.node", *place], tmp_path / "node.log")
    home = ["--dir", str(tmp_path / "worker"), "--light", str(tmp_path / "light.json")]
    said = ["--platform", "simulated", "--port", "0"]
    worker = Process([*start, "phala.worker", *home, *said], tmp_path / "worker.log")
    started: list[Process] = []
    try:
        rpc = node.start()["port"]
        started.append(node)
        door = worker.start()["port"]
        started.append(worker)
        assert ask(rpc, "system_chainType") == chain_type
        where = ["--node", f"ws://127.0.0.1:{rpc}", "--worker", f"http://127.0.0.1:{door}"]
        pherry = Process([*start, "phala.pherry", *where], tmp_path / "pherry.log")
        pherry.start()
        started.append(pherry)
        log = tmp_path / "pherry.log"
        until(lambda: REFUSAL in log.read_text(), lambda: log.read_text()[-3000:])
        before = int(ask(rpc, "chain_getHeader")["number"], 16)
        until(
            lambda: int(ask(rpc, "chain_getHeader")["number"], 16) > before,
            lambda: (tmp_path / "node.log").read_text()[-3000:],
        )
        assert ask(rpc, "state_getKeysPaged", ENCLAVES, 10) == []
        with urllib.request.urlopen(f"http://127.0.0.1:{door}/", timeout=10) as response:
            status = json.load(response)
        assert status["registered"] is False
        assert status["ready"] is False
        assert "no hardware protection" in status["platform"]
    finally:
        for each in reversed(started):
            each.end(signal.SIGTERM)
