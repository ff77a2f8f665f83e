"""The builder's process: it has the trie, makes blocks of what the front hands over, commits them,
and says so. It ends when the front does.
"""

import gc
import logging
import os
import select
import signal
import socket
import time
from pathlib import Path
from typing import Any, Final, assert_never

from phala.errors import PhalaError
from phala.node.chain import Pruned
from phala.node.engines import wire
from phala.node.engines.author import WORK_S, Author, Executed, Justified, News, Reverted, Written
from phala.node.engines.dev import Cheats, NotADevChain, is_dev
from phala.node.engines.opening import Opened, open_chain, runtimes_of, store_of
from phala.node.halves import OtherHalf, is_large
from phala.node.keys import load_grandpa_keys
from phala.node.runtimes.table import Runtimes
from phala.node.service import now
from phala.node.store import InUse
from phala.node.writer import Writer
from phala.primitives.types import Moment

LOG: Final = logging.getLogger("phala.node.builder")
READ_BYTES: Final = 1 << 18
AT_ONCE: Final = 32  # extrinsics; then the socket is looked at again
STORE_S_MAX: Final = 5.0  # for the builder of a killed node to end
STORE_PAUSE_S: Final = 0.05
GC_BLOCKS: Final = 16  # between two full collections


class Builder:
    """One end of the socket."""

    def __init__(
        self,
        front: socket.socket,
        folder: Path,
        spec: Path,
        *,
        archive: bool,
        half: OtherHalf | None = None,
    ) -> None:
        self._front = front
        self._folder = folder
        self._frames = wire.Frames()
        runtimes = runtimes_of(folder)
        opened = _opened(folder, spec, runtimes, archive=archive, half=half)
        self._chain = opened.chain
        self._chain.others_at = -1
        self._author = Author(Writer(self._chain, runtimes), opened.keys, self._tell)
        dev = is_dev(self._chain, opened.chain_type)
        self._cheats = Cheats(self._author, now()) if dev else None
        self._mining = 0  # the name of the request for it
        self._forgotten = False  # blocks, and the front has not taken that up
        self._written = time.monotonic() - WORK_S
        self._said: list[bytes] = []
        self._send(wire.READY, f"{opened.name}\0{opened.chain_type}".encode())

    def run(self) -> None:
        """Build until the front is gone."""
        while self._chain.others_at is not None and self._chain.others_at < 0:
            if not self._read():
                return
        while True:
            if self._cheats is not None and self._cheats.is_mining:
                if select.select([self._front], [], [], 0)[0] and not self._read():
                    return
                self._mine(self._cheats)
                continue
            due_s = self._written + self._author.pace_s - time.monotonic()
            if due_s <= 0:
                self._write()
                continue
            wait_s = 0.0 if self._author.can_execute else due_s
            if select.select([self._front], [], [], wait_s)[0] and not self._read():
                return
            if self._author.can_execute:
                self._author.execute(self._clock(), count=AT_ONCE)
                self._flush()

    def _write(self) -> None:
        self._author.write(self._clock())
        self._end_block()

    def _clock(self) -> Moment:
        return now() if self._cheats is None else self._cheats.clock(now())

    def _end_block(self) -> None:
        self._written = time.monotonic()
        self._send(wire.END_BLOCK, b"")
        if self._cheats is not None:
            self._cheats.written()
        if self._chain.head.number % GC_BLOCKS == 0:
            gc.collect()

    def _read(self) -> bool:
        """Whether the front is still there."""
        data = self._front.recv(READ_BYTES)
        for kind, payload in self._frames.feed(data):
            if kind == wire.HAND:
                self._author.hand(wire.decode_handed(payload), seen=self._chain.others_at)
            elif kind == wire.SEEN:
                if not self._forgotten:
                    self._chain.others_at = wire.decode_number(payload)
            elif kind == wire.SEEN_REVERT:
                self._forgotten = False
                self._chain.others_at = wire.decode_number(payload)
            elif kind == wire.KEYS:
                self._take_keys()
            elif kind == wire.CHEAT:
                self._cheat(payload)
            else:
                assert kind == wire.PROVE
                self._prove(payload)
        return bool(data)

    def _take_keys(self) -> None:
        try:
            self._author.use(load_grandpa_keys(self._folder))
        except PhalaError as error:  # those of before still do
            LOG.warning("keys are not taken: %s", error)

    def _cheat(self, payload: bytes) -> None:
        name, request = wire.decode_cheat(payload)
        head = self._chain.head.number
        answer: dict[str, Any] | PhalaError | None
        try:
            if self._cheats is None:
                raise NotADevChain
            answer = self._cheats.ask(request, now())
        except PhalaError as error:
            answer = error
        if self._chain.head.number > head:
            self._end_block()  # the open one was written
        if answer is None:
            self._mining = name
        else:
            self._send(wire.CHEATED, wire.encode_cheated(name, answer))

    def _mine(self, cheats: Cheats) -> None:
        answer = cheats.mine_one(now())
        self._end_block()
        if answer is not None:
            self._send(wire.CHEATED, wire.encode_cheated(self._mining, answer))

    def _prove(self, payload: bytes) -> None:
        name, number, keys = wire.decode_prove(payload)
        try:
            proof = self._chain.prove(keys, number)
        except Pruned:
            proof = None
        self._send(wire.PROOF, wire.encode_proof(name, proof))

    def _tell(self, news: News) -> None:
        match news:
            case Executed():
                self._said.append(wire.frame(wire.EXECUTED, wire.encode_executed(news)))
            case Written(growth, fallen):
                written = wire.encode_written(
                    growth.header.number, growth.folded, fallen, growth.created
                )
                self._send(wire.WRITTEN, written)
            case Justified(number, justification):
                self._send(wire.JUSTIFIED, wire.encode_justified(number, justification))
            case Reverted(number):
                self._forgotten = True
                self._chain.others_at = -1
                self._send(wire.REVERTED, wire.encode_number(number))
            case _:
                assert_never(news)

    def _send(self, kind: int, payload: bytes) -> None:
        self._said.append(wire.frame(kind, payload))
        self._flush()

    def _flush(self) -> None:
        said, self._said = b"".join(self._said), []
        self._front.sendall(said)


def _opened(
    folder: Path, spec: Path, runtimes: Runtimes, *, archive: bool, half: OtherHalf | None
) -> Opened:
    until = time.monotonic() + STORE_S_MAX
    while True:
        try:
            return open_chain(folder, spec, runtimes, archive=archive, half=half)
        except InUse:
            if time.monotonic() > until:
                raise
            time.sleep(STORE_PAUSE_S)


def run(front: socket.socket, folder: Path, spec: Path, *, archive: bool) -> int:
    """The process's whole life; its exit status."""
    # A terminal's Ctrl-C goes to both processes: the front ends this one, by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gc.disable()  # it collects at the edges of blocks; what a start makes stays
    store, half = store_of(folder), None
    if is_large(store) and len(os.sched_getaffinity(0)) > 1:
        half = OtherHalf.start(store, closing=[front])
    try:
        builder = Builder(front, folder, spec, archive=archive, half=half)
    except PhalaError as error:
        front.sendall(wire.frame(wire.FAILED, wire.encode_failure(error)))
        return error.exit_code
    finally:
        if half is not None:
            half.close()
    gc.collect()
    gc.freeze()  # the trie and the tables stay: the collector need not walk them
    try:
        builder.run()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the front is gone
    except PhalaError as error:
        front.sendall(wire.frame(wire.FAILED, wire.encode_failure(error)))
        return error.exit_code
    return 0
