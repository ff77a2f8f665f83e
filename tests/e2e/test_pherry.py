"""Pherry's process between a real node and a small worker that checks what it is fed."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from phala.finality import LightHead, advance, read, start
from phala.messages.bus import SYSTEM_TOPIC, ingress_key, topic_key
from phala.messages.host import (
    HOST_REPLY,
    HOST_REQUEST,
    Advance,
    Advanced,
    Egress,
    EgressReply,
    Failure,
    Followed,
    HostReply,
    HostRequest,
    Status,
    StatusReply,
)
from phala.messages.state import TIMESTAMP_KEY, worker_key
from phala.messages.types import Count, WorkerId
from phala.node.keys import create_grandpa_key
from phala.node.spec import Genesis, make_genesis, write_spec
from phala.primitives.header import HEADER
from phala.primitives.types import Hash
from phala.runtime import GenesisConfig, Runtime
from phala.tee.simulated_key import create_simulated_key

pytestmark = pytest.mark.anyio

WORKER = WorkerId(b"\5" * 32)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Process:
    """A service that prints one line when it is ready."""

    command: list[str]
    log: Path
    running: subprocess.Popen[bytes] | None = None

    def start(self) -> dict[str, Any]:
        with self.log.open("ab") as log:
            self.running = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=log)
        assert self.running.stdout is not None
        line = self.running.stdout.readline()
        assert line, self.log.read_text()[-3000:]
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self, how: signal.Signals) -> int:
        assert self.running is not None
        assert self.running.stdout is not None
        os.kill(self.running.pid, how)
        code = self.running.wait(20)
        self.running.stdout.close()
        return code


@dataclass
class MiniWorker:
    """Follows headers and reads proofs as an enclave does, and holds nothing else."""

    head: LightHead
    heights: list[int] = field(default_factory=list)
    nonsense: bytes | None = None
    asked: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        self.asked += 1
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        if self.nonsense is None:
            answer = HOST_REPLY.encode(self.reply(HOST_REQUEST.decode(body)))
        else:
            answer = self.nonsense
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    def reply(self, request: HostRequest) -> HostReply:
        match request:
            case Status():
                return self.status()
            case Egress():
                return EgressReply(())
            case Advance():
                return self.advance(request)
            case _:
                return Failure(0, "Invalid", "not asked for here", "")

    def advance(self, feed: Advance) -> HostReply:
        head = self.head
        for each in feed.headers:
            head = advance(head, each.header, each.justification)
        keys = (topic_key(SYSTEM_TOPIC), ingress_key(WORKER), worker_key(WORKER), TIMESTAMP_KEY)
        assert read(head, feed.proof, keys)[TIMESTAMP_KEY] is not None
        self.head = head
        self.heights.append(head.number)
        return Advanced(head.number, head.hash)

    def status(self) -> StatusReply:
        return StatusReply(
            version=1,
            genesis=self.head.genesis,
            worker=WORKER,
            height=self.head.number,
            block_hash=self.head.hash,
            registered=True,
            topics=(Followed(SYSTEM_TOPIC, Count(0)),),
            runtime_id=Hash(b"\2" * 32),
            platform=0,
            measurement=b"",
            ready=False,
        )


@asynccontextmanager
async def serving(worker: MiniWorker, port: int = 0) -> AsyncIterator[int]:
    config = uvicorn.Config(worker, port=port, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    task = asyncio.create_task(server._serve([socket]))
    try:
        yield socket.getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await task
        socket.close()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - the other side is another process
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pherry")


@pytest.fixture(scope="module")
def genesis(folder: Path) -> Genesis:
    (folder / "node").mkdir()
    key = create_simulated_key(folder / "simulated.key")
    config = GenesisConfig.dev(
        authority=create_grandpa_key(folder / "node" / "grandpa.key").public,
        simulated_root=key.public_root,
        measurement=b"\1" * 48,
        runtime_id=Hash(b"\2" * 32),
    )
    write_spec(folder / "spec.json", config)
    return make_genesis(config, Runtime())


@pytest.fixture(scope="module")
def node(folder: Path, genesis: Genesis) -> Iterator[Process]:
    assert genesis.hash
    place = ["--dir", str(folder / "node"), "--spec", str(folder / "spec.json")]
    process = Process(
        [sys.executable, "-m", "phala.node", *place, "--port", "0"], folder / "node.log"
    )
    process.command[-1] = str(process.start()["port"])
    yield process
    process.end(signal.SIGTERM)


def worker_at_genesis(genesis: Genesis) -> MiniWorker:
    header = HEADER.encode(genesis.header)
    return MiniWorker(start(genesis.hash, header, genesis.authorities_proof))


@asynccontextmanager
async def carrying(node: Process, port: int, log: Path) -> AsyncIterator[Process]:
    where = ["--node", f"ws://127.0.0.1:{node.command[-1]}", "--worker", f"http://127.0.0.1:{port}"]
    pherry = Process([sys.executable, "-m", "phala.pherry", *where], log)
    ready = await asyncio.to_thread(pherry.start)
    try:
        assert ready == {"ready": True, "port": None, "worker": "0x" + WORKER.hex()}
        yield pherry
    finally:
        code = pherry.end(signal.SIGTERM)
    assert code == 0
    assert "Traceback" not in _text(log)


async def test_the_worker_follows_the_finalized_chain(
    node: Process, genesis: Genesis, tmp_path: Path
) -> None:
    worker = worker_at_genesis(genesis)

    async with serving(worker) as port, carrying(node, port, tmp_path / "log"):
        await until(lambda: len(worker.heights) >= 2)

    assert worker.heights == sorted(set(worker.heights))


async def test_a_killed_node_is_followed_again(
    node: Process, genesis: Genesis, tmp_path: Path
) -> None:
    worker = worker_at_genesis(genesis)

    async with serving(worker) as port, carrying(node, port, tmp_path / "log"):
        await until(lambda: len(worker.heights) >= 1)
        node.end(signal.SIGKILL)
        before = worker.head.number
        node.start()
        await until(lambda: worker.head.number > before)


async def test_a_worker_that_went_back_is_fed_again(
    node: Process, genesis: Genesis, tmp_path: Path
) -> None:
    worker = worker_at_genesis(genesis)
    async with serving(worker) as port, carrying(node, port, tmp_path / "log"):
        await until(lambda: len(worker.heights) >= 1)
        reached = worker.head.number
        worker.head = worker_at_genesis(genesis).head  # an old checkpoint
        await until(lambda: worker.head.number >= reached)


async def test_nonsense_of_the_worker_is_outlived(
    node: Process, genesis: Genesis, tmp_path: Path
) -> None:
    worker = worker_at_genesis(genesis)
    async with serving(worker) as port, carrying(node, port, tmp_path / "log"):
        for said in (b"", b"\xff" * 40, b"\x04" + b"\xff" * 3, bytes(10_000)):
            worker.nonsense, asked = said, worker.asked
            await until(lambda: worker.asked > asked + 1)  # noqa: B023 - it is called here and now
        worker.nonsense, reached = None, worker.head.number
        await until(lambda: worker.head.number > reached)


async def test_a_worker_that_was_away_is_found_again(
    node: Process, genesis: Genesis, tmp_path: Path
) -> None:
    worker = worker_at_genesis(genesis)
    async with serving(worker) as port:
        pass
    pherry = carrying(node, port, tmp_path / "log")
    entering = asyncio.create_task(pherry.__aenter__())
    await until(lambda: "does not answer" in _text(tmp_path / "log"))

    async with serving(worker, port):
        await entering
        await until(lambda: len(worker.heights) >= 1)
        await pherry.__aexit__(None, None, None)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""
