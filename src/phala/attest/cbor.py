"""Reads the part of CBOR (RFC 8949) that attestation documents are written in.

Integers, byte and text strings, arrays, maps (with and without a count: AWS makes both), null,
booleans, and one tag at the outside: no floats, no dates, no references, no strings in pieces. A
general reader makes objects of what a stranger's tags ask for; what judges evidence is consensus,
so this is ours, and small.
"""

from typing import Final, TypeAlias

from phala.attest.errors import EvidenceMalformed

DEPTH_MAX: Final = 4
ITEMS_MAX: Final = 256  # of one array or map
COSE_SIGN1: Final = 18  # RFC 9052 section 2

Cbor: TypeAlias = "int | bytes | str | bool | list[Cbor] | dict[int | str, Cbor] | None"

_SIMPLE: Final = {20: False, 21: True, 22: None}


def decode(data: bytes, *, tag: int | None = None) -> Cbor:
    """The one item that `data` is, to the last byte; `tag` may stand before it."""
    at = 0
    if tag is not None and data[:1] == bytes([0xC0 | tag]) and tag < 24:
        at = 1
    item, end = _read(data, at, DEPTH_MAX)
    if end != len(data):
        raise malformed(f"{len(data) - end} bytes follow the item")
    return item


def encode_bytes(data: bytes) -> bytes:
    """A byte string, as COSE signs it."""
    size = len(data)
    if size < 24:
        return bytes([0x40 | size]) + data
    if size < 0x100:
        return bytes([0x58, size]) + data
    return b"\x59" + size.to_bytes(2, "big") + data


def _read(data: bytes, at: int, depth: int) -> tuple[Cbor, int]:
    kind, value, at = _head(data, at)
    match kind:
        case 0 if value is not None:
            return value, at
        case 1 if value is not None:
            return -1 - value, at
        case 2 | 3 if value is not None:
            body = data[at : at + value]
            if len(body) != value:
                raise malformed(f"the string at byte {at} ends outside")
            return body if kind == 2 else _text(body), at + value
        case 4 if depth > 0:
            return _array(data, at, value, depth - 1)
        case 5 if depth > 0:
            return _map(data, at, value, depth - 1)
        case 7 if value in _SIMPLE:
            return _SIMPLE[value], at
        case _:
            raise malformed(f"an item of kind {kind} and {value} at byte {at}")


def _head(data: bytes, at: int) -> tuple[int, int | None, int]:
    """Kind, count or value (None: until a break), and where what it heads begins."""
    if at >= len(data):
        raise malformed("the bytes end before an item")
    kind, value, at = data[at] >> 5, data[at] & 0x1F, at + 1
    if value < 24:
        return kind, value, at
    if value == 31 and kind in (4, 5):
        return kind, None, at
    if value > 27 or kind == 7:
        raise malformed(f"the length at byte {at - 1}")
    size = 1 << (value - 24)
    body = data[at : at + size]
    if len(body) != size:
        raise malformed(f"the length at byte {at - 1} ends outside")
    return kind, int.from_bytes(body, "big"), at + size


def _more(data: bytes, at: int, count: int | None, done: int) -> tuple[bool, int]:
    """Whether another item follows in an array or map."""
    if count is None and data[at : at + 1] == b"\xff":
        return False, at + 1
    if done == count:
        return False, at
    if done == ITEMS_MAX:
        raise malformed(f"more than {ITEMS_MAX} items at byte {at}")
    return True, at


def _array(data: bytes, at: int, count: int | None, depth: int) -> tuple[Cbor, int]:
    items: list[Cbor] = []
    more, at = _more(data, at, count, 0)
    while more:
        item, at = _read(data, at, depth)
        items.append(item)
        more, at = _more(data, at, count, len(items))
    return items, at


def _map(data: bytes, at: int, count: int | None, depth: int) -> tuple[Cbor, int]:
    items: dict[int | str, Cbor] = {}
    more, at = _more(data, at, count, 0)
    while more:
        key, at = _read(data, at, 0)
        if isinstance(key, bool) or not isinstance(key, int | str) or key in items:
            raise malformed(f"the key {key!r} twice, or of no kind for keys")
        items[key], at = _read(data, at, depth)
        more, at = _more(data, at, count, len(items))
    return items, at


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise malformed("a text that is not UTF-8") from None


def malformed(what: str) -> EvidenceMalformed:
    """The error that the bytes are no such document."""
    return EvidenceMalformed(
        f"no CBOR of an attestation document: {what}",
        check=4,
        mend="give the document as the platform made it",
    )
