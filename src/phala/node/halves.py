"""Builds the trie of a large state in two processes: a child makes what is above the upper half of
the accounts, which are most of such a state.

The root that comes of it is held against the head's header, as always.
"""

import gc
import logging
import os
import signal
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from phala.errors import PhalaError, Unavailable
from phala.node.store import Store
from phala.primitives.keys import storage_prefix
from phala.trie import Layout, Trie
from phala.trie.branch import Opening, build_part
from phala.trie.parts import decode_part, encode_part

LOG: Final = logging.getLogger("phala.node.halves")
HALVED_BYTES_MIN: Final = 32 * 1024 * 1024  # of a store: some 200,000 accounts, half a second
ACCOUNTS: Final = storage_prefix("System", "Account")
MIDDLE: Final = ACCOUNTS + b"\x80"
END: Final = ACCOUNTS[:-1] + bytes((ACCOUNTS[-1] + 1,))  # after all accounts
DEPTH: Final = 2 * len(ACCOUNTS)
BEGIN: Final = b"b"
_SIZE: Final = struct.Struct("<Q")


class HalfGone(Unavailable):
    """The child ended without an answer."""

    def __init__(self) -> None:
        super().__init__("the process that builds a half ended", mend="build the whole here")


class OtherHalf:
    """A child that waits to be told that the store is there and nobody else writes to it."""

    def __init__(self, link: socket.socket, pid: int) -> None:
        self._link = link
        self.pid = pid

    @classmethod
    def start(cls, folder: Path, *, closing: Sequence[socket.socket] = ()) -> "OtherHalf":
        """Fork it, before this process has threads or a store open.

        `closing` are sockets of this process alone: the child would keep them open.
        """
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid:
            theirs.close()
            return cls(ours, pid)
        try:
            for each in (ours, *closing):
                each.close()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            gc.disable()  # it lives for seconds
            serve(theirs, folder)
        finally:
            os._exit(0)

    def begin(self) -> None:
        """The store is open here, and stays as it is until the part is taken."""
        try:
            self._link.sendall(BEGIN)
        except OSError:
            raise HalfGone from None

    def take(self) -> Opening:
        """Wait for the part. Raises `HalfGone`."""
        (size,) = _SIZE.unpack(self._read(_SIZE.size))
        return decode_part(self._read(size))

    def _read(self, size: int) -> bytes:
        try:
            data = self._link.recv(size, socket.MSG_WAITALL)
        except ConnectionResetError:
            raise HalfGone from None
        if len(data) < size:
            raise HalfGone
        return data

    def close(self) -> None:
        """End it, and wait for that."""
        self._link.close()
        os.waitpid(self.pid, 0)


def is_large(folder: Path) -> bool:
    """Whether two processes are worth it."""
    try:
        return (folder / "data.mdb").stat().st_size >= HALVED_BYTES_MIN
    except OSError:
        return False


def serve(link: socket.socket, folder: Path) -> None:
    """The child's whole life."""
    try:
        if link.recv(len(BEGIN)) != BEGIN:
            return
        store = Store(folder, reader=True)
        part = build_part(store.flat_items(MIDDLE, END), Layout.V1, DEPTH)
        store.close()
        if part is not None:
            data = encode_part(part)
            link.sendall(_SIZE.pack(len(data)))
            link.sendall(data)
    except (OSError, PhalaError) as error:  # it is built without this process, then
        LOG.warning("half of the trie is not built: %s", error)


def build_trie(store: Store, half: OtherHalf | None) -> Trie:
    """The trie of the flat table."""
    lowest = next(store.flat_keys(ACCOUNTS), END)
    if half is not None and lowest < MIDDLE:
        try:
            half.begin()
            return Trie.build_around(
                store.flat_items(end=MIDDLE), half.take, store.flat_items(END), Layout.V1, DEPTH
            )
        except HalfGone as error:
            LOG.warning("%s", error)
    return Trie.build(store.flat_items(), Layout.V1)
