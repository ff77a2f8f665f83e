"""Storage as the new API asks for it: items of several kinds, read a page at a time.

Source: json-rpc-interface-spec, `chainHead_v1_storage` and `archive_v1_storage`.
"""

import enum
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from phala.crypto.hashes import blake2_256
from phala.node.chain import StateView
from phala.node.rpc.errors import INVALID_PARAMS, RpcError
from phala.node.rpc.params import Params, bad, hex_bytes, to_hex
from phala.node.service import Node
from phala.node.store import KEY_BYTES_MAX
from phala.primitives.types import BlockNumber
from phala.trie import EMPTY_ROOT
from phala.trie.proof import decode_node

ITEMS_MAX: Final = 1_000  # of one request; those after them are discarded, which the answer tells
PAGE_ITEMS: Final = 512
PAGE_BYTES: Final = 1024 * 1024  # of values; a page ends with the value that passes it


class Kind(enum.Enum):
    """What is asked of a key."""

    VALUE = "value"
    HASH = "hash"
    MERKLE_VALUE = "closestDescendantMerkleValue"
    VALUES = "descendantsValues"
    HASHES = "descendantsHashes"


KINDS: Final = {kind.value: kind for kind in Kind}


@dataclass(frozen=True, slots=True)
class Item:
    key: bytes
    kind: Kind
    after: bytes | None = None  # descendants up to this key are passed over


def storage_items(value: Any, index: int) -> list[Item]:
    if not isinstance(value, list):
        raise bad(index, "a list of items", value)
    return [_item(each, index) for each in value]


def _item(value: Any, index: int) -> Item:
    if not isinstance(value, dict):
        raise bad(index, "an object with key and type", value)
    kind = value.get("type")
    if not isinstance(kind, str) or kind not in KINDS:
        raise bad(index, f"one of {', '.join(KINDS)}", kind)
    after = value.get("paginationStartKey")
    return Item(
        hex_bytes(value.get("key"), index),
        KINDS[kind],
        None if after is None else hex_bytes(after, index)[: KEY_BYTES_MAX + 1],
    )


def no_child_trie(params: Params, index: int) -> None:
    if params.optional(index, hex_bytes) is not None:
        raise RpcError(INVALID_PARAMS, "Invalid params", "this chain has no child tries")


class Pages:
    """Reads items in order. Between two pages it holds nothing open."""

    def __init__(self, items: list[Item]) -> None:
        # A longer key holds nothing, and a page that waits for its client keeps what is left.
        self._items = [each for each in reversed(items) if len(each.key) <= KEY_BYTES_MAX]

    async def next(self, node: Node, number: BlockNumber) -> list[dict[str, Any]]:
        """The next page, empty only where nothing is left. Raises `Pruned`."""
        at = node.chain.state_at(number)
        out: list[dict[str, Any]] = []
        size = 0
        while self._items and len(out) < PAGE_ITEMS and size <= PAGE_BYTES:
            item = self._items.pop()
            if item.kind is Kind.MERKLE_VALUE:
                found = await closest_merkle_value(node, number, item.key)
                at = node.chain.state_at(number)  # anew: blocks may have been written meanwhile
                if found is not None:
                    out.append({"key": to_hex(item.key), item.kind.value: to_hex(found)})
                continue
            if item.kind in (Kind.VALUE, Kind.HASH):
                keys = [item.key]
            else:
                keys = _descendants(at, item, PAGE_ITEMS - len(out))
            for key in keys:
                value = at.get(key)
                if value is not None:
                    out.append(_document(key, item.kind, value))
                    size += len(value)
                if size > PAGE_BYTES:
                    break
            if item.kind in (Kind.VALUES, Kind.HASHES) and keys:
                self._items.append(Item(item.key, item.kind, key))
        return out

    @property
    def done(self) -> bool:
        return not self._items


def _descendants(at: StateView, item: Item, count: int) -> list[bytes]:
    keys = at.keys(item.key, item.after or b"")
    return list(islice((key for key in keys if item.after is None or key > item.after), count))


def _document(key: bytes, kind: Kind, value: bytes) -> dict[str, Any]:
    if kind in (Kind.VALUE, Kind.VALUES):
        return {"key": to_hex(key), "value": to_hex(value)}
    return {"key": to_hex(key), "hash": to_hex(blake2_256(value))}


async def closest_merkle_value(node: Node, number: BlockNumber, key: bytes) -> bytes | None:
    """The Merkle value of the trie's uppermost node whose key starts with `key`.

    Raises:
        Pruned: the block has left the window that proofs are made for.
    """
    root = node.chain.header(number).state_root
    if root == EMPTY_ROOT:
        return None
    by_hash = {blake2_256(each): each for each in await node.prove([key], number)}
    rest, merkle_value = key.hex(), bytes(root)
    while True:
        # A child of 32 bytes is a hash; a shorter one is the node itself.
        found = decode_node(by_hash[merkle_value] if len(merkle_value) == 32 else merkle_value)
        if found.path.startswith(rest):
            return merkle_value
        if not rest.startswith(found.path):
            return None
        rest = rest[len(found.path) :]
        child = found.children[int(rest[0], 16)] if found.children else None
        if child is None:
            return None
        rest, merkle_value = rest[1:], child
