"""One authority in the process of its node: for tests, and for a whole network in one process.

A block when there is work, its justification when the next one is written.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, assert_never

from phala.crypto.signatures import Keypair
from phala.node.chain import Chain
from phala.node.engines.author import (
    WORK_S,
    Author,
    Executed,
    Handed,
    Justified,
    News,
    Reverted,
    Written,
)
from phala.node.engines.dev import Cheats, NotADevChain
from phala.node.engines.handover import AT_ONCE, Handover
from phala.node.keys import load_grandpa_keys
from phala.node.service import Node, now
from phala.node.writer import Writer
from phala.primitives.types import BlockNumber, Moment

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
        self.cheats: Cheats | None = None  # on a development network
        node.cheat = self._cheat
        node.keys_changed = self._use_keys

    async def _prove(self, keys: Sequence[bytes], number: BlockNumber) -> tuple[bytes, ...]:
        return self._chain.prove(keys, number)

    def _use_keys(self) -> None:
        self.author.use(load_grandpa_keys(self._chain.store.folder.parent))

    async def _cheat(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if self.cheats is None:
            raise NotADevChain
        answer = self.cheats.ask(request, now())
        while answer is None:
            self._hand()
            answer = self.cheats.mine_one(now())
            self._handover.end_block()
            self.cheats.written()
            await asyncio.sleep(0)
        return answer

    def _hand(self) -> None:
        some = self._handover.next()
        self.author.hand(Handed(each.data, each.valid_till, each.decoded) for each in some)

    def _clock(self) -> Moment:
        return now() if self.cheats is None else self.cheats.clock(now())

    async def run(self) -> None:
        """Write blocks until cancelled."""
        while True:
            await self._wait()
            await self.write()

    async def _wait(self) -> None:
        while True:
            self._hand()
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
            self._hand()
            if not self.author.can_execute:
                break
            self.author.execute(self._clock(), count=AT_ONCE)
            await asyncio.sleep(0)
        self.author.write(self._clock())
        self._written = time.monotonic()
        self._handover.end_block()
        if self.cheats is not None:
            self.cheats.written()

    def _hear(self, news: News) -> None:
        match news:
            case Executed():
                self._handover.executed(news)
            case Written():
                for _ in self._handover.written(news):
                    pass
            case Justified():
                self._handover.justified(news)
            case Reverted():
                self._handover.reverted(news)
            case _:
                assert_never(news)
