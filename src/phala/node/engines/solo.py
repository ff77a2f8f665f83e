"""One authority in the process of its node: for tests, and for a whole network in one process.

A block when there is work, its justification when the next one is written.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Final, assert_never

from phala.crypto.signatures import Keypair
from phala.node.chain import Chain
from phala.node.engines.author import WORK_S, Author, Executed, Justified, News, Written
from phala.node.engines.handover import AT_ONCE, Handover
from phala.node.service import Node, now
from phala.node.writer import Writer
from phala.primitives.types import BlockNumber

BUILD_S_MAX: Final = 0.4  # executing; what is left goes into the next block


class Solo:
    """Writes blocks on the head of one node."""

    def __init__(self, node: Node, keys: tuple[Keypair, ...]) -> None:
        assert isinstance(node.chain, Chain)
        self.node = node
        self._chain = node.chain
        self.author = Author(Writer(node.chain, node.runtimes), keys, self._hear)
        self._handover = Handover(node)
        self._wake = asyncio.Event()
        self._written = time.monotonic() - WORK_S
        node.has_work = self._wake.set
        node.prove = self._prove

    async def _prove(self, keys: Sequence[bytes], number: BlockNumber) -> tuple[bytes, ...]:
        return self._chain.prove(keys, number)

    async def run(self) -> None:
        """Write blocks until cancelled."""
        while True:
            await self._wait()
            await self.write()

    async def _wait(self) -> None:
        while True:
            self.author.hand(self._handover.next())
            left = self._written + self.author.pace_s - time.monotonic()
            if left <= 0:
                return
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                return

    async def write(self) -> None:
        """Write one block on the head, then finalize the head before it."""
        until = time.monotonic() + BUILD_S_MAX
        while time.monotonic() < until:
            self.author.hand(self._handover.next())
            if not self.author.can_execute:
                break
            self.author.execute(now(), count=AT_ONCE)
            await asyncio.sleep(0)
        self.author.write(now())
        self._written = time.monotonic()
        self._handover.end_block()

    def _hear(self, news: News) -> None:
        match news:
            case Executed():
                self._handover.executed(news)
            case Written():
                self._handover.written(news)
            case Justified():
                self._handover.justified(news)
            case _:
                assert_never(news)
