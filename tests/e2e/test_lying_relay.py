"""Whoever carries blocks and messages may drop, repeat, reorder and alter them: nothing comes of it
but a loss of time.

Pherry runs between two relays that lie, one to the node, one to the worker. Contracts end up as
they do behind honest relays.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn
import websockets
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from phala.devnet.files import NetworkFiles
from phala.devnet.genesis import ensure_written
from phala.errors import Unavailable
from phala.messages.types import ContractId
from phala.sdk.judge import RegistrationOutdated
from phala.sdk.keyring import dev_pair
from phala.sdk.light import load_light_start
from phala.sdk.network import Network, Sent
from phala.sdk.trust import load_trust
from phala.sdk.worker import WorkerClient

T = TypeVar("T")

pytestmark = pytest.mark.timeout(300)

SEED = int(os.environ.get("PHALA_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
ALICE = dev_pair("Alice")
KINDS = ("drop", "repeat", "reorder", "alter")
EACH_MIN = 3  # of each kind of lie, on each side
SHARE = {"node": 0.12, "worker": 0.3}  # of messages that are lied about; the worker gets fewer
COMMANDS_MIN = 12
OUTCOME_S = 120.0
OLD_KEPT = 20
HELD_S = 0.3  # a message that waits for one to be overtaken by
SILENT = (
    0.15  # of dropped messages: the connection stays, so somebody waits for its time to be over
)

LEDGER = '''
from phat import Contract, Map, command, query


class Ledger(Contract):
    """The order of commands shows in it, and so does one that is executed twice or not at all."""

    digest: int = 0
    lines: Map[str, int]

    @command
    def add(self, n: int) -> int:
        self.digest = (self.digest * 31 + n) % 1_000_003
        self.lines[str(n % 7)] = self.lines.get(str(n % 7), 0) + n
        return self.digest

    @query
    def dump(self) -> dict[str, int]:
        return {"digest": self.digest, **dict(self.lines.items())}
'''


@dataclass
class Liar:
    """Says what happens to a message."""

    chance: random.Random
    share: float
    did: Counter[str] = field(default_factory=Counter)

    def choose(self) -> str | None:
        if self.chance.random() >= self.share:
            return None
        kind = self.chance.choice(KINDS)
        self.did[kind] += 1
        return kind

    def alter(self, data: bytes) -> bytes:
        out = bytearray(data)
        for _ in range(self.chance.randint(1, 3)):
            if out:
                out[self.chance.randrange(len(out))] ^= 1 << self.chance.randrange(8)
        return bytes(out)

    def alter_text(self, text: str) -> str:
        """One character is another; of JSON that is mostly hex, mostly a digit."""
        at = self.chance.randrange(len(text))
        return text[:at] + self.chance.choice('0123456789abcdef"{}') + text[at + 1 :]

    @property
    def content(self) -> bool:
        return all(self.did[kind] >= EACH_MIN for kind in KINDS)


class LyingWorker:
    """Between pherry and the relay door, as an ASGI application."""

    def __init__(self, liar: Liar, url: str) -> None:
        self.liar = liar
        self.http = httpx.AsyncClient(base_url=url, timeout=60, trust_env=False)
        self.old: deque[bytes] = deque([b""], maxlen=OLD_KEPT)

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        status, answer = await self.carry(scope["path"], body)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": answer})

    async def carry(self, path: str, body: bytes) -> tuple[int, bytes]:
        early = self.liar.chance.random() < 0.5
        kind = self.liar.choose()
        if kind == "drop" and early:
            return 502, b""
        if kind == "alter" and early:
            return await self.ask(path, self.liar.alter(body))
        if kind == "reorder":
            late = await self.ask(path, self.liar.chance.choice(self.old))
            now = await self.ask(path, body)
            return late if early else now
        if kind == "repeat":
            await self.ask(path, body)
        status, answer = await self.ask(path, body)
        self.old.append(body)
        if kind == "drop":
            return 502, b""
        return status, self.liar.alter(answer) if kind == "alter" else answer

    async def ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            answer = await self.http.post(path, content=body)
        except httpx.HTTPError:
            return 502, b""
        return answer.status_code, answer.content


class LyingNode:
    """Between pherry and the node's WebSocket."""

    def __init__(self, liar: Liar, url: str, *, once: str = "") -> None:
        self.liar = liar
        self.url = url
        self.once = once  # a text that is altered where it comes by first

    async def __call__(self, client: ServerConnection) -> None:
        try:
            async with (
                connect(self.url, compression=None, max_size=1 << 26, proxy=None) as node,
                asyncio.TaskGroup() as group,
            ):
                group.create_task(self.pump(client, node))
                group.create_task(self.pump(node, client))
        except* (OSError, websockets.WebSocketException):
            pass

    async def pump(self, source: Any, sink: Any) -> None:
        held: list[str] = []
        try:
            while True:
                try:
                    async with asyncio.timeout(HELD_S if held else None):
                        message = self.edited(await source.recv())
                except TimeoutError:
                    await self.flush(held, sink)
                    continue
                match self.liar.choose():
                    case "drop" if self.liar.chance.random() >= SILENT:
                        return
                    case "drop":
                        continue
                    case "repeat":
                        await sink.send(message)
                    case "alter":
                        message = self.liar.alter_text(message)
                    case "reorder":
                        held.append(message)
                        continue
                    case _:
                        pass
                await sink.send(message)
                await self.flush(held, sink)
        finally:
            await source.close()
            await sink.close()

    def edited(self, message: str) -> str:
        if self.once and self.once in message:
            message = message.replace(self.once, self.once[::-1])
            self.once = ""
        return message

    async def flush(self, held: list[str], sink: Any) -> None:
        while held:
            await sink.send(held.pop())


