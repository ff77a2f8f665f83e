"""Reads the part of MessagePack that dstack writes its attestations in.

Maps by names, arrays, strings, bytes, numbers without sign, booleans, nothing else:
https://github.com/msgpack/msgpack/blob/master/spec.md.
"""

from typing import Final, TypeAlias

from phala.attest.errors import EvidenceMalformed

DEPTH_MAX: Final = 8
ITEMS_MAX: Final = 64 * 1024  # of one array, or map: bytes of a quote may stand as an array

Value: TypeAlias = "int | bytes | str | bool | list[Value] | dict[str, Value] | None"

_SIMPLE: Final = {0xC0: None, 0xC2: False, 0xC3: True}
# By the first byte: what it heads, and how many bytes its size or value has.
_HEADS: Final = {
    **{0xC4 + place: ("bytes", 1 << place) for place in range(3)},
    **{0xCC + place: ("number", 1 << place) for place in range(4)},
    **{0xD9 + place: ("text", 1 << place) for place in range(3)},
    **{0xDC + place: ("array", 2 << place) for place in range(2)},
    **{0xDE + place: ("map", 2 << place) for place in range(2)},
}


def decode(data: bytes) -> Value:
    """The one value that `data` is, to the last byte."""
    value, end = _read(data, 0, DEPTH_MAX)
    if end != len(data):
        raise _malformed(f"{len(data) - end} bytes follow the value")
    return value


def _read(data: bytes, at: int, depth: int) -> tuple[Value, int]:
    kind, size, at = _head(data, at)
    match kind:
        case "number":
            return size, at
        case "simple":
            return _SIMPLE[size], at
        case "bytes" | "text":
            body = data[at : at + size]
            if len(body) != size:
                raise _malformed(f"what begins at byte {at} ends outside")
            return body if kind == "bytes" else _text(body), at + size
        case _ if depth == 0 or size > ITEMS_MAX:
            raise _malformed(f"more than {DEPTH_MAX} levels, or {ITEMS_MAX} items, at byte {at}")
        case "array":
            return _array(data, at, size, depth - 1)
        case _:
            return _map(data, at, size, depth - 1)


def _head(data: bytes, at: int) -> tuple[str, int, int]:
    """What it heads, its size or value, and where that begins."""
    if at >= len(data):
        raise _malformed("it ends before a value")
    first, at = data[at], at + 1
    if first in _HEADS:
        kind, size = _HEADS[first]
        body = data[at : at + size]
        if len(body) != size:
            raise _malformed(f"the size at byte {at} ends outside")
        return kind, int.from_bytes(body, "big"), at + size
    if first in _SIMPLE:
        return "simple", first, at
    if first < 0x80:
        return "number", first, at
    if first < 0xC0:
        kind = "map" if first < 0x90 else "array" if first < 0xA0 else "text"
        return kind, first & (0x1F if kind == "text" else 0x0F), at
    raise _malformed(f"a value of the kind 0x{first:02x} at byte {at - 1}")


def _array(data: bytes, at: int, size: int, depth: int) -> tuple[Value, int]:
    items: list[Value] = []
    for _ in range(size):
        item, at = _read(data, at, depth)
        items.append(item)
    return items, at


def _map(data: bytes, at: int, size: int, depth: int) -> tuple[Value, int]:
    items: dict[str, Value] = {}
    for _ in range(size):
        name, at = _read(data, at, 0)
        if not isinstance(name, str) or name in items:
            raise _malformed(f"the name {name!r} twice, or no text")
        items[name], at = _read(data, at, depth)
    return items, at


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise _malformed("a text that is not UTF-8") from None


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(
        f"no MessagePack of an attestation: {what}",
        check=4,
        mend="give the attestation as dstack's guest agent wrote it",
    )
