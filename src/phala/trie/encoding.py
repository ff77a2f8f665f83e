"""Nodes of the base-16 Patricia-Merkle trie, as bytes. Paths are texts of hex digits, one a nibble.

Layouts: V0 keeps values in their node; V1 keeps the hash of a value of 33 bytes or more.
Source: Polkadot specification, "Merkle proofs" and "State trie"; the `sp-trie` crate.
"""

import enum
from typing import Final

from phala.codec.compact import encode_compact
from phala.crypto.hashes import blake2_256
from phala.primitives.types import Hash

HASHED_VALUE_BYTES_MIN: Final = 33  # in V1
EMPTY_ROOT: Final = Hash(
    bytes.fromhex("03170a2e7597b7b7e3d84c05391d139a62b157e78786d8c082f29dcf4c111314")
)

LEAF, LEAF_HASHED = 0x40, 0x20
BRANCH, BRANCH_VALUE, BRANCH_HASHED = 0x80, 0xC0, 0x10
_BITS: Final = {LEAF: 6, LEAF_HASHED: 5, BRANCH: 6, BRANCH_VALUE: 6, BRANCH_HASHED: 4}


class Layout(enum.Enum):
    """What happens to large values; the numbers are `stateVersion`s."""

    V0 = 0
    V1 = 1


def _header(kind: int, nibbles: int) -> bytes:
    most = (1 << _BITS[kind]) - 1
    if nibbles < most:
        return bytes((kind | nibbles,))
    out = bytearray((kind | most,))
    left = nibbles - most
    while left >= 255:
        out.append(255)
        left -= 255
    out.append(left)
    return bytes(out)


_HEADERS_KEPT: Final = 160  # paths of keys up to 80 bytes
_HEADERS: Final = {
    kind: [_header(kind, nibbles) for nibbles in range(_HEADERS_KEPT)] for kind in _BITS
}


def header(kind: int, nibbles: int) -> bytes:
    return _HEADERS[kind][nibbles] if nibbles < _HEADERS_KEPT else _header(kind, nibbles)


def packed(path: str) -> bytes:
    """Nibbles as bytes, a zero nibble in front of an odd number of them."""
    return bytes.fromhex("0" + path if len(path) & 1 else path)


def value_part(layout: Layout, value: bytes) -> tuple[bytes, bool]:
    """How a value stands in its node, and whether only its hash does."""
    if layout is Layout.V1 and len(value) >= HASHED_VALUE_BYTES_MIN:
        return blake2_256(value), True
    return encode_compact(len(value)) + value, False


_NIBBLE: Final = [bytes((nibble,)) for nibble in range(16)]


def encode_leaf_at(layout: Layout, key: bytes, depth: int, value: bytes) -> bytes:
    """The leaf of a key below its first `depth` nibbles."""
    whole = depth >> 1
    size = 2 * len(key) - depth
    hashed = layout is Layout.V1 and len(value) >= HASHED_VALUE_BYTES_MIN
    front = header(LEAF_HASHED if hashed else LEAF, size)
    if depth & 1:
        front += _NIBBLE[key[whole] & 15]
        whole += 1
    if hashed:
        return front + key[whole:] + blake2_256(value)
    return front + key[whole:] + encode_compact(len(value)) + value


def encode_leaf(layout: Layout, path: str, value: bytes) -> bytes:
    part, hashed = value_part(layout, value)
    return header(LEAF_HASHED if hashed else LEAF, len(path)) + packed(path) + part


def reference(node: bytes) -> bytes:
    """How a parent names a node: by its hash, or by its bytes where they are shorter."""
    return node if len(node) < 32 else blake2_256(node)
