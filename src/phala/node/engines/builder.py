"""The builder's process: it has the trie, makes blocks of what the front hands over, commits them,
and says so. It ends when the front does.
"""

import gc
import logging
import select
import signal
import socket
import time
from pathlib import Path
from typing import Final, assert_never

from phala.errors import PhalaError
from phala.node.chain import Pruned
from phala.node.engines import wire
from phala.node.engines.author import WORK_S, Author, Executed, Justified, News, Written
from phala.node.engines.opening import Opened, open_chain, runtimes_of
from phala.node.runtimes.table import Runtimes
from phala.node.service import now
from phala.node.store import InUse
from phala.node.writer import Writer

LOG: Final = logging.getLogger("phala.node.builder")
READ_BYTES: Final = 1 << 18
AT_ONCE: Final = 32  # extrinsics; then the socket is looked at again
STORE_S_MAX: Final = 5.0  # for the builder of a killed node to end
STORE_PAUSE_S: Final = 0.05
GC_BLOCKS: Final = 16  # between two full collections


class Builder:
    """One end of the socket."""

    def __init__(self, front: socket.socket, folder: Path, spec: Path, *, archive: bool) -> None:
        self._front = front
        self._frames = wire.Frames()
        runtimes = runtimes_of(folder)
        opened = _opened(folder, spec, runtimes, archive=archive)
        self._chain = opened.chain
        self._chain.others_at = -1
        self._author = Author(Writer(self._chain, runtimes), opened.keys, self._tell)
        self._written = time.monotonic() - WORK_S
        self._said: list[bytes] = []
        self._send(wire.READY, f"{opened.name}\0{opened.chain_type}".encode())

    def run(self) -> None:
        """Build until the front is gone."""
        while self._chain.others_at is not None and self._chain.others_at < 0:
            if not self._read():
                return
        while True:
            due_s = self._written + self._author.pace_s - time.monotonic()
            if due_s <= 0:
                self._write()
                continue
            wait_s = 0.0 if self._author.can_execute else due_s
            if select.select([self._front], [], [], wait_s)[0] and not self._read():
                return
            if self._author.can_execute:
                self._author.execute(now(), count=AT_ONCE)
                self._flush()

    def _write(self) -> None:
        self._author.write(now())
        self._written = time.monotonic()
        self._send(wire.END_BLOCK, b"")
        if self._chain.head.number % GC_BLOCKS == 0:
            gc.collect()

    def _read(self) -> bool:
        """Whether the front is still there."""
        data = self._front.recv(READ_BYTES)
        for kind, payload in self._frames.feed(data):
            if kind == wire.HAND:
                self._author.hand(wire.decode_handed(payload), seen=self._chain.others_at)
            elif kind == wire.SEEN:
                self._chain.others_at = wire.decode_number(payload)
            else:
                assert kind == wire.PROVE
                self._prove(payload)
        return bool(data)

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
            case _:
                assert_never(news)

    def _send(self, kind: int, payload: bytes) -> None:
        self._said.append(wire.frame(kind, payload))
        self._flush()

    def _flush(self) -> None:
        said, self._said = b"".join(self._said), []
        self._front.sendall(said)


def _opened(folder: Path, spec: Path, runtimes: Runtimes, *, archive: bool) -> Opened:
    until = time.monotonic() + STORE_S_MAX
    while True:
        try:
            return open_chain(folder, spec, runtimes, archive=archive)
        except InUse:
            if time.monotonic() > until:
                raise
            time.sleep(STORE_PAUSE_S)


def run(front: socket.socket, folder: Path, spec: Path, *, archive: bool) -> int:
    """The process's whole life; its exit status."""
    # A terminal's Ctrl-C goes to both processes: the front ends this one, by closing the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        builder = Builder(front, folder, spec, archive=archive)
    except PhalaError as error:
        front.sendall(wire.frame(wire.FAILED, wire.encode_failure(error)))
        return error.exit_code
    gc.collect()
    gc.freeze()  # the trie and the tables stay: the collector need not walk them
    gc.disable()  # but at the edges of blocks
    try:
        builder.run()
    except (BrokenPipeError, ConnectionResetError):
        return 0  # the front is gone
    except PhalaError as error:
        front.sendall(wire.frame(wire.FAILED, wire.encode_failure(error)))
        return error.exit_code
    return 0
