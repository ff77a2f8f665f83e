"""Changes of a state as bytes, for the store: made by us, read by us."""

import struct
from collections.abc import Iterable

Changes = tuple[tuple[bytes, bytes | None], ...]

_HEAD = struct.Struct("<Ii")  # bytes of the key, of the value; -1: no value


def encode_changes(changes: Iterable[tuple[bytes, bytes | None]]) -> bytes:
    parts = []
    for key, value in changes:
        parts.append(_HEAD.pack(len(key), -1 if value is None else len(value)))
        parts.append(key)
        if value is not None:
            parts.append(value)
    return b"".join(parts)


def decode_changes(blob: bytes) -> Changes:
    out: list[tuple[bytes, bytes | None]] = []
    at, end = 0, len(blob)
    while at < end:
        key_bytes, value_bytes = _HEAD.unpack_from(blob, at)
        at += _HEAD.size
        key = blob[at : at + key_bytes]
        at += key_bytes
        if value_bytes < 0:
            out.append((key, None))
        else:
            out.append((key, blob[at : at + value_bytes]))
            at += value_bytes
    assert at == end, "a blob of the store is cut"
    return tuple(out)


def encode_list(items: Iterable[bytes]) -> bytes:
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)


def decode_list(blob: bytes) -> tuple[bytes, ...]:
    out = []
    at = 0
    while at < len(blob):
        size = int.from_bytes(blob[at : at + 4], "little")
        out.append(blob[at + 4 : at + 4 + size])
        at += 4 + size
    return tuple(out)
