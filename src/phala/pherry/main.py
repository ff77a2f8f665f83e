"""Pherry's process: a round for every finalized head, and again where one failed."""

import argparse
import asyncio
import contextlib
import json
import logging
import signal
import sys
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from phala.errors import PhalaError
from phala.pherry.core.asks import Head
from phala.pherry.core.feed import Steps
from phala.pherry.core.round import Errand, Memory, Report, work_round
from phala.pherry.links import NodeLink, WorkerLink, answer, head_of
from phala.primitives.address import decode_ss58
from phala.primitives.types import AccountId
from phala.sdk.chain import ChainClient

T = TypeVar("T")

LOG: Final = logging.getLogger("phala.pherry")
BACKOFF_S_MIN: Final = 0.05
BACKOFF_S_MAX: Final = 0.25  # both sides are near: to ask costs nothing, to be late does
IDLE_S: Final = 3.0  # look again, though no head came
SILENCE_S_MAX: Final = 20.0  # a node this long without a head is asked anew
SAME_LOG_S: Final = 10.0  # how often one failure is written down


@dataclass(slots=True)
class Heads:
    """The newest finalized head, and a bell that rings for it."""

    newest: Head | None = None
    bell: asyncio.Event = field(default_factory=asyncio.Event)


async def perform(steps: Steps[T], node: NodeLink, worker: WorkerLink) -> T:
    """Carry out what a round asks. An error of either side ends the round."""
    reply: Any = None
    try:
        while True:
            reply = await answer(steps.send(reply), node, worker)
    except StopIteration as done:
        result: T = done.value
        return result


async def follow_heads(client: ChainClient, heads: Heads) -> None:
    while True:
        try:
            subscription = await client.rpc.subscribe(
                "chain_subscribeFinalizedHeads", "chain_unsubscribeFinalizedHeads"
            )
            try:
                while True:
                    async with asyncio.timeout(SILENCE_S_MAX):
                        heads.newest = head_of(await anext(subscription))
                    heads.bell.set()
            finally:
                await subscription.close()
        except (PhalaError, TimeoutError) as error:
            LOG.info("the node is away: %s", error)
            await asyncio.sleep(BACKOFF_S_MIN)


class Pherry:
    """One node, one worker."""

    def __init__(self, client: ChainClient, worker: WorkerLink, operator: AccountId | None) -> None:
        self._client = client
        self._node = NodeLink(client)
        self._worker = worker
        self._operator = operator
        self._memory = Memory()
        self._connections = 0
        self._said: tuple[str, float] = ("", 0.0)
        self._served = False

    async def run(self) -> None:
        heads = Heads()
        following = asyncio.create_task(follow_heads(self._client, heads))
        backoff_s = BACKOFF_S_MIN
        try:
            while True:
                if following.done():
                    following.result()  # it never ends by itself: a mistake of ours ends us too
                heads.bell.clear()
                wait_s = IDLE_S
                if heads.newest is not None:
                    try:
                        report = await self._round(heads.newest)
                        self._tell(report)
                        if report.refusals:
                            self._client.forget()
                        backoff_s = BACKOFF_S_MIN
                    except PhalaError as error:
                        self._complain(error)
                        self._client.forget()
                        await asyncio.sleep(backoff_s)
                        wait_s, backoff_s = 0.0, min(2 * backoff_s, BACKOFF_S_MAX)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        await heads.bell.wait()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)

    async def _round(self, head: Head) -> Report:
        errand = Errand(await self._client.genesis(), self._operator)
        if self._client.rpc.connections != self._connections:
            self._connections = self._client.rpc.connections
            self._memory.forget()
        return await perform(work_round(errand, head, self._memory), self._node, self._worker)

    def _tell(self, report: Report) -> None:
        if not self._served:
            self._served = True
            ready = {"ready": True, "port": None, "worker": "0x" + report.status.worker.hex()}
            sys.stdout.write(json.dumps(ready) + "\n")
            sys.stdout.flush()
        if report.registering:
            LOG.info("asked the chain to register the worker")
        if report.carried or report.submitted:
            LOG.info(
                "worker at block %d: %d messages in, %d out",
                report.status.height,
                report.carried or 0,
                report.submitted,
            )
        for refusal in report.refusals:
            LOG.warning("the node refused a %s", refusal)

    def _complain(self, error: PhalaError) -> None:
        """Once for the same failure in a while: a side that is away fails in every round."""
        now = asyncio.get_running_loop().time()
        if str(error) != self._said[0] or now - self._said[1] > SAME_LOG_S:
            self._said = str(error), now
            LOG.warning("%s", error)


class JsonLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": round(record.created, 3),
                "level": record.levelname.lower(),
                "service": "pherry",
                "message": record.getMessage(),
            }
        )


async def serve(node: str, worker: str, operator: AccountId | None) -> None:
    """Until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    link = WorkerLink(worker)
    async with ChainClient(node) as client:
        running = asyncio.create_task(Pherry(client, link, operator).run())
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, running.cancel)
        try:
            await running
        except asyncio.CancelledError:
            LOG.info("ended")
        finally:
            await link.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="phala.pherry",
        description="Carry blocks into a worker's enclave, and its signed messages onto the chain.",
    )
    parser.add_argument("--node", default="ws://127.0.0.1:9944", help="WebSocket address")
    parser.add_argument("--worker", default="http://127.0.0.1:8000", help="HTTP address")
    parser.add_argument("--operator", help="address of the account that the worker earns for")
    return parser.parse_args()


def main() -> None:
    """`python -m phala.pherry --node ws://127.0.0.1:9944 --worker http://127.0.0.1:8000`."""
    chosen = arguments()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    try:
        account = decode_ss58(chosen.operator) if chosen.operator else None
        asyncio.run(serve(chosen.node, chosen.worker, account))
    except PhalaError as error:
        LOG.error("%s", error)  # noqa: TRY400 - the error's words say all
        sys.exit(error.exit_code)
