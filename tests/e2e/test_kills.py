"""Fifty kills at random instants, while commands run: nothing is lost, nothing happens twice."""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.e2e.network import Network, running, until

from phala.errors import PhalaError, Unavailable
from phala.messages.types import CallId, ContractId
from phala.sdk.keyring import Keypair, dev_pair
from phala.sdk.network import Network as Client
from phala.sdk.trust import load_trust

pytestmark = pytest.mark.timeout(900)

KILLS = int(os.environ.get("PHALA_KILLS", "50"))
SEED = int(os.environ.get("PHALA_SEED", "0")) or random.SystemRandom().randrange(1 << 32)
SERVICES = ("node", "pherry", "worker")
PAUSE_S_MAX = 3.0  # between a service that serves again and the next kill
RECOVERY_S = 60
OUTCOME_S = 90.0

LEDGER = '''
from phat import Contract, Map, command, query


class Ledger(Contract):
    """Adds numbers to lines: whatever happens twice shows."""

    total: int = 0
    lines: Map[str, int]

    @command
    def add(self, line: str, n: int) -> int:
        self.lines[line] = self.lines.get(line, 0) + n
        self.total += n
        return self.lines[line]

    @query
    def dump(self) -> dict[str, int]:
        """Every key and its value."""
        return {"total": self.total, **dict(self.lines.items())}
'''


@dataclass
class Story:
    """What the senders and the watcher saw."""

    done: dict[str, list[int]] = field(default_factory=dict)  # sender -> numbers it added
    calls: list[CallId] = field(default_factory=list)
    finalized: dict[int, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    over: bool = False


def document(network: Network) -> dict[str, Any]:
    """`network.json`, as the supervisor last wrote it."""
    found: dict[str, Any] = json.loads((network.folder / "network.json").read_text())
    return found


def connect(network: Network) -> Coroutine[Any, Any, Client]:
    now = document(network)
    return Client.connect(now["node"], now["worker"], load_trust(network.folder / "trust.json"))


async def deploy(network: Network, signer: Keypair) -> ContractId:
    async with await connect(network) as client:
        deployed = await client.deploy(LEDGER, signer=signer)
    return deployed.contract


async def sends(
    client: Client, contract: ContractId, story: Story, name: str, *, count: int | None = None
) -> None:
    """Commands of one account, one after the other, until the kills are over, or `count`."""
    signer, numbers = dev_pair(name), story.done.setdefault(name, [])
    while len(numbers) < count if count is not None else not story.over:
        n = len(numbers) + 1
        arguments = {"line": f"{name}/{n % 5}", "n": n}
        try:
            sent = await client.send_command(contract, "add", arguments, signer=signer)
            answer = await client.outcome_of(sent, timeout_s=OUTCOME_S)
        except PhalaError as error:
            story.errors.append(f"{name} {n}: {type(error).__name__}: {error}")
            raise
        assert answer.outcome.ok, answer.outcome
        story.calls.append(answer.receipt.body.call)
        numbers.append(n)


async def watches(url: str, story: Story) -> None:
    """Which blocks a node has called final, and that it never takes one back."""
    reached = 0
    async with httpx.AsyncClient(timeout=2) as http:
        while not story.over:
            await asyncio.sleep(0.2)
            try:
                final = await rpc(http, url, "chain_getFinalizedHead")
                header = await rpc(http, url, "chain_getHeader", final)
            except (httpx.HTTPError, ValueError):
                continue  # it is being killed
            number = int(header["number"], 16)
            assert number >= reached, f"finalized was {reached}, then {number}"
            assert story.finalized.setdefault(number, final) == final
            reached = number


async def rpc(http: httpx.AsyncClient, url: str, method: str, *params: Any) -> Any:
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return (await http.post(url, json=request)).json()["result"]


async def kills(network: Network, chance: random.Random, story: Story) -> dict[str, int]:
    """Kill services that serve, at random instants; how often each."""
    killed = dict.fromkeys((*SERVICES, "sealed"), 0)
    gone: dict[str, int] = {}
    for _ in range(KILLS):
        await asyncio.sleep(chance.uniform(0, PAUSE_S_MAX))
        victim = chance.choice((*SERVICES, "sealed"))
        service = "worker" if victim == "sealed" else victim
        pid = await serving(network, service, gone.get(service))
        if victim == "sealed":
            pid = next(iter(children(pid, "phala.sealed")), pid)
        else:
            gone[service] = pid
        os.kill(pid, signal.SIGKILL)
        killed[victim] += 1
    for service in SERVICES:
        await serving(network, service, gone.get(service))
    story.over = True
    return killed


async def serving(network: Network, service: str, gone: int | None) -> int:
    """The process of a service, once the one that was killed has a successor."""
    deadline = time.monotonic() + RECOVERY_S
    while True:
        pid = int(document(network)["services"][service]["pid"])
        if pid != gone and alive(pid):
            return pid
        assert time.monotonic() < deadline, f"{service} did not come back"
        await asyncio.sleep(0.05)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def children(pid: int, module: str) -> Iterator[int]:
    """Children of a process that run a module."""
    tasks = Path(f"/proc/{pid}/task")
    for task in tasks.iterdir() if tasks.exists() else ():
        for child in (task / "children").read_text().split():
            if module.encode() in Path(f"/proc/{child}/cmdline").read_bytes():
                yield int(child)


async def storm(network: Network, contract: ContractId) -> tuple[Story, dict[str, int]]:
    story = Story()
    url = document(network)["node"].replace("ws://", "http://")
    async with await connect(network) as client, asyncio.TaskGroup() as group:
        for name in ("Alice", "Bob", "Charlie"):
            group.create_task(sends(client, contract, story, name))
        group.create_task(watches(url, story))
        killed = await kills(network, random.Random(SEED), story)
    return story, killed


async def calm(network: Network, contract: ContractId, counts: dict[str, int]) -> None:
    story = Story()
    async with await connect(network) as client, asyncio.TaskGroup() as group:
        for name, count in counts.items():
            group.create_task(sends(client, contract, story, name, count=count))


async def dump(network: Network, contract: ContractId) -> Any:
    async with await connect(network) as client:
        deadline = time.monotonic() + RECOVERY_S
        while True:
            try:
                return (await client.query(contract, "dump")).value()
            except Unavailable:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.2)


