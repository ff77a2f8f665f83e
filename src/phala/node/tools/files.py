"""Files that stores exchange: records in order, each sealed by a hash over all before it.

    magic 16 bytes | record ... | end record
    record = kind u8 | size u32 little-endian | payload | check 16 bytes
    check' = blake2_128(check | kind | payload), check before the first = blake2_128(magic)
    end record = kind 0, payload: how many records came before it, u64 little-endian

So a file that is cut, altered, or has two parts exchanged is known for it at that record.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from phala.crypto.hashes import blake2_128
from phala.errors import Invalid, Unavailable

MAGIC_BYTES: Final = 16
CHECK_BYTES: Final = 16
RECORD_BYTES_MAX: Final = 64 * 1024 * 1024  # a block and its proof are far under it
END: Final = 0


class BadFile(Invalid):
    """The file is not what was written."""

    def __init__(self, path: Path, offset: int, what: str) -> None:
        super().__init__(
            f"{path.name}, byte {offset}: {what}", mend="fetch or write the file again"
        )
        self.offset = offset


def magic(name: str, version: int) -> bytes:
    """The first bytes of a kind of file."""
    found = f"phala {name} {version}\n".encode()
    assert len(found) <= MAGIC_BYTES
    return found.ljust(MAGIC_BYTES, b"\0")


class Records:
    """A file being written."""

    def __init__(self, file: BinaryIO, front: bytes) -> None:
        self._file = file
        self._check = blake2_128(front)
        self.count = 0
        file.write(front)

    def put(self, kind: int, payload: bytes) -> None:
        assert kind != END
        self._put(kind, payload)
        self.count += 1

    def end(self) -> None:
        self._put(END, self.count.to_bytes(8, "little"))

    def _put(self, kind: int, payload: bytes) -> None:
        assert len(payload) <= RECORD_BYTES_MAX
        head = bytes([kind])
        self._check = blake2_128(self._check + head + payload)
        self._file.write(head + len(payload).to_bytes(4, "little") + payload + self._check)


@contextmanager
def writing(path: Path, front: bytes) -> Iterator[Records]:
    """The whole file or, after a kill or an error, the one before it."""
    partial = path.with_name(path.name + ".new")
    try:
        with partial.open("wb") as file:
            records = Records(file, front)
            yield records
            records.end()
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise Unavailable(
            f"{path} is not written: {error.strerror}", mend="check its folder and the disk's space"
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def read(path: Path, front: bytes) -> Iterator[tuple[int, bytes]]:
    """Each record's kind and payload, once its check holds.

    Raises:
        BadFile: the file is of another kind or version, damaged, or cut.
        Unavailable: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            yield from _read(file, path, front)
    except OSError as error:
        raise Unavailable(
            f"{path} is not read: {error.strerror}", mend="name a file that is there"
        ) from None


def _read(file: BinaryIO, path: Path, front: bytes) -> Iterator[tuple[int, bytes]]:
    found = file.read(MAGIC_BYTES)
    if found != front:
        raise BadFile(path, 0, f"it begins with {found!r}, not with {front!r}")
    check, count, at = blake2_128(front), 0, MAGIC_BYTES
    while True:
        head = file.read(5)
        size = int.from_bytes(head[1:], "little")
        if len(head) < 5 or size > RECORD_BYTES_MAX:
            raise BadFile(path, at, "it is cut, or no record begins here")
        payload = file.read(size)
        check = blake2_128(check + head[:1] + payload)
        if file.read(CHECK_BYTES) != check:
            raise BadFile(path, at, f"record {count} is damaged or cut")
        if head[0] == END:
            if int.from_bytes(payload, "little") != count or file.read(1):
                raise BadFile(path, at, "it does not end here")
            return
        yield head[0], payload
        count += 1
        at += 5 + size + CHECK_BYTES
