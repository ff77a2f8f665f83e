"""Branch nodes in memory, and how a subtree grows from sorted items.

Most branches have leaves below them and nothing else. Of those the encoded bytes alone are kept:
with a million accounts that is three branches in four.
"""

from collections.abc import Callable, Iterable, Iterator
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
FRONT_BYTES: Final = 32  # of a pallet's item: most keys share it with the one before them
BYTE: Final[list[bytes]] = [bytes((value,)) for value in range(256)]
HASH_FRONT: Final = BYTE[32 << 2]  # stands before a child's hash
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

    __slots__ = ("bitmap", "depth", "key", "kidmap", "kids", "names", "own")

    def __init__(self, depth: int, key: bytes) -> None:
        self.depth = depth
        self.key = key
        self.own: tuple[bytes, bool] | None = None
        self.bitmap = 0
        self.names: list[bytes] = []  # of the children, as the node has them
        self.kidmap = 0
        self.kids: list[Kid] = []

    def add(self, nibble: int, node: bytes) -> None:
        """One more child, by its bytes."""
        self.bitmap |= 1 << nibble
        if len(node) < 32:
            self.names.append(bytes((len(node) << 2,)))
            self.names.append(node)
        else:
            self.names.append(HASH_FRONT)
            self.names.append(blake2_256(node))

    def finish(self, above: int) -> Branch:
        """The branch, all of whose children have come, below the first `above` nibbles."""
        own, bitmap, depth = self.own, self.bitmap, self.depth
        part = self.key.hex()[above:depth] if depth > above else ""
        kind = BRANCH if own is None else BRANCH_HASHED if own[1] else BRANCH_VALUE
        front = header(kind, depth - above)
        if part:
            front += packed(part)
        front += BYTE[bitmap & 255] + BYTE[bitmap >> 8]
        if own is not None:
            front += own[0]
        encoded = front + b"".join(self.names)
        return Branch(part, own, bitmap, self.kidmap, tuple(self.kids), len(front), encoded)


def nibble_at(key: bytes, depth: int) -> int:
    byte = key[depth >> 1]
    return byte & 15 if depth & 1 else byte >> 4


def shared_nibbles(one: bytes, other: bytes, at: int) -> int:
    """How many nibbles two keys begin with alike, whose first `at` bytes are."""
    most = min(len(one), len(other))
    while at < most and one[at] == other[at]:
        at += 1
    if at < most and one[at] >> 4 == other[at] >> 4:
        return 2 * at + 1
    return 2 * at


def _close(stack: list[Opening], after: int, outside: int) -> Branch | None:
    """End the branches that have nothing more to come: what comes next shares `after` nibbles with
    what came. The branch that is left, where that is no more than what is `outside`."""
    top = stack[-1]
    while top.depth > after:
        stack.pop()
        above = max(after, stack[-1].depth if stack else outside)
        branch = top.finish(above + 1)
        if above == outside:
            return branch
        if not stack or stack[-1].depth < above:
            stack.append(Opening(above, top.key))
        nibble = nibble_at(top.key, above)
        top = stack[-1]
        top.add(nibble, branch.encoded)
        top.kidmap |= 1 << nibble
        top.kids.append(closed(branch))
    return None


def _grow(
    stack: list[Opening],
    first: tuple[bytes, bytes],
    coming: Iterator[tuple[bytes, bytes]],
    layout: Layout,
    outside: int,
    before: int,
    end: int,
) -> Built:
    """Let items come. The first shares `before` nibbles with what came before it, the last `end`
    with what comes later, all of them more than `outside` with each other."""
    key, value = first
    front = key[:FRONT_BYTES]
    while True:
        item = next(coming, None)
        if item is None:
            after = end
        else:
            following = item[0]
            if following[:FRONT_BYTES] == front:
                after = shared_nibbles(key, following, len(front))
            else:
                after = shared_nibbles(key, following, 0)
                front = following[:FRONT_BYTES]
        if after > before:
            stack.append(Opening(after, key))
        if not stack:
            return None, encode_leaf_at(layout, key, outside + 1, value)
        top = stack[-1]
        if len(key) * 2 == top.depth:
            top.own = value_part(layout, value)
        else:
            below = encode_leaf_at(layout, key, top.depth + 1, value)
            top.add(nibble_at(key, top.depth), below)
        if top.depth > after:
            branch = _close(stack, after, outside)
            if branch is not None:
                return branch, None
        if item is None:
            return None, None
        key, value = item
        before = after


def build(items: Iterable[tuple[bytes, bytes]], layout: Layout, depth: int = 0) -> Built:
    """The subtree of items sorted by key, each key once, which all share their first `depth`
    nibbles. Items are taken one by one; memory holds branches alone."""
    coming: Iterator[tuple[bytes, bytes]] = iter(items)
    first = next(coming, None)
    if first is None:
        return None, None
    outside = depth - 1
    return _grow([], first, coming, layout, outside, outside, outside)


def build_part(items: Iterable[tuple[bytes, bytes]], layout: Layout, depth: int) -> Opening | None:
    """The branch that is `depth` nibbles deep, with those of its children alone that are above
    these items, which share so many nibbles. None: there are no items."""
    coming: Iterator[tuple[bytes, bytes]] = iter(items)
    first = next(coming, None)
    if first is None:
        return None
    stack = [Opening(depth, first[0])]
    _grow(stack, first, coming, layout, depth - 1, depth, depth)
    return stack[0]


def build_around(
    before: Iterable[tuple[bytes, bytes]],
    take: Callable[[], Opening],
    after: Iterable[tuple[bytes, bytes]],
    layout: Layout,
    depth: int,
) -> Built:
    """The whole trie of items of which those in the middle are in the part that `take` gives, once
    all `before` have come.

    Those in the middle share their first `depth` nibbles. The last of those before shares so many
    with them and no more, the first of those after fewer.
    """
    coming: Iterator[tuple[bytes, bytes]] = iter(before)
    first = next(coming, None)
    assert first is not None
    stack: list[Opening] = []
    _grow(stack, first, coming, layout, -1, -1, depth)
    top, part = stack[-1], take()
    assert top.depth == part.depth == depth
    assert top.bitmap < part.bitmap & -part.bitmap  # its children come first
    top.bitmap |= part.bitmap
    top.names += part.names
    top.kidmap |= part.kidmap
    top.kids += part.kids
    coming = iter(after)
    first = next(coming, None)
    shared = -1 if first is None else shared_nibbles(part.key, first[0], 0)
    branch = _close(stack, shared, -1)
    if first is None:
        return branch, None
    return _grow(stack, first, coming, layout, -1, shared, -1)
