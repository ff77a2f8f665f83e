"""A part of a trie as bytes, from the process that made it to the one that needs it.

Of nodes only what they are is written, and which children are branches; the rest stands in them.
Nothing is checked: both ends are one node's, and the root shows whether all is right.
"""

import struct
from typing import Final

from phala.trie.branch import Branch, Kid, Opening

_PART: Final = struct.Struct("<HHHHI")  # depth, bitmap, kidmap, bytes of the key, of the names
_CLOSED: Final = struct.Struct("<BI")  # 0, bytes of the node
_BRANCH: Final = struct.Struct("<BHHIII")  # 1 and 2 for a value in it, 3 for a value's hash;
# kidmap, nibbles of its path, bytes of the value's part, where the children begin, bytes of it


def encode_part(part: Opening) -> bytes:
    names = b"".join(part.names)
    head = _PART.pack(part.depth, part.bitmap, part.kidmap, len(part.key), len(names))
    out = [head, part.key, names]
    for kid in part.kids:
        _encode(out, kid)
    return b"".join(out)


def _encode(out: list[bytes], kid: Kid) -> None:
    if isinstance(kid, bytes):
        out.append(_CLOSED.pack(0, len(kid)))
        out.append(kid)
        return
    kind, size = 1, 0
    if kid.value is not None:
        kind, size = 3 if kid.value[1] else 2, len(kid.value[0])
    encoded = kid.encoded
    out.append(_BRANCH.pack(kind, kid.kidmap, len(kid.part), size, kid.offset, len(encoded)))
    out.append(encoded)
    for each in kid.kids:
        _encode(out, each)


def decode_part(data: bytes) -> Opening:
    """What `encode_part` made bytes of."""
    depth, bitmap, kidmap, key_bytes, names_bytes = _PART.unpack_from(data)
    at = _PART.size + key_bytes
    part = Opening(depth, data[_PART.size : at])
    part.bitmap, part.kidmap = bitmap, kidmap
    part.names.append(data[at : at + names_bytes])
    at += names_bytes
    for _ in range(kidmap.bit_count()):
        kid, at = _decode(data, at)
        part.kids.append(kid)
    return part


def _decode(data: bytes, at: int) -> tuple[Kid, int]:
    if not data[at]:
        _, size = _CLOSED.unpack_from(data, at)
        at += _CLOSED.size
        return data[at : at + size], at + size
    kind, kidmap, nibbles, value_bytes, offset, size = _BRANCH.unpack_from(data, at)
    at += _BRANCH.size
    encoded = data[at : at + size]
    at += size
    value_at = offset - value_bytes
    value = None if kind == 1 else (encoded[value_at:offset], kind == 3)
    part = ""
    if nibbles:
        part = encoded[value_at - 2 - (nibbles + 1 >> 1) : value_at - 2].hex()[nibbles & 1 :]
    bitmap = encoded[value_at - 2] | encoded[value_at - 1] << 8
    kids = []
    for _ in range(kidmap.bit_count()):
        kid, at = _decode(data, at)
        kids.append(kid)
    return Branch(part, value, bitmap, kidmap, tuple(kids), offset, encoded), at
