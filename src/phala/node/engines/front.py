"""The front's end of the socket to the builder: hands extrinsics over, and takes up its blocks.

The view grows from what the builder has committed, never from what it is about to: whatever the
front tells its clients survives a kill of both processes at any instant.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from phala.errors import PhalaError, Unavailable
from phala.node.chain import Growth, Pruned
from phala.node.engines import wire
from phala.node.engines.author import Justified, Reverted, Written
from phala.node.engines.handover import Handover
from phala.node.service import Node
from phala.primitives.types import BlockNumber

LOG: Final = logging.getLogger("phala.node.front")
FLUSH_S: Final = 0.004  # between two hand-overs: extrinsics gather meanwhile
READ_BYTES: Final = 1 << 18
CHEATS_MAX: Final = 16  # likewise
PROOFS_MAX: Final = 256  # asked for and not answered yet
STOP_S: Final = 5.0  # for the builder to end
STOP_PAUSE_S: Final = 0.01
DAMAGE: Final = (signal.SIGBUS, signal.SIGSEGV, signal.SIGABRT)  # what LMDB's reading ends in


class BuilderGone(Unavailable):
    """The other process of this node is no more."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the node's builder ended: {why}", mend="see its log; start the node")


def start_builder(
    run: Callable[[socket.socket], int], *, closing: Sequence[socket.socket]
) -> "Builder":
    """Begin the other process, before this one has threads, a loop or a store open.

    `closing` are sockets of this process alone: the other would keep them open.
    """
    ours, theirs = socket.socketpair()
    gc.collect()
    gc.freeze()  # what both processes have stays one memory while nobody writes to it
    pid = os.fork()
    if pid:
        theirs.close()
        return Builder(pid, ours)
    status = 1
    try:
        for each in (ours, *closing):
            each.close()
        status = run(theirs)
    except BaseException:
        LOG.exception("the builder failed")
    finally:
        os._exit(status)  # nothing of the parent's is to be ended here


class Builder:
    """The other process, as its parent has it."""

    def __init__(self, pid: int, link: socket.socket) -> None:
        self.pid = pid
        self.link = link
        self._frames = wire.Frames()
        self._status: int | None = None

    def wait_ready(self) -> tuple[str, str]:
        """Name and type of its chain, once it is open. Raises what the builder met."""
        while True:
            data = self.link.recv(READ_BYTES)
            for kind, payload in self._frames.feed(data):
                if kind == wire.READY:
                    name, chain_type = payload.decode().split("\0")
                    return name, chain_type
                assert kind == wire.FAILED
                raise wire.decode_failure(payload)
            if not data:
                raise BuilderGone(self.why())

    def why(self) -> str:
        """Waits for its end."""
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        code = os.waitstatus_to_exitcode(self._status)
        if -code in DAMAGE:
            return f"killed by signal {-code}, as where the store's file is damaged or cut off"
        return f"killed by signal {-code}" if code < 0 else f"exit status {code}"

    async def stop(self) -> None:
        """It ends by itself when the socket is closed, after what it is at."""
        self.link.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + STOP_S
        while self._status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)  # noqa: ASYNC222 - it does not wait
            if ended:
                self._status = status
                return
            if loop.time() > until:
                os.kill(self.pid, signal.SIGKILL)
            await asyncio.sleep(STOP_PAUSE_S)


