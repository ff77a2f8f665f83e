"""One authority: a block when there is work, its justification when the next one is written.

A block is committed before it is signed, so a kill in between can never finalize two blocks of one
number. Finality lags the head by a block: clients that hear of both at once lose the first.
"""

import asyncio
import logging
import time
from typing import Final

from phala.crypto.signatures import Keypair, ed25519_sign
from phala.errors import Refused
from phala.finality import JUSTIFICATION, Justification, Precommit, SetId, signed_precommit
from phala.node.core.pool import Pooled
from phala.node.service import Node, now
from phala.primitives.types import BlockNumber
from phala.runtime import BlockBuilder, InvalidTransaction, Problem
from phala.trie import State

LOG: Final = logging.getLogger("phala.node.solo")
WORK_S: Final = 0.5  # between two blocks while there is work
BACKLOG_S: Final = 0.1  # after a block that had no room for all; clients need 50 ms, as above
IDLE_S: Final = 3.0
BUILD_S_MAX: Final = 0.4  # executing; what is left goes into the next block
SLICE_S: Final = 0.02  # of executing; then others may use the loop
SET_ID: Final = SetId(0)


def ensure_authority(key: Keypair, authorities: tuple[bytes, ...]) -> Keypair:
    """The key, or `Refused` where it is not the chain's one authority."""
    if authorities != (key.public,):
        raise Refused(
            f"the chain's authorities are {[each.hex() for each in authorities]}, "
            f"this node's key is {key.public.hex()}",
            mend="put the authority's key into this node's folder",
        )
    return key


class _Spoilt(Exception):
    """Applying a transaction failed otherwise than by a refusal."""

    def __init__(self, by: Pooled) -> None:
        super().__init__()
        self.by = by


class Solo:
    """Writes blocks on the head of one node."""

    def __init__(self, node: Node, key: Keypair) -> None:
        self.node = node
        self.key = key
        self._wake = asyncio.Event()
        self._written = time.monotonic() - WORK_S
        self._backlog = False  # the head had no room for all that waited
        self._work_on_top = len(node.chain.store.body(node.chain.head.number)) > 1

    def wake(self) -> None:
        """There may be work."""
        self._wake.set()

    async def run(self) -> None:
        """Write blocks until cancelled."""
        while True:
            await self._wait()
            await self.write()

    async def _wait(self) -> None:
        while True:
            busy = len(self.node.pool) > 0 or self._work_on_top
            work_s = BACKLOG_S if self._backlog else WORK_S
            left = self._written + (work_s if busy else IDLE_S) - time.monotonic()
            if left <= 0:
                return
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                return
            if busy:  # already as soon as may be
                await asyncio.sleep(max(0, self._written + work_s - time.monotonic()))
                return

    async def write(self) -> None:
        """Write one block on the head, then finalize the head before it."""
        chain, runtime = self.node.chain, self.node.runtime
        parent = chain.head
        until = time.monotonic() + BUILD_S_MAX
        while True:
            builder = runtime.open_block(State(chain.next_base()), parent)
            inherents = builder.inherents(now())
            for inherent in inherents:
                builder.apply(inherent)
            try:
                taken = await self._fill(builder, until)
            except _Spoilt as spoilt:
                LOG.exception("a transaction broke the block: 0x%s", spoilt.by.hash.hex())
                self._drop_spoiler(spoilt.by)
                await asyncio.sleep(0)
            else:
                break
        sealed = builder.seal(chain.root_with)
        chain.append(
            sealed.header,
            sealed.body,
            sealed.changes,
            tuple((each.topic, each.count, each.envelope) for each in sealed.messages),
        )
        self._written = time.monotonic()
        self._work_on_top = len(sealed.body) > len(inherents)
        self.node.included(sealed.header, frozenset(key for key, _ in sealed.changes), taken)
        for number in range(chain.finalized + 1, parent.number + 1):
            self.finalize(BlockNumber(number))
        self.node.revalidate()

    def _drop_spoiler(self, spoiler: Pooled) -> None:
        """A bug of ours that one transaction meets must not end the node, nor come back."""
        refusal = InvalidTransaction(
            Problem.CALL,
            why="the node met an error of its own while applying it",
            mend="report it with the node's log; send nothing like it meanwhile",
        )
        self.node.drop(spoiler.hash, refusal)

    async def _fill(self, builder: BlockBuilder, until: float) -> list[Pooled]:
        """Apply what is ready; the transactions that are in the block.

        Raises:
            _Spoilt: one failed half-way, so the builder's state is nobody's: throw it away.
        """
        taken: list[Pooled] = []
        self._backlog = False
        pause = time.monotonic() + SLICE_S
        for each in self.node.pool.in_order():
            if each.valid_till <= builder.number - 1:
                continue  # its signature may be of another era; `revalidate` looks at it
            if time.monotonic() > until:  # also when builders before this one took the time
                self._backlog = True
                break
            try:
                builder.apply(each.data, check_signature=False, decoded=each.decoded)
            except InvalidTransaction as refusal:
                if refusal.problem is Problem.EXHAUSTS_RESOURCES:
                    self._backlog = True
                    break
                if refusal.problem is not Problem.FUTURE:
                    LOG.info("not included: %s", refusal)
                    self.node.drop(each.hash, refusal)
            except Exception as error:
                raise _Spoilt(each) from error
            else:
                taken.append(each)
            if time.monotonic() > pause:
                await asyncio.sleep(0)
                pause = time.monotonic() + SLICE_S
        return taken

    def finalize(self, number: BlockNumber) -> None:
        """Sign a committed block, commit its justification, then tell of it."""
        block = self.node.chain.header(number).hash()
        round_ = number + 1
        message = signed_precommit(number, block, round_, SET_ID)
        vote = Precommit(block, number, ed25519_sign(self.key, message), self.key.public)
        justification = JUSTIFICATION.encode(Justification(round_, block, number, (vote,)))
        self.node.chain.finalize(number, justification)
        self.node.finalized(number, justification)
