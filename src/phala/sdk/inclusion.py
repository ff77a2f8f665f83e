"""Waits until extrinsics stand in blocks, over restarts of the node.

A node that comes back has lost its pool, never its blocks: whatever was in neither is given to it
again. Bytes are the same each time, so nothing can happen twice.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from phala.errors import PhalaError, Refused, Unavailable
from phala.sdk.extrinsic import extrinsic_hash
from phala.sdk.rpc import Rpc, RpcRefused, bytes_of, hex_of

SILENCE_S_MAX: Final = 20.0  # blocks come every few seconds, work or none
AGAIN_BLOCKS: Final = 8  # a pool may drop what it had
DOUBT_BLOCKS: Final = 2  # after a refusal, the block that explains it may still be on its way
PAUSE_S: Final = 0.2
ALREADY_IMPORTED: Final = 1013


@dataclass(frozen=True, slots=True)
class Included:
    """Where an extrinsic stands."""

    number: int
    block_hash: bytes
    index: int


@dataclass(slots=True)
class Watched:
    extrinsic: bytes
    account: bytes | None
    nonce: int
    dies: int | None  # the first block that cannot hold it
    included: asyncio.Future[Included]
    asked_at: int = 0
    doubt: tuple[PhalaError, int] | None = None


@dataclass(slots=True)
class _Heights:
    seen: int = -1
    finalized: int = -1
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Inclusions:
    """Follows the chain while somebody waits."""

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self._watched: dict[bytes, Watched] = {}
        self._heights = _Heights()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Returns when every block written from now on will be looked at."""
        if not self._tasks:
            header = await self._rpc.call("chain_getHeader")
            self._heights.seen = header_number(header)
            self._tasks = [
                asyncio.create_task(self._follow("NewHeads", self._new_head)),
                asyncio.create_task(self._follow("FinalizedHeads", self._finalized_head)),
            ]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        for watched in self._watched.values():
            watched.included.cancel()
        self._watched.clear()

    def nonces(self, account: bytes) -> list[int]:
        """Of those that are under way."""
        return [each.nonce for each in self._watched.values() if each.account == account]

    async def watch(
        self, extrinsic: bytes, *, account: bytes | None, nonce: int, dies: int | None
    ) -> asyncio.Future[Included]:
        """Submit, and keep at it until it is included or cannot be any more.

        Raises:
            RpcRefused: the node does not take it.
        """
        await self.start()
        future: asyncio.Future[Included] = asyncio.get_running_loop().create_future()
        watched = Watched(extrinsic, account, nonce, dies, future, self._heights.seen)
        self._watched[extrinsic_hash(extrinsic)] = watched
        try:
            await self._rpc.call("author_submitExtrinsic", hex_of(extrinsic))
        except RpcRefused as refusal:
            # A first answer may have been lost with its connection, and this be the second.
            known = refusal.code == ALREADY_IMPORTED or await self._explained(watched)
            if not known:
                self._watched.pop(extrinsic_hash(extrinsic), None)
                raise
        except Unavailable:
            pass  # the follower submits it when the node is back
        return future

    async def _explained(self, watched: Watched) -> bool:
        """Whether a refused extrinsic stands in a block already written."""
        with contextlib.suppress(PhalaError):
            head = header_number(await self._rpc.call("chain_getHeader"))
            await self._scan(head)
        return watched.included.done()

    async def until_finalized(self, included: Included) -> None:
        while self._heights.finalized < included.number:
            self._heights.changed.clear()
            await self._heights.changed.wait()
        found = bytes_of(await self._rpc.call("chain_getBlockHash", included.number))
        if found != included.block_hash:
            raise Unavailable(
                f"block {included.number} was replaced before it was final", mend="submit again"
            )

    # ---- following

    async def _follow(self, which: str, handle: Callable[[int], Awaitable[None]]) -> None:
        restarted = False
        while True:
            try:
                subscription = await self._rpc.subscribe(
                    f"chain_subscribe{which}", f"chain_unsubscribe{which}"
                )
                try:
                    while True:
                        async with asyncio.timeout(SILENCE_S_MAX):
                            header = await anext(subscription)
                        await handle(header_number(header))
                        if restarted:
                            restarted = False
                            await self._submit_again(lambda _: True)
                finally:
                    await subscription.close()
            except (PhalaError, TimeoutError):
                restarted = which == "NewHeads"
                await asyncio.sleep(PAUSE_S)

    async def _new_head(self, number: int) -> None:
        await self._scan(number)
        for key, watched in list(self._watched.items()):
            error = None
            if watched.doubt and number >= watched.doubt[1]:
                error = watched.doubt[0]
            elif watched.dies is not None and number >= watched.dies:
                error = Refused(
                    f"no block up to {number} took the extrinsic", mend="submit it again"
                )
            if error is not None:
                del self._watched[key]
                if not watched.included.done():
                    watched.included.set_exception(error)
        await self._submit_again(lambda each: number - each.asked_at >= AGAIN_BLOCKS)

    async def _finalized_head(self, number: int) -> None:
        self._heights.finalized = max(self._heights.finalized, number)
        self._heights.changed.set()

    async def _submit_again(self, due: Callable[[Watched], bool]) -> None:
        for watched in [each for each in self._watched.values() if due(each)]:
            watched.asked_at = self._heights.seen
            try:
                await self._rpc.call("author_submitExtrinsic", hex_of(watched.extrinsic))
                watched.doubt = None
            except RpcRefused as refusal:
                if refusal.code != ALREADY_IMPORTED and watched.doubt is None:
                    watched.doubt = refusal, self._heights.seen + DOUBT_BLOCKS

    async def _scan(self, head: int) -> None:
        """Look into each block up to the head; `seen` moves only behind what was looked at."""
        while self._heights.seen < head:
            number = self._heights.seen + 1
            if self._watched:
                block_hash = bytes_of(await self._rpc.call("chain_getBlockHash", number))
                block = await self._rpc.call("chain_getBlock", hex_of(block_hash))
                self._settle(number, block_hash, block_extrinsics(block))
            self._heights.seen = max(self._heights.seen, number)

    def _settle(self, number: int, block_hash: bytes, extrinsics: list[bytes]) -> None:
        for index, extrinsic in enumerate(extrinsics):
            watched = self._watched.pop(extrinsic_hash(extrinsic), None)
            if watched is not None and not watched.included.done():
                watched.included.set_result(Included(number, block_hash, index))


def header_number(header: Any) -> int:
    try:
        return int(header["number"], 16)
    except (TypeError, KeyError, ValueError):
        raise Unavailable("the node answered no header", mend="ask another node") from None


def block_extrinsics(block: Any) -> list[bytes]:
    try:
        extrinsics = list(block["block"]["extrinsics"])
    except (TypeError, KeyError):
        raise Unavailable("the node answered no block", mend="ask another node") from None
    return [bytes_of(extrinsic) for extrinsic in extrinsics]
