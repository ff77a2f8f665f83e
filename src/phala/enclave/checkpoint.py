"""What an enclave keeps on an untrusted disk: a snapshot now and then, and each step since.

A file is a header and frames. Each file has a key of its own, so that no nonce serves twice even
where the host puts old files back. A step's record is bound to all before it (`link`), so records
can be cut off at the end, not taken out, altered or put elsewhere. What the host can do is to go
back to an older whole step; the chain then brings the enclave forward again.

    file   = magic 8 | kind 1 | salt 32 | frames
    frame  = u32 length | AES-256-GCM(key of the file, nonce = number, associated = link so far;
             the header for the first)
    link'  = blake2_256(link ‖ sealed)
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U64, Bytes, Descriptor, Option, Vector
from phala.crypto import aead, kdf
from phala.crypto.hashes import blake2_256
from phala.crypto.secret import Secret
from phala.enclave.ports import Changes
from phala.enclave.records import CLUSTER_KEYS, EPOCHS, NO_KEYS, SEATS, EpochKeys
from phala.errors import Invalid
from phala.messages.types import scale
from phala.primitives.types import Hash

MAGIC: Final = b"phala\0c\1"  # the last byte is the format's version
SALT_BYTES: Final = 32
HEADER_BYTES: Final = len(MAGIC) + 1 + SALT_BYTES
LENGTH_BYTES: Final = 4
KEY_BYTES_MAX: Final = 4096
VALUE_BYTES_MAX: Final = 2 << 20
ITEMS_MAX: Final = 1 << 20
CHUNK_BYTES: Final = 1 << 20  # of a snapshot in one frame, about

KIND_SNAPSHOT: Final = 0
KIND_JOURNAL: Final = 1

PART: Final = b"\0"  # of a snapshot
LAST: Final = b"\1"


@dataclass(frozen=True, slots=True)
class Change:
    key: Annotated[bytes, Bytes(bytes_max=KEY_BYTES_MAX)]
    value: Annotated[bytes | None, Option(Bytes(bytes_max=VALUE_BYTES_MAX))]


CHANGES: Final = Vector(scale(Change), items_max=ITEMS_MAX)


@dataclass(frozen=True, slots=True)
class Start:
    """The first frame of a file: what it continues."""

    generation: Annotated[int, U64]  # of the snapshot that it is, or follows
    link: Hash  # of the last step before it


@dataclass(frozen=True, slots=True)
class End:
    """The last frame of a snapshot: it is whole."""

    items: Annotated[int, U64]


START: Final[Descriptor[Start]] = scale(Start)
END: Final[Descriptor[End]] = scale(End)


class Torn(Invalid):
    """A file does not open from some place on: it was cut, altered, or is of another enclave."""

    def __init__(self, frame: int) -> None:
        super().__init__(
            f"frame {frame} of a checkpoint does not open",
            mend="start from the newest whole file; what is missing comes from the chain again",
        )


def first_link(genesis: Hash) -> Hash:
    """Before the first step of all."""
    return Hash(blake2_256(b"phala/checkpoint/v1" + genesis))


def encode_changes(changes: Changes) -> bytes:
    return CHANGES.encode(tuple(Change(key, value) for key, value in changes.items()))


def decode_changes(data: bytes) -> Changes:
    return {change.key: change.value for change in CHANGES.decode(data)}


def erases(data: Mapping[bytes, bytes], changes: Changes) -> bool:
    """Whether the table holds a secret key that it does not hold after the changes."""
    for key, value in changes.items():
        old = data.get(key)
        if old is None or old == value:
            continue
        if key[:1] in (CLUSTER_KEYS.mark, SEATS.mark):
            return True
        if key == EPOCHS.mark:
            left = _public_keys(NO_KEYS if value is None else EPOCHS.value.decode(value))
            if any(each not in left for each in _public_keys(EPOCHS.value.decode(old))):
                return True
    return False


def _public_keys(keys: EpochKeys) -> list[bytes]:
    found = (keys.current, keys.previous, keys.pending)
    return [each.public for each in found if each is not None]


class FrameWriter:
    """Makes the bytes of one file, frame by frame."""

    def __init__(self, key: Secret, kind: int, salt: bytes, start: Start) -> None:
        self.header = MAGIC + bytes([kind]) + salt
        self._key = _file_key(key, self.header)
        sealed = aead.seal(self._key, _nonce(0), START.encode(start), self.header)
        self.link = Hash(blake2_256(start.link + sealed))
        self._number = 1
        self.first = self.header + _framed(sealed)

    def frame(self, plaintext: bytes) -> bytes:
        sealed = aead.seal(self._key, _nonce(self._number), plaintext, self.link)
        self.link = Hash(blake2_256(self.link + sealed))
        self._number += 1
        return _framed(sealed)


class FrameReader:
    """Reads a file back, as far as it is whole."""

    def __init__(self, key: Secret, kind: int, data: bytes) -> None:
        """`start` says what it continues. Raises `Torn` for what is no such file."""
        header = data[:HEADER_BYTES]
        if len(header) < HEADER_BYTES or header[:-SALT_BYTES] != MAGIC + bytes([kind]):
            raise Torn(0)
        self._data = data
        self._at = HEADER_BYTES
        self._key = _file_key(key, header)
        self._number = 0
        sealed, plaintext = self._take(header)
        self.start = START.decode(plaintext)
        self.link = Hash(blake2_256(self.start.link + sealed))

    def next(self) -> bytes:
        """The next frame. Raises `Torn`; the reader then stands where it stood."""
        sealed, plaintext = self._take(self.link)
        self.link = Hash(blake2_256(self.link + sealed))
        return plaintext

    def _take(self, associated: bytes) -> tuple[bytes, bytes]:
        begin = self._at + LENGTH_BYTES
        length = int.from_bytes(self._data[self._at : begin], "little")
        sealed = self._data[begin : begin + length]
        if begin > len(self._data) or len(sealed) < length:
            raise Torn(self._number)
        try:
            plaintext = aead.open_sealed(self._key, _nonce(self._number), sealed, associated)
        except Invalid:
            raise Torn(self._number) from None
        self._number += 1
        self._at = begin + length
        return sealed, plaintext

    def rest(self) -> Iterator[bytes]:
        """All frames to the first that is torn."""
        while True:
            try:
                yield self.next()
            except Torn:
                return


def snapshot(
    key: Secret, salt: bytes, start: Start, items: Iterable[tuple[bytes, bytes]]
) -> Iterator[bytes]:
    """A snapshot's bytes, in parts."""
    writer = FrameWriter(key, KIND_SNAPSHOT, salt, start)
    yield writer.first
    part: list[Change] = []
    size_bytes = count = 0
    for name, value in items:
        part.append(Change(name, value))
        size_bytes += len(name) + len(value)
        count += 1
        if size_bytes >= CHUNK_BYTES:
            yield writer.frame(PART + CHANGES.encode(tuple(part)))
            part, size_bytes = [], 0
    yield writer.frame(PART + CHANGES.encode(tuple(part)))
    yield writer.frame(LAST + END.encode(End(count)))


def read_snapshot(key: Secret, data: bytes) -> tuple[Start, list[Changes]]:
    """What a snapshot holds. Raises `Torn` unless it is whole."""
    reader = FrameReader(key, KIND_SNAPSHOT, data)
    parts: list[Changes] = []
    for frame in reader.rest():
        if frame[:1] == LAST and END.decode(frame[1:]).items == sum(map(len, parts)):
            return reader.start, parts
        parts.append(decode_changes(frame[1:]))
    raise Torn(len(parts) + 1)


def _framed(sealed: bytes) -> bytes:
    return len(sealed).to_bytes(LENGTH_BYTES, "little") + sealed


def _file_key(key: Secret, header: bytes) -> Secret:
    return kdf.derive(key, b"phala/checkpoint-file/v1", header)


def _nonce(number: int) -> bytes:
    return number.to_bytes(aead.NONCE_BYTES, "little")
