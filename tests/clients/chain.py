"""A node of a fresh `dev` chain, for the clients to talk to."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from phala.node.keys import create_grandpa_key
from phala.node.spec import write_spec
from phala.primitives.types import Hash
from phala.runtime import GenesisConfig
from phala.tee.simulated_key import create_simulated_key

STOP_S_MAX = 10


@dataclass(frozen=True)
class RunningNode:
    process: subprocess.Popen[str]
    port: int
    genesis: str
    folder: Path
    metrics_port: int | None = None

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def websocket(self) -> str:
        return f"ws://127.0.0.1:{self.port}"


def prepare(folder: Path) -> Path:
    """A folder with keys and a spec, whose workers nobody can be; the spec's path."""
    authority = create_grandpa_key(folder / "grandpa.key")
    simulated = create_simulated_key(folder / "simulated.key")
    spec = folder / "spec.json"
    config = GenesisConfig.dev(
        authority=authority.public,
        simulated_root=simulated.public_root,
        measurement=b"m" * 48,
        runtime_id=Hash(b"r" * 32),
    )
    write_spec(spec, config)
    return spec


def start(
    folder: Path,
    spec: Path,
    *options: str,
    port: int = 0,
    program: tuple[str, ...] = ("-m", "phala.node"),
) -> RunningNode:
    """A node, when it serves."""
    command = [
        sys.executable, *program, "--dir", str(folder), "--spec", str(spec),
        "--port", str(port), *options,
    ]  # fmt: skip
    with (folder / "node.log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    with process.stdout as out:
        line = out.readline()
    assert line, (folder / "node.log").read_text()
    ready = json.loads(line)
    return RunningNode(process, ready["port"], ready["genesis"], folder, ready.get("metricsPort"))


@contextmanager
def running(folder: Path, *options: str) -> Iterator[RunningNode]:
    """A node of a fresh chain, until the body ends."""
    node = start(folder, prepare(folder), *options)
    try:
        yield node
    finally:
        node.process.terminate()
        node.process.wait(STOP_S_MAX)