@asynccontextmanager
async def lying(
    to_node: Liar, to_worker: Liar, node: int, worker: int, *, once: str = ""
) -> AsyncIterator[tuple[int, int]]:
    """Ports where the relays listen."""
    node_app = LyingNode(to_node, f"ws://127.0.0.1:{node}", once=once)
    worker_app = LyingWorker(to_worker, f"http://127.0.0.1:{worker}")
    config = uvicorn.Config(worker_app, port=0, log_config=None, lifespan="off")
    server, listening = uvicorn.Server(config), config.bind_socket()
    serving = asyncio.create_task(server._serve([listening]))
    try:
        async with serve(
            node_app, "127.0.0.1", 0, compression=None, max_size=1 << 26, close_timeout=1
        ) as relay:
            port = next(iter(relay.sockets)).getsockname()[1]
            yield port, listening.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        await serving
        listening.close()
        await worker_app.http.aclose()


@contextmanager
def service(files: NetworkFiles, name: str, *options: str) -> Iterator[dict[str, Any]]:
    """A service of its own; it still runs when the body ends, and ends when it is asked to."""
    log = files.folder / f"{name}.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", f"phala.{name}", *options], stdout=subprocess.PIPE, stderr=errors
        )
    try:
        assert process.stdout is not None
        with process.stdout as stdout:
            line = stdout.readline()
            assert line, log.read_text()[-3000:]
            yield json.loads(line)
            assert process.poll() is None, log.read_text()[-3000:]
    except BaseException:
        sys.stderr.write(f"---- {name}\n{log.read_text()[-6000:]}\n")
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()[-6000:]


@contextmanager
def chain_and_worker(files: NetworkFiles) -> Iterator[tuple[int, int]]:
    node = ["--dir", str(files.service("node")), "--spec", str(files.spec), "--port", "0"]
    worker = ["--dir", str(files.service("worker")), "--light", str(files.light), "--port", "0"]
    with service(files, "node", *node) as one, service(files, "worker", *worker) as two:
        yield int(one["port"]), int(two["port"])


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """A client asks again where it is told to: behind lies, its own patience may be too short."""
    deadline = time.monotonic() + OUTCOME_S
    while True:
        try:
            return await ask()
        except (Unavailable, RegistrationOutdated):
            if time.monotonic() > deadline:
                raise


