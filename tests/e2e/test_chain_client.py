"""The chain client and the light view against a real node, which is killed while they work."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from phala.errors import PhalaError, Refused
from phala.node.keys import create_grandpa_key
from phala.node.spec import make_genesis, write_light, write_spec
from phala.primitives.types import PHA, Hash
from phala.runtime import GenesisConfig, Runtime
from phala.sdk.chain import Call, ChainClient, DispatchRefused, Submitted
from phala.sdk.keyring import dev_pair, pair_from_suri
from phala.sdk.light import LightView, fetch_light_start, load_light_start
from phala.sdk.rpc import RpcRefused
from phala.tee.simulated_key import create_simulated_key

pytestmark = pytest.mark.anyio

ALICE, BOB, EVE = dev_pair("Alice"), dev_pair("Bob"), dev_pair("Eve")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class RunningNode:
    """A node's process; the same folder and port each time it is started."""

    folder: Path
    genesis: Hash
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def start(self) -> None:
        command = [sys.executable, "-m", "phala.node"]
        command += ["--dir", str(self.folder / "node"), "--spec", str(self.folder / "spec.json")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.port)], stdout=subprocess.PIPE, stderr=log
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "log").read_text()[-3000:]
        self.port = json.loads(line)["port"]

    def end(self, how: signal.Signals) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        os.kill(self.process.pid, how)
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    (tmp_path / "node").mkdir()
    key = create_simulated_key(tmp_path / "simulated.key")
    config = GenesisConfig.dev(
        authority=create_grandpa_key(tmp_path / "node" / "grandpa.key").public,
        simulated_root=key.public_root,
        measurement=b"\1" * 48,
        runtime_id=Hash(b"\2" * 32),
    )
    genesis = make_genesis(config, Runtime())
    write_spec(tmp_path / "spec.json", config)
    write_light(tmp_path / "light.json", genesis)
    running = RunningNode(tmp_path, genesis.hash)
    running.start()
    yield running
    running.end(signal.SIGTERM)


def transfer(pha: int) -> Call:
    value = {"dest": {"Id": BOB.account}, "value": pha * PHA}
    return Call("Balances", "transfer_keep_alive", value)


async def free(chain: ChainClient) -> int:
    account = await chain.query("System", "Account", BOB.account)
    return int(account["data"]["free"])


async def until_above(chain: ChainClient, number: int) -> None:
    async with asyncio.timeout(30):
        while await chain.block_number() <= number:  # noqa: ASYNC110 - the node is another process
            await asyncio.sleep(0.02)


async def test_a_transfer_is_included_then_final_and_its_events_are_told(
    node: RunningNode,
) -> None:
    async with ChainClient(node.url) as chain:
        fee = await chain.fee(transfer(1), ALICE)
        done = await chain.submit(transfer(1), ALICE, wait="finalized")

        assert done is not None
        assert done.fee == pytest.approx(fee, rel=0.1)
        moved = {"from": ALICE.account, "to": BOB.account, "amount": PHA}
        assert done.find("Balances", "Transfer") == moved
        assert await chain.finalized_head() == done.block_hash or done.number > 0


async def test_what_a_pallet_refuses_is_told_in_its_words(node: RunningNode) -> None:
    async with ChainClient(node.url) as chain:
        with pytest.raises(DispatchRefused, match=r"Balances\.transfer_keep_alive failed with"):
            await chain.submit(transfer(10**9), ALICE)


async def test_an_account_without_funds_is_refused_by_the_node(node: RunningNode) -> None:
    async with ChainClient(node.url) as chain:
        with pytest.raises(RpcRefused, match="pay some fees"):
            await chain.submit(transfer(1), pair_from_suri("//Nobody"))


async def test_one_account_may_send_much_at_once(node: RunningNode) -> None:
    async with ChainClient(node.url) as chain:
        before = await free(chain)
        one_by_one = asyncio.gather(*(chain.submit(transfer(1), ALICE) for _ in range(20)))
        together = chain.submit_many([transfer(1)] * 50, ALICE)
        await asyncio.gather(one_by_one, together)

        assert await free(chain) == before + 70 * PHA


@pytest.mark.timeout(120)
async def test_each_transfer_takes_effect_once_though_the_node_is_killed(
    node: RunningNode,
) -> None:
    async with ChainClient(node.url) as chain:
        before = await free(chain)
        sending = [
            asyncio.create_task(chain.submit_many([transfer(1)] * 5, sender, timeout_s=90))
            for sender in (ALICE, EVE, dev_pair("Dave"))
            for _ in range(3)
        ]
        for _ in range(4):
            await until_above(chain, await chain.block_number())
            node.end(signal.SIGKILL)
            node.start()
        done = [each for some in await asyncio.gather(*sending) for each in some]

        assert [type(each) for each in done] == [Submitted] * 45, done
        assert await free(chain) == before + 45 * PHA


async def test_the_light_view_follows_from_genesis_and_reads_by_proof(node: RunningNode) -> None:
    async with ChainClient(node.url) as chain:
        began = load_light_start(node.folder / "light.json", node.genesis)
        assert await fetch_light_start(chain, node.genesis) == began
        light = LightView(began, [chain])
        done = await chain.submit(transfer(1), ALICE, wait="finalized")
        assert done is not None

        head = await light.sync()

        assert head.number >= done.number
        assert await light.now() > 0
        key = (await chain.metadata()).storage_key("System", "Account", BOB.account)
        (proven,) = await light.read([key])
        account = (await chain.metadata()).decode_storage("System", "Account", proven)
        assert account["data"]["free"] == await free(chain)


async def test_an_old_chain_is_refused(node: RunningNode, monkeypatch: pytest.MonkeyPatch) -> None:
    async with ChainClient(node.url) as chain:
        await chain.submit(transfer(1), ALICE, wait="finalized")
        light = LightView(load_light_start(node.folder / "light.json", node.genesis), [chain])
        await light.sync()
        monkeypatch.setattr("time.time", lambda: 4_000_000_000.0)

        with pytest.raises(Refused, match="old"):
            await light.now()


async def test_another_genesis_than_the_pinned_one_is_refused(node: RunningNode) -> None:
    began = load_light_start(node.folder / "light.json", Hash(bytes(32)))

    async with ChainClient(node.url) as chain:
        with pytest.raises(PhalaError, match="genesis"):
            LightView(began, [chain])