class Front:
    """What the node's event loop has of the builder."""

    def __init__(self, node: Node, builder: Builder) -> None:
        self._node = node
        self._builder = builder
        self._handover = Handover(node)
        self._frames = wire.Frames()
        self._proofs: dict[int, asyncio.Future[tuple[bytes, ...] | None]] = {}
        self._cheats: dict[int, asyncio.Future[dict[str, Any] | PhalaError]] = {}
        self._asked = 0
        self._planned = False
        self._handed_s = 0.0  # when something was, by the loop's clock
        self._writer: asyncio.StreamWriter | None = None
        node.has_work = self._plan
        node.prove = self.prove
        node.cheat = self.cheat
        node.keys_changed = lambda: self._send(wire.KEYS, b"")

    async def run(self) -> None:
        """Take up blocks until cancelled. Raises `BuilderGone`, or what the builder met."""
        reader, writer = await asyncio.open_unix_connection(
            sock=self._builder.link, limit=READ_BYTES
        )
        self._writer = writer
        try:
            self._send(wire.SEEN, wire.encode_number(self._node.chain.head.number))
            self._plan()
            while True:
                data = await reader.read(READ_BYTES)
                if not data:
                    raise BuilderGone(await asyncio.to_thread(self._builder.why))
                for kind, payload in self._frames.feed(data):
                    await self._take_up(kind, payload)
        except ConnectionResetError:
            raise BuilderGone(await asyncio.to_thread(self._builder.why)) from None
        finally:
            self._writer = None
            writer.close()
            for future in self._proofs.values():
                future.cancel()
            for cheat in self._cheats.values():
                cheat.cancel()

    async def stop(self) -> None:
        """Wait for the builder's end."""
        await self._builder.stop()

    # ---- to the builder

    def _send(self, kind: int, payload: bytes) -> None:
        if self._writer is not None:
            self._writer.write(wire.frame(kind, payload))

    def _plan(self) -> None:
        """Something may be there to hand over: at once, or with what comes soon after the last.

        Each hand-over wakes the builder, and its answer this process: of a flood of transactions
        both would do little else.
        """
        if self._planned or self._writer is None:
            return
        self._planned = True
        loop = asyncio.get_running_loop()
        loop.call_at(self._handed_s + FLUSH_S, self._hand)  # in the past: at once

    def _hand(self) -> None:
        self._planned = False
        some = self._handover.next()
        if some:
            self._handed_s = asyncio.get_running_loop().time()
            self._send(wire.HAND, wire.encode_handed(some))

    async def prove(self, keys: Sequence[bytes], number: BlockNumber) -> tuple[bytes, ...]:
        """Raises `Pruned`; `Unavailable` where too many ask at once."""
        if len(self._proofs) >= PROOFS_MAX:
            raise Unavailable(f"{PROOFS_MAX} proofs are being made", mend="ask again later")
        self._asked = (self._asked + 1) & 0xFFFF_FFFF
        name = self._asked
        future = self._proofs[name] = asyncio.get_running_loop().create_future()
        self._send(wire.PROVE, wire.encode_prove(name, number, keys))
        try:
            found: tuple[bytes, ...] | None = await future
        finally:
            del self._proofs[name]
        if found is None:
            raise Pruned(number, self._node.chain.folded)
        return found

    async def cheat(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Ask what a development network's owner may ask. Raises what the builder met."""
        if len(self._cheats) >= CHEATS_MAX:
            raise Unavailable(f"{CHEATS_MAX} requests wait", mend="ask again later")
        reverting = request["do"] == "revert"
        if reverting and self._handover.paused:
            raise Unavailable("the chain is going back", mend="ask again later")
        self._asked = (self._asked + 1) & 0xFFFF_FFFF
        name = self._asked
        future = self._cheats[name] = asyncio.get_running_loop().create_future()
        if reverting:
            self._handover.paused = True
        self._send(wire.CHEAT, wire.encode_cheat(name, request))
        try:
            answer: dict[str, Any] | PhalaError = await future
        finally:
            del self._cheats[name]
            if reverting:
                self._handover.paused = False
                self._plan()
        if isinstance(answer, PhalaError):
            raise answer
        return answer

    # ---- from the builder

    async def _take_up(self, kind: int, payload: bytes) -> None:
        match kind:
            case wire.EXECUTED:
                self._handover.executed(wire.decode_executed(payload))
                self._plan()
            case wire.WRITTEN:
                await self._grow(payload)
            case wire.JUSTIFIED:
                number, justification = wire.decode_justified(payload)
                self._node.chain.store.renew()
                self._node.chain.finalized = number
                self._handover.justified(Justified(number, justification))
            case wire.END_BLOCK:
                self._handover.end_block()
                self._send(wire.SEEN, wire.encode_number(self._node.chain.head.number))
                self._hand()
            case wire.PROOF:
                name, proof = wire.decode_proof(payload)
                future = self._proofs.get(name)
                if future is not None and not future.done():
                    future.set_result(proof)
            case wire.REVERTED:
                self._shrink(wire.decode_number(payload))
            case wire.CHEATED:
                name, answer = wire.decode_cheated(payload)
                asked = self._cheats.get(name)
                if asked is not None and not asked.done():
                    asked.set_result(answer)
            case _:
                assert kind == wire.FAILED
                raise wire.decode_failure(payload)

    def _shrink(self, number: BlockNumber) -> None:
        chain = self._node.chain
        chain.store.renew()
        chain.shrink(number)
        self._handover.reverted(Reverted(number))
        self._send(wire.SEEN_REVERT, wire.encode_number(number))

    async def _grow(self, payload: bytes) -> None:
        """In steps, between which others may use the loop."""
        number, folded, fallen, created = wire.decode_written(payload)
        chain = self._node.chain
        chain.store.renew()
        chain.fold(folded)
        await asyncio.sleep(0)
        growth = Growth(chain.header(number), chain.store.changes(number), created, folded)
        await asyncio.sleep(0)
        chain.grow(growth)
        for _ in self._handover.written(Written(growth, fallen)):
            await asyncio.sleep(0)