async def deploy(client: Network) -> ContractId:
    await patiently(client.verify_worker)
    return (await client.deploy(LEDGER, signer=ALICE, timeout_s=OUTCOME_S)).contract


async def run_commands(client: Network, contract: ContractId, numbers: list[int]) -> list[Any]:
    """Send all of them at once, then wait for each; what each answered."""
    await patiently(client.verify_worker)
    sent = await client.send_commands(contract, [("add", {"n": n}) for n in numbers], signer=ALICE)
    answers = []
    for each in sent:
        assert isinstance(each, Sent), each
        answer = await patiently(partial(client.outcome_of, each, timeout_s=OUTCOME_S))
        answers.append(answer.value())
    return answers


async def tell(files: NetworkFiles, node: int, worker: int) -> None:
    chance = random.Random(SEED)
    to_node, to_worker = liars = tuple(
        Liar(random.Random(chance.randrange(1 << 32)), share) for share in SHARE.values()
    )
    trust = load_trust(files.trust)
    began = load_light_start(files.light, trust.genesis)
    numbers: list[int] = []
    answers: list[Any] = []
    async with contextlib.AsyncExitStack() as stack:
        ports = await stack.enter_async_context(lying(to_node, to_worker, node, worker))
        places = [f"ws://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"]
        pherry = service(files, "pherry", "--node", places[0], "--worker", places[1])
        await asyncio.to_thread(pherry.__enter__)
        stack.push(pherry.__exit__)
        client = await stack.enter_async_context(
            await Network.connect(
                f"ws://127.0.0.1:{node}", f"http://127.0.0.1:{worker}", trust, began=began
            )
        )
        await registered(client.worker)
        lied_to = await deploy(client)
        while len(numbers) < COMMANDS_MIN or not all(liar.content for liar in liars):
            some = [chance.randrange(1_000) for _ in range(4)]
            answers += await run_commands(client, lied_to, some)
            numbers += some
        told = [dict(liar.did) for liar in liars]
        sys.stdout.write(f"{len(numbers)} commands, lies to node and worker: {told}\n")

        for liar in liars:
            liar.share = 0.0
        honest = await deploy(client)
        assert await run_commands(client, honest, numbers) == answers
        asks = [partial(client.query, each, "dump") for each in (lied_to, honest)]
        dumps = [(await patiently(ask)).value() for ask in asks]
        assert dumps[0] == dumps[1]
        assert sum(dumps[0].values()) == dumps[0]["digest"] + sum(numbers)


async def registered(worker: WorkerClient) -> None:
    """Until the chain lists the worker, and its cluster has keys."""
    async with asyncio.timeout(OUTCOME_S):
        while not (await worker.says()).ready:  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.1)


def test_lies_change_nothing_but_the_time_taken(tmp_path: Path) -> None:
    sys.stdout.write(f"PHALA_SEED={SEED}\n")
    files = NetworkFiles(tmp_path)
    ensure_written(files)
    with chain_and_worker(files) as (node, worker):
        asyncio.run(tell(files, node, worker))


async def register(files: NetworkFiles, node: int, worker: int, *, once: str) -> None:
    honest = [Liar(random.Random(0), 0.0) for _ in range(2)]
    async with lying(honest[0], honest[1], node, worker, once=once) as ports:
        places = [f"ws://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[1]}"]
        pherry = service(files, "pherry", "--node", places[0], "--worker", places[1])
        await asyncio.to_thread(pherry.__enter__)
        try:
            async with WorkerClient(f"http://127.0.0.1:{worker}") as client:
                await registered(client)
        finally:
            pherry.__exit__(None, None, None)
        assert "the worker follows chain" in (files.folder / "pherry.log").read_text()


def test_one_altered_word_about_the_chain_is_not_believed_for_ever(tmp_path: Path) -> None:
    files = NetworkFiles(tmp_path)
    genesis = ensure_written(files)["genesis"]
    with chain_and_worker(files) as (node, worker):
        asyncio.run(register(files, node, worker, once=genesis.removeprefix("0x")))
