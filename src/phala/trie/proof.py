"""Reading a state from the nodes of a proof: each is found by its hash, from the root down."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from phala.codec import Bytes, Malformed, Reader
from phala.codec.compact import read_compact
from phala.crypto.hashes import blake2_256
from phala.errors import Invalid
from phala.primitives.types import Hash
from phala.trie.encoding import EMPTY_ROOT

KEY_NIBBLES_MAX: Final = 4096
CHILD: Final = Bytes(bytes_max=32)  # a hash, or a node that is shorter than one


class BadProof(Invalid):
    """The nodes do not show what the state under this root holds at a key."""

    def __init__(self, why: str, root: Hash) -> None:
        super().__init__(
            f"the proof under root 0x{root.hex()} fails: {why}",
            mend="ask for the proof again, of all keys, at the block with this root",
        )


@dataclass(frozen=True, slots=True)
class Node:
    """A decoded node. A child is a hash (32 bytes) or a node's own bytes."""

    path: str
    value: bytes | None
    hashed: bool  # the value is the hash of the value
    children: tuple[bytes | None, ...]  # empty in a leaf


def read_proof(
    root: Hash, nodes: Iterable[bytes], keys: Sequence[bytes]
) -> dict[bytes, bytes | None]:
    """The value of each key; None where the proof shows that there is none.

    Raises:
        BadProof: a node on the way to a key is missing, altered or no node.
    """
    by_hash = {blake2_256(node): node for node in nodes}
    return {key: _value(root, by_hash, key) for key in keys}


def _value(root: Hash, by_hash: dict[bytes, bytes], key: bytes) -> bytes | None:
    if root == EMPTY_ROOT:
        return None
    path = key.hex()
    if len(path) > KEY_NIBBLES_MAX:
        raise BadProof(f"a key of {len(key)} bytes", root)
    encoded, depth = _named(root, by_hash, root), 0
    while True:
        try:
            node = decode_node(encoded)
        except Malformed as error:
            raise BadProof(error.what, root) from None
        rest = path[depth:]
        if not rest.startswith(node.path):
            return None
        rest = rest[len(node.path) :]
        if not rest:
            if node.value is None or not node.hashed:
                return node.value
            return _named(node.value, by_hash, root)
        child = node.children[int(rest[0], 16)] if node.children else None
        if child is None:
            return None
        depth += len(node.path) + 1
        encoded = _named(child, by_hash, root) if len(child) == 32 else child


def _named(ref: bytes, by_hash: dict[bytes, bytes], root: Hash) -> bytes:
    found = by_hash.get(ref)
    if found is None:
        raise BadProof(f"nothing with the hash 0x{ref.hex()}", root)
    return found


def decode_node(encoded: bytes) -> Node:
    """Raises `Malformed`."""
    reader = Reader(encoded)
    (first,) = reader.take(1)
    kind, bits = _kind(first)
    size = first & (1 << bits) - 1
    if size == (1 << bits) - 1:
        more = 255
        while more == 255 and size <= KEY_NIBBLES_MAX:
            (more,) = reader.take(1)
            size += more
    if size > KEY_NIBBLES_MAX:
        raise Malformed(f"a path of {size} nibbles", offset=0)
    digits = reader.take((size + 1) // 2).hex()
    if size & 1 and digits[0] != "0":
        raise Malformed("a path's filling is not zero", offset=1)
    path = digits[size & 1 :]
    bitmap = (
        int.from_bytes(reader.take(2), "little") if kind in ("branch", "valued", "hashed") else 0
    )
    value: bytes | None = None
    if kind in ("leaf", "valued"):
        value = reader.take(read_compact(reader))
    elif kind in ("hashed leaf", "hashed"):
        value = reader.take(32)
    children: list[bytes | None] = [None] * 16 if bitmap else []
    at = reader.offset
    for nibble in range(len(children)):
        if bitmap >> nibble & 1:
            children[nibble], at = CHILD.decode_from(encoded, at)
    if at != len(encoded):
        raise Malformed(f"{len(encoded) - at} bytes follow the node", offset=at)
    return Node(path, value, "hashed" in kind, tuple(children))


def _kind(first: int) -> tuple[str, int]:
    """What a node's first byte says it is, and how many bits of it count nibbles."""
    match first >> 6:
        case 0b01:
            return "leaf", 6
        case 0b10:
            return "branch", 6
        case 0b11:
            return "valued", 6
        case _:
            if first >> 5 == 0b001:
                return "hashed leaf", 5
            if first >> 4 == 0b0001:
                return "hashed", 4
            raise Malformed(f"a node that starts with {first}", offset=0)
