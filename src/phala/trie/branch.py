"""Branch nodes in memory, and how a subtree grows from sorted items.

Most branches have leaves below them and nothing else. Of those the encoded bytes alone are kept:
with a million accounts that is three branches in four.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from phala.crypto.hashes import blake2_256
from phala.trie.encoding import (
    BRANCH,
    BRANCH_HASHED,
    BRANCH_VALUE,
    Layout,
    encode_leaf_at,
    header,
    packed,
    reference,
    value_part,
)

NIBBLES: Final = "0123456789abcdef"
VALUES: Final[dict[str, int]] = {digit: value for value, digit in enumerate(NIBBLES)}
POPULATION: Final[list[int]] = [bit.bit_count() for bit in range(1 << 16)]
SIZE_BITS: Final = 0x3F  # of a plain branch's first byte; all set: the path's size goes on


class Branch:
    """A node with children. `encoded` is its bytes; children are patched in a copy of them."""

    __slots__ = ("bitmap", "encoded", "kidmap", "kids", "offset", "part", "value")

    def __init__(
        self,
        part: str,
        value: tuple[bytes, bool] | None,
        bitmap: int,
        kidmap: int,
        kids: "tuple[Branch | bytes, ...]",
        offset: int,
        encoded: bytes,
    ) -> None:
        self.part = part
        self.value = value  # as `value_part` makes it
        self.bitmap = bitmap  # the nibbles that have a child
        self.kidmap = kidmap  # those whose child is a branch
        self.kids = kids  # these, in order
        self.offset = offset  # where in `encoded` the children begin
        self.encoded = encoded

    def closed_kid(self, nibble: int) -> "Branch | bytes | None":
        """A child that is a branch, as it is kept."""
        bit = 1 << nibble
        if not self.kidmap & bit:
            return None
        return self.kids[POPULATION[self.kidmap & (bit - 1)]]

    def kid(self, nibble: int) -> "Branch | None":
        found = self.closed_kid(nibble)
        return opened(found) if isinstance(found, bytes) else found

    def refs(self) -> list[bytes | None]:
        """How the children are named, by nibble."""
        out: list[bytes | None] = [None] * 16
        at, encoded, bitmap = self.offset, self.encoded, self.bitmap
        for nibble in range(16):
            if bitmap >> nibble & 1:
                end = at + 1 + (encoded[at] >> 2)
                out[nibble] = encoded[at + 1 : end]
                at = end
        return out

    def children(self) -> "dict[int, Branch | bytes]":
        """Those that are branches, by nibble."""
        nibbles = [nibble for nibble in range(16) if self.kidmap >> nibble & 1]
        return dict(zip(nibbles, self.kids, strict=True))


Kid = Branch | bytes


def closed(branch: Branch) -> Kid:
    """As a parent keeps it."""
    return branch if branch.kids or branch.value is not None else branch.encoded


def opened(encoded: bytes) -> Branch:
    """What `closed` made bytes of."""
    size = encoded[0] & SIZE_BITS
    at = 1
    if size == SIZE_BITS:
        more = 255
        while more == 255:
            more = encoded[at]
            at += 1
            size += more
    part = ""
    if size:
        end = at + (size + 1 >> 1)
        part = encoded[at:end].hex()[size & 1 :]
        at = end
    bitmap = encoded[at] | encoded[at + 1] << 8
    return Branch(part, None, bitmap, 0, (), at + 2, encoded)


def branch_of(
    part: str,
    value: tuple[bytes, bool] | None,
    refs: list[bytes | None],
    children: dict[int, Kid],
) -> Branch:
    """The branch whose children are named so, by nibble."""
    if value is None:
        out = bytearray(header(BRANCH, len(part)))
    else:
        out = bytearray(header(BRANCH_HASHED if value[1] else BRANCH_VALUE, len(part)))
    if part:
        out += packed(part)
    bitmap = 0
    for nibble in range(16):
        if refs[nibble] is not None:
            bitmap |= 1 << nibble
    out.append(bitmap & 255)
    out.append(bitmap >> 8)
    if value is not None:
        out += value[0]
    offset = len(out)
    for ref in refs:
        if ref is not None:
            out.append(len(ref) << 2)
            out += ref
    kidmap = 0
    kids: list[Kid] = []
    for nibble in sorted(children):
        kidmap |= 1 << nibble
        kids.append(children[nibble])
    return Branch(part, value, bitmap, kidmap, tuple(kids), offset, bytes(out))


# ---- from sorted items

Built = tuple[Branch | None, bytes | None]  # a branch, or the bytes of a leaf, or nothing


def ref_of(built: Built) -> bytes | None:
    branch, leaf = built
    if branch is not None:
        return reference(branch.encoded)
    return None if leaf is None else reference(leaf)


class Opening:
    """A branch whose children are still coming, in order. Its own path is the first `depth` nibbles
    of `key`, a key below it."""

    __slots__ = ("bitmap", "body", "depth", "key", "kidmap", "kids", "own")

    def __init__(self, depth: int, key: bytes) -> None:
        self.depth = depth
        self.key = key
        self.own: tuple[bytes, bool] | None = None
        self.bitmap = 0
        self.body = bytearray()  # the children's names
        self.kidmap = 0
        self.kids: list[Kid] = []

    def add(self, nibble: int, node: bytes) -> None:
        """One more child, by its bytes."""
        self.bitmap |= 1 << nibble
        if len(node) < 32:
            self.body.append(len(node) << 2)
            self.body += node
        else:
            self.body.append(128)
            self.body += blake2_256(node)

    def finish(self, above: int) -> Branch:
        """The branch, all of whose children have come, below the first `above` nibbles."""
        own = self.own
        part = self.key.hex()[above : self.depth] if self.depth > above else ""
        if own is None:
            out = bytearray(header(BRANCH, len(part)))
        else:
            out = bytearray(header(BRANCH_HASHED if own[1] else BRANCH_VALUE, len(part)))
        if part:
            out += packed(part)
        out.append(self.bitmap & 255)
        out.append(self.bitmap >> 8)
        if own is not None:
            out += own[0]
        offset = len(out)
        out += self.body
        return Branch(part, own, self.bitmap, self.kidmap, tuple(self.kids), offset, bytes(out))


def nibble_at(key: bytes, depth: int) -> int:
    byte = key[depth >> 1]
    return byte & 15 if depth & 1 else byte >> 4


def shared_nibbles(one: bytes, other: bytes) -> int:
    """How many nibbles two keys begin with alike."""
    most = min(len(one), len(other))
    at = 32 if most > 32 and one[:32] == other[:32] else 0  # a pallet's item
    while at < most and one[at] == other[at]:
        at += 1
    if at < most and one[at] >> 4 == other[at] >> 4:
        return 2 * at + 1
    return 2 * at


def build(items: Iterable[tuple[bytes, bytes]], layout: Layout, depth: int = 0) -> Built:
    """The subtree of items sorted by key, each key once, which all share their first `depth`
    nibbles. Items are taken one by one; memory holds branches alone."""
    coming: Iterator[tuple[bytes, bytes]] = iter(items)
    item = next(coming, None)
    if item is None:
        return None, None
    key, value = item
    stack: list[Opening] = []
    outside = depth - 1  # what the first and the last share with those before and after them
    before = outside
    while True:
        item = next(coming, None)
        after = outside if item is None else shared_nibbles(key, item[0])
        if after > before:
            stack.append(Opening(after, key))
        if not stack:
            return None, encode_leaf_at(layout, key, depth, value)
        top = stack[-1]
        if len(key) * 2 == top.depth:
            top.own = value_part(layout, value)
        else:
            below = encode_leaf_at(layout, key, top.depth + 1, value)
            top.add(nibble_at(key, top.depth), below)
        while top.depth > after:
            stack.pop()
            above = max(after, stack[-1].depth if stack else outside)
            branch = top.finish(above + 1)
            if above == outside:
                return branch, None
            if not stack or stack[-1].depth < above:
                stack.append(Opening(above, top.key))
            nibble = nibble_at(top.key, above)
            top = stack[-1]
            top.add(nibble, branch.encoded)
            top.kidmap |= 1 << nibble
            top.kids.append(closed(branch))
        assert item is not None
        key, value = item
        before = after
