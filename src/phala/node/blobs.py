"""Changes of a state and lists of bytes, for the store and for files that stores exchange."""

import struct
from collections.abc import Iterable
from typing import Final

from phala.codec import Malformed

Changes = tuple[tuple[bytes, bytes | None], ...]

_HEAD = struct.Struct("<Ii")  # bytes of the key, of the value; -1: no value
_SIZE: Final = 4  # bytes of an item's length in a list


def encode_changes(changes: Iterable[tuple[bytes, bytes | None]]) -> bytes:
    parts = []
    for key, value in changes:
        parts.append(_HEAD.pack(len(key), -1 if value is None else len(value)))
        parts.append(key)
        if value is not None:
            parts.append(value)
    return b"".join(parts)


def decode_changes(blob: bytes) -> Changes:
    """Raises `Malformed`."""
    out: list[tuple[bytes, bytes | None]] = []
    at, end = 0, len(blob)
    while at < end:
        if at + _HEAD.size > end:
            raise Malformed("the changes end inside an item", offset=at)
        key_bytes, value_bytes = _HEAD.unpack_from(blob, at)
        at += _HEAD.size
        key = blob[at : at + key_bytes]
        at += key_bytes
        if value_bytes < 0:
            out.append((key, None))
        else:
            out.append((key, blob[at : at + value_bytes]))
            at += value_bytes
    if at != end:
        raise Malformed("the changes end inside an item", offset=end)
    return tuple(out)


def encode_list(items: Iterable[bytes]) -> bytes:
    return b"".join(len(item).to_bytes(_SIZE, "little") + item for item in items)


def decode_list(blob: bytes) -> tuple[bytes, ...]:
    """Raises `Malformed`."""
    out = []
    at, end = 0, len(blob)
    while at < end:
        size = int.from_bytes(blob[at : at + _SIZE], "little")
        at += _SIZE
        out.append(blob[at : at + size])
        at += size
    if at != end:
        raise Malformed("the list ends inside an item", offset=end)
    return tuple(out)
