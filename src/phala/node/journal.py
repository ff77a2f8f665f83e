"""Transactions that the pool took in, on disk: they wait again after a restart or a kill.

The file only grows, a write for each transaction before its sender is answered, without a sync:
what was accepted survives the process, not a power cut. Now and then it is written anew with what
still waits. A record is its length (4 bytes, little-endian) and its bytes; what follows a torn one
is not read.
"""

import asyncio
import contextlib
import logging
import os
from pathlib import Path
from typing import Final

from phala.errors import PhalaError, Refused
from phala.node.blobs import encode_list
from phala.node.core.pool import READY_BYTES_MAX, READY_MAX
from phala.node.service import Node
from phala.primitives.extrinsic import EXTRINSIC_BYTES_MAX

LOG: Final = logging.getLogger("phala.node.journal")
REWRITE_BYTES: Final = 8 * 1024 * 1024  # written since the last time, and twice what waits
FILE_BYTES_MAX: Final = 4 * READY_BYTES_MAX
AT_ONCE: Final = 8  # submitted again; then others may use the loop


class Journal:
    """One file; its node writes it."""

    def __init__(self, path: Path, node: Node) -> None:
        self._path = path
        self._node = node
        self._kept = load(path)
        self._file = path.open("ab", buffering=0)
        self._bytes = self._file.tell()
        node.taken_in = self.keep

    def keep(self, data: bytes) -> None:
        """Write it: whoever sent it may hear that it was accepted."""
        record = encode_list((data,))
        try:
            self._file.write(record)
        except OSError as error:  # the chain goes on; what waits is not the chain
            LOG.warning("not kept for a restart: %s", error)
        self._bytes += len(record)
        if self._bytes > max(REWRITE_BYTES, 2 * self._node.pool.ready_bytes):
            self._rewrite()

    def _rewrite(self) -> None:
        pool = self._node.pool
        partial = self._path.with_suffix(".new")
        try:
            with partial.open("wb") as out:
                out.write(encode_list(pool.data()))
                out.write(encode_list(pool.future_data()))
            partial.replace(self._path)
            self._file.close()
            self._file = self._path.open("ab", buffering=0)
            self._bytes = self._file.tell()
        except OSError as error:
            LOG.warning("the journal is not written anew: %s", error)
            self._bytes = 0  # try again later

    async def submit_again(self) -> None:
        """What waited when the node ended, a few at a time. Much of it is in blocks by now."""
        kept, self._kept = self._kept, []
        taken = 0
        for place, data in enumerate(kept):
            with contextlib.suppress(PhalaError):
                self._node.submit(data)
                taken += 1
            if place % AT_ONCE == AT_ONCE - 1:
                await asyncio.sleep(0)
        if kept:
            self._rewrite()
            LOG.info("%d of %d transactions of the journal wait again", taken, len(kept))

    def close(self) -> None:
        self._file.close()


def load(path: Path) -> list[bytes]:
    """The newest whole records of a file, no more than a pool takes."""
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise Refused(f"{path} has {size} bytes", mend="remove it")
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    out = []
    at = 0
    while at + 4 <= len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        if not 0 < size <= EXTRINSIC_BYTES_MAX or at + 4 + size > len(data):
            break
        out.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    if at < len(data):
        os.truncate(path, at)  # what is torn stays the last
    return out[-READY_MAX:]
