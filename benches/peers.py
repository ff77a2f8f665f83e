"""The programs that benches are measured against, each started on loopback and ended again."""

import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BUILD = HERE.parent / ".build" / "benches"
READY_S_MAX = 20
GETH_S_MAX = 1_200  # to build it

WORKERD_CONFIG = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .main)],
  sockets = [(name = "http", address = "127.0.0.1:PORT", http = (), service = "main")]
);
const main :Workerd.Worker = (
  modules = [(name = "worker", esModule = embed "worker.js")],
  compatibilityDate = "2026-01-01"
);
"""

WORKERD_FUNCTION = """export default {
  async fetch(request) {
    const { xs } = await request.json();
    let sum = 0;
    for (const x of xs) sum += x;
    return Response.json({ sum, n: xs.length });
  },
};
"""


@dataclass(frozen=True)
class Load:
    """What the load generator saw."""

    sent: int
    failed: int
    seconds: float
    per_second: float
    p50_ms: float
    p99_ms: float
    first_failure: str


def install() -> Path:
    """npm packages of the peers, by the lock file; the folder that holds them."""
    folder = BUILD / "peers"
    lock = (HERE / "peers" / "package-lock.json").read_bytes()
    stamp = folder / "installed.lock"
    if not stamp.exists() or stamp.read_bytes() != lock:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / "peers" / name, folder / name)
        subprocess.run(["npm", "ci", "--silent"], cwd=folder, check=True)
        stamp.write_bytes(lock)
    return folder / "node_modules"


def load_generator() -> Path:
    binary = BUILD / "loadgen"
    source = HERE / "loadgen" / "main.go"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(["go", "build", "-o", binary, "."], cwd=source.parent, check=True)
    return binary


def send(
    url: str, bodies: Iterable[bytes], *, connections: int, kind: str, per_second: int = 0
) -> Load:
    """Send prepared bodies, one at a time on each connection: so many a second, or (0) each as soon
    as its connection has the answer to the one before."""
    load, _ = ask(url, bodies, connections=connections, kind=kind, per_second=per_second)
    return load


def ask(
    url: str, bodies: Iterable[bytes], *, connections: int, kind: str, per_second: int = 0
) -> tuple[Load, list[bytes]]:
    """The same, and each body's answer."""
    binary = load_generator()
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        work, kept = Path(folder) / "bodies", Path(folder) / "answers"
        with work.open("wb") as out:
            for body in bodies:
                out.write(struct.pack("<I", len(body)) + body)
        command: list[str | Path] = [
            binary, url, work, str(connections), kind, kept, str(per_second),
        ]  # fmt: skip
        ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        return Load(**json.loads(ran.stdout)), split(kept.read_bytes())


def split(data: bytes) -> list[bytes]:
    """Byte strings that each stand behind their length."""
    found, at = [], 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at)
        found.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str | Path], port: int, **options: Any) -> Iterator[None]:
    """The process, from when its port answers to the end of the body."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        until = time.monotonic() + READY_S_MAX
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{command[0]} did not start: {process.poll()}") from None
                time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def workerd() -> Iterator[str]:
    """Cloudflare's workerd with the JSON function of the query bench; its URL."""
    binary = install() / "@cloudflare" / "workerd-linux-64" / "bin" / "workerd"
    port = free_port()
    folder = BUILD / "workerd"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.capnp").write_text(WORKERD_CONFIG.replace("PORT", str(port)))
    (folder / "worker.js").write_text(WORKERD_FUNCTION)
    with running([binary, "serve", folder / "config.capnp"], port):
        yield f"http://127.0.0.1:{port}/"


@contextmanager
def anvil() -> Iterator[str]:
    """Foundry's anvil, a block each second; its URL."""
    binary = install() / "@foundry-rs" / "anvil-linux-amd64" / "bin" / "anvil"
    port = free_port()
    command: list[str | Path] = [
        binary, "--port", str(port), "--block-time", "1", "--silent", "--order", "fifo",
        "--gas-limit", "3000000000", "--accounts", "1",
    ]  # fmt: skip
    with running(command, port):
        yield f"http://127.0.0.1:{port}/"


GETH_VERSION = "v1.16.7"
GETH_CHAIN_ID = 1337  # of --dev


def install_geth() -> Path:
    """Built from its module, once. Raises `LookupError` where that cannot be."""
    folder = BUILD / "go"
    binary = folder / "geth"
    if not binary.exists():
        module = f"github.com/ethereum/go-ethereum/cmd/geth@{GETH_VERSION}"
        try:
            subprocess.run(
                ["go", "install", module],
                env={**os.environ, "GOBIN": str(folder)},
                check=True,
                capture_output=True,
                timeout=GETH_S_MAX,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise LookupError(f"geth is not built: {error}") from None
    return binary


@contextmanager
def geth() -> Iterator[str]:
    """A geth of its own chain, a block each second; its URL."""
    binary = install_geth()
    port, peers = free_port(), free_port()
    many = "100000"
    with tempfile.TemporaryDirectory() as folder:
        command: list[str | Path] = [
            binary, "--dev", "--dev.period", "1", "--dev.gaslimit", "3000000000",
            "--datadir", folder, "--http", "--http.port", str(port), "--port", str(peers),
            "--authrpc.port", str(free_port()), "--ipcdisable", "--verbosity", "1",
            "--txpool.globalslots", many, "--txpool.accountslots", many,
            "--txpool.globalqueue", many, "--txpool.accountqueue", many,
            "--miner.gaslimit", "3000000000",
        ]  # fmt: skip
        with running(command, port):
            yield f"http://127.0.0.1:{port}/"


def rpc(url: str, method: str, *params: Any) -> Any:
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())["result"]