def test_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    sys.stdout.write(f"PHALA_SEED={SEED}\n")
    with running(tmp_path) as network:
        story_of(network)


def story_of(network: Network) -> None:
    stormy = asyncio.run(deploy(network, dev_pair("Alice")))
    quiet = asyncio.run(deploy(network, dev_pair("Alice")))

    began = time.monotonic()
    story, killed = asyncio.run(storm(network, stormy))
    seconds = time.monotonic() - began
    counts = {name: len(numbers) for name, numbers in story.done.items()}
    asyncio.run(calm(network, quiet, counts))
    sys.stdout.write(
        f"{sum(killed.values())} kills {killed} in {seconds:.0f} s, commands {counts}, "
        f"{len(story.finalized)} finalized blocks seen\n"
    )

    assert sum(killed.values()) == KILLS
    assert all(counts.values())
    assert len(set(story.calls)) == len(story.calls) == sum(counts.values())
    found = asyncio.run(dump(network, stormy))
    assert found == asyncio.run(dump(network, quiet))
    assert found["total"] == sum(sum(numbers) for numbers in story.done.values())
    ensure_still_final(network, story)


def ensure_still_final(network: Network, story: Story) -> None:
    """Also after one more start, which computes the root of the whole state again."""
    network.kill("node")
    url = document(network)["node"].replace("ws://", "http://")

    def hashes() -> list[str] | None:
        try:
            with httpx.Client(timeout=5) as http:
                numbers = sorted(story.finalized)
                request = {
                    "jsonrpc": "2.0", "id": 1, "method": "chain_getBlockHash", "params": [numbers],
                }  # fmt: skip
                found: list[str] = http.post(url, json=request).json()["result"]
                return found
        except httpx.HTTPError:
            return None

    assert until(hashes) == [story.finalized[number] for number in sorted(story.finalized)]
