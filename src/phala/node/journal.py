"""Transactions that the pool took in, on disk: they wait again after a restart or a kill.

The file only grows. A transaction is copied into a page of it, which the process shares with the
system, before its sender is answered: what was accepted survives the process, not a power cut. Now
and then the file is written anew with what still waits. A record is its length (4 bytes,
little-endian) and its bytes; its length is written last, so nothing torn is ever read. Zeros
follow, up to where the file's room ends.
"""

import asyncio
import contextlib
import logging
import mmap
import os
from pathlib import Path
from typing import Final

from phala.errors import PhalaError, Refused, Unavailable
from phala.node.blobs import encode_list
from phala.node.core.pool import READY_BYTES_MAX, READY_MAX
from phala.node.service import Node
from phala.primitives.extrinsic import EXTRINSIC_BYTES_MAX

LOG: Final = logging.getLogger("phala.node.journal")
REWRITE_BYTES: Final = 8 * 1024 * 1024  # written since the last time, and twice what waits
FILE_BYTES_MAX: Final = 4 * READY_BYTES_MAX
ROOM_BYTES: Final = 1024 * 1024  # taken from the disk at once
SIZE_BYTES: Final = 4  # of a record's length
AT_ONCE: Final = 8  # submitted again; then others may use the loop


class Journal:
    """One file; its node writes it."""

    def __init__(self, path: Path, node: Node) -> None:
        self._path = path
        self._node = node
        self._kept = load(path)
        self._room: mmap.mmap | None = None  # from `_start` of the file on
        self._start = 0
        self._at = path.stat().st_size if path.exists() else 0  # where the next record goes
        self._small = REWRITE_BYTES  # it is not written anew up to here
        node.taken_in = self.keep

    def keep(self, data: bytes) -> None:
        """Write it: whoever sent it may hear that it was accepted."""
        size = len(data)
        at = self._at - self._start
        end = at + SIZE_BYTES + size
        room = self._room
        if room is None or end > len(room):
            try:
                room = self._more_room(SIZE_BYTES + size)
            except (OSError, ValueError) as error:  # the chain goes on; what waits is not the chain
                LOG.warning("not kept for a restart: %s", error)
                return
            at, end = self._at - self._start, self._at - self._start + SIZE_BYTES + size
        room[at + SIZE_BYTES : end] = data
        room[at : at + SIZE_BYTES] = size.to_bytes(SIZE_BYTES, "little")
        self._at += SIZE_BYTES + size
        if self._at > self._small and self._at > 2 * self._node.pool.ready_bytes:
            self._rewrite()

    def _more_room(self, needed: int) -> mmap.mmap:
        """Raises `OSError` where the disk is full: writing to a page that is none kills."""
        start = self._at - self._at % mmap.ALLOCATIONGRANULARITY
        size = max(ROOM_BYTES, self._at - start + needed)
        with self._path.open("ab") as file:
            os.posix_fallocate(file.fileno(), start, size)
        with self._path.open("r+b") as file:
            room = mmap.mmap(file.fileno(), size, offset=start)
        self._leave()
        self._room, self._start = room, start
        return room

    def _leave(self) -> None:
        if self._room is not None:
            self._room.close()
            self._room = None

    def _rewrite(self) -> None:
        pool = self._node.pool
        partial = self._path.with_suffix(".new")
        try:
            with partial.open("wb") as out:
                out.write(encode_list(pool.data()))
                out.write(encode_list(pool.future_data()))
                at = out.tell()
            partial.replace(self._path)
        except OSError as error:
            LOG.warning("the journal is not written anew: %s", error)
            self._small = self._at + REWRITE_BYTES  # tried again later
            return
        self._leave()
        self._at, self._small = at, REWRITE_BYTES

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
        self._leave()


def load(path: Path) -> list[bytes]:
    """The newest whole records of a file, no more than a pool takes."""
    try:
        size = path.stat().st_size
        if size > FILE_BYTES_MAX:
            raise Refused(f"{path} has {size} bytes", mend="remove it")
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Unavailable(
            f"{path} is not read: {error.strerror}", mend="mend its rights, or remove it"
        ) from None
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
