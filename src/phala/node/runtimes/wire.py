"""What passes between a node and the host of another release: frames of lists of bytes.

    frame = size u32 little-endian | list (blobs.encode_list)

The node asks, one question at a time; before the host answers it may ask back for state, as often
as it likes. The first part of a list says what it is:

    hello                                  -> protocol, SCALE RuntimeVersion, manifest
    metadata   version u8                  -> metadata
    call       block hash, method, data    -> SCALE
    execute    parent header, header, extrinsic ...  -> a sealed block
    open       parent header, digest item ...  -> a builder is open
    inherents  clock u64                   -> extrinsic ...
    apply      flag, extrinsic             -> index u32, SCALE DispatchError or nothing
    seal                                   -> a sealed block
    validator  parent header               -> a validator is open
    validate   source u8, flag, extrinsic  -> SCALE TransactionValidity

    asked back: get key -> value or nothing; keys prefix, after -> key ...; root changes -> hash
    answers: ok ...; error kind, what, mend, problem, custom; of another problem than CUSTOM,
        1 says that the bytes are no extrinsic

This file is in every release and its protocol is 1: what is added gets a new word.
"""

from typing import BinaryIO, Final

from phala.codec import Malformed
from phala.node.blobs import decode_list, encode_list

PROTOCOL: Final = b"1"
FRAME_BYTES_MAX: Final = 256 * 1024 * 1024  # changes of the largest block stay far below
KEYS_PAGE: Final = 1_024

OK: Final = b"ok"
ERROR: Final = b"error"
GET: Final = b"get"
KEYS: Final = b"keys"
ROOT: Final = b"root"


class Ended(Exception):
    """The other side is gone."""


def send(out: BinaryIO, *parts: bytes) -> None:
    """Raises `Ended`."""
    data = encode_list(parts)
    try:
        out.write(len(data).to_bytes(4, "little") + data)
        out.flush()
    except (OSError, ValueError) as error:
        raise Ended from error


def receive(source: BinaryIO) -> tuple[bytes, ...]:
    """Raises `Ended`, also for what is no frame."""
    try:
        front = source.read(4)
        size = int.from_bytes(front, "little")
        if len(front) < 4 or size > FRAME_BYTES_MAX:
            raise Ended
        data = source.read(size)
        if len(data) < size:
            raise Ended
        return decode_list(data)
    except (OSError, ValueError, Malformed) as error:
        raise Ended from error


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")
