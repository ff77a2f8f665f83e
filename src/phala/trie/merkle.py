"""The state trie: branch nodes only, in memory, each version sharing what did not change.

A leaf is computed from its key and value when it is needed, and the value stands elsewhere (the
flat table); so a version costs memory for the branches above what changed. Branches are never
altered once a version holds them: keep a `Trie` to prove anything at its block later.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from phala.crypto.hashes import blake2_256
from phala.primitives.types import Hash
from phala.trie.encoding import (
    BRANCH,
    BRANCH_HASHED,
    BRANCH_VALUE,
    EMPTY_ROOT,
    HASHED_VALUE_BYTES_MIN,
    Layout,
    encode_leaf,
    header,
    packed,
    reference,
    value_part,
)

Changes = Sequence[tuple[bytes, bytes | None]]

_POPULATION: Final = [bit.bit_count() for bit in range(1 << 16)]
_NIBBLES: Final = "0123456789abcdef"
_VALUES: Final = {digit: value for value, digit in enumerate(_NIBBLES)}


class Base(Protocol):
    """The state that a version of the trie stands for."""

    def get(self, key: bytes, /) -> bytes | None: ...
    def keys(self, prefix: bytes, /) -> Iterator[bytes]:
        """The keys that start with `prefix`, in order."""
        ...


class Branch:
    """A node with children. `encoded` is its bytes; children are patched in a copy of them."""

    __slots__ = ("bitmap", "children", "encoded", "offset", "part", "ref", "uniform", "value")

    def __init__(
        self,
        part: str,
        value: tuple[bytes, bool] | None,
        children: dict[int, "Branch"],
        bitmap: int,
        uniform: bool,  # noqa: FBT001
        offset: int,
        encoded: bytes,
    ) -> None:
        self.part = part
        self.value = value
        self.children = children  # those that are branches
        self.bitmap = bitmap
        self.uniform = uniform  # every child is named by a hash
        self.offset = offset  # where the children begin
        self.encoded = encoded
        self.ref = reference(encoded)

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

    def patched(self, hashes: dict[int, bytes], children: dict[int, "Branch"]) -> "Branch":
        """The same node with other hashes for children that were hashes before."""
        encoded = bytearray(self.encoded)
        for nibble, ref in hashes.items():
            at = self.offset + 33 * _POPULATION[self.bitmap & (1 << nibble) - 1] + 1
            encoded[at : at + 32] = ref
        new = bytes(encoded)
        return Branch(self.part, self.value, children, self.bitmap, self.uniform, self.offset, new)


def branch_of(
    part: str,
    value: tuple[bytes, bool] | None,
    refs: list[bytes | None],
    children: dict[int, Branch],
) -> Branch:
    """The branch whose children are named so, by nibble."""
    out = bytearray()
    if value is None:
        out += header(BRANCH, len(part))
    else:
        out += header(BRANCH_HASHED if value[1] else BRANCH_VALUE, len(part))
    out += packed(part)
    bitmap = 0
    uniform = True
    for nibble, ref in enumerate(refs):
        if ref is not None:
            bitmap |= 1 << nibble
            uniform = uniform and len(ref) == 32
    out += bitmap.to_bytes(2, "little")
    if value is not None:
        out += value[0]
    offset = len(out)
    for ref in refs:
        if ref is not None:
            out.append(len(ref) << 2)
            out += ref
    return Branch(part, value, children, bitmap, uniform, offset, bytes(out))


class Trie:
    """One version of a state's trie. Immutable."""

    __slots__ = ("_leaf", "_top", "layout", "root")

    def __init__(self, layout: Layout, top: Branch | None, leaf: bytes | None) -> None:
        self.layout = layout
        self._top = top
        self._leaf = leaf  # the only node, encoded, where there is a single key
        if top is not None:
            self.root = Hash(blake2_256(top.encoded))
        else:
            self.root = EMPTY_ROOT if leaf is None else Hash(blake2_256(leaf))

    @staticmethod
    def empty(layout: Layout) -> "Trie":
        return Trie(layout, None, None)

    @staticmethod
    def build(items: Sequence[tuple[bytes, bytes]], layout: Layout) -> "Trie":
        """The trie of items sorted by key, each key once."""
        paths = [(key.hex(), value) for key, value in items]
        return _finished(layout, *_build(layout, paths, 0, len(paths), 0))

    def update(self, changes: Changes, base: Base) -> "Trie":
        """The version after changes sorted by key, None deleting. `base` is the state before."""
        if not changes:
            return self
        work = _Update(self.layout, [(key.hex(), value) for key, value in changes], base)
        if self._top is None:
            return _finished(
                self.layout, *work.at_leaf(0, len(changes), "", self._leaf is not None)
            )
        return _finished(self.layout, *work.at_branch(self._top, 0, len(changes), 0))

    def prove(self, keys: Sequence[bytes], base: Base) -> tuple[bytes, ...]:
        """The nodes (and in V1 the hashed values) that show each key's value, or its absence."""
        nodes: dict[bytes, None] = {}
        for key in keys:
            for node in self._along(key, base):
                nodes.setdefault(node)
        return tuple(nodes)

    def _along(self, key: bytes, base: Base) -> Iterator[bytes]:
        path = key.hex()
        if self._top is None:
            if self._leaf is not None:
                (only,) = base.keys(b"")
                yield self._leaf
                if only == key:
                    yield from self._hashed_value(key, base)
            return
        node, depth = self._top, 0
        yield node.encoded
        while True:
            if not path.startswith(node.part, depth):
                return
            depth += len(node.part)
            if depth == len(path):
                if node.value is not None and node.value[1]:
                    yield from self._hashed_value(key, base)
                return
            nibble = _VALUES[path[depth]]
            depth += 1
            child = node.children.get(nibble)
            if child is None:
                if node.bitmap >> nibble & 1:
                    yield from self._leaf_under(path[:depth], key, base)
                return
            if len(child.encoded) >= 32:
                yield child.encoded
            node = child

    def _leaf_under(self, front: str, key: bytes, base: Base) -> Iterator[bytes]:
        (found,) = _keys_under(base, front)
        value = base.get(found)
        assert value is not None
        node = encode_leaf(self.layout, found.hex()[len(front) :], value)
        if len(node) >= 32:
            yield node
        if found == key:
            yield from self._hashed_value(key, base)

    def _hashed_value(self, key: bytes, base: Base) -> Iterator[bytes]:
        value = base.get(key)
        assert value is not None
        if self.layout is Layout.V1 and len(value) >= HASHED_VALUE_BYTES_MIN:
            yield value


Built = tuple[Branch | None, bytes | None]  # a branch, or the bytes of a leaf, or nothing


def _finished(layout: Layout, top: Branch | None, leaf: bytes | None) -> Trie:
    return Trie(layout, top, leaf)


def _ref(built: Built) -> bytes | None:
    branch, leaf = built
    if branch is not None:
        return branch.ref
    return None if leaf is None else reference(leaf)


def _build(
    layout: Layout, items: Sequence[tuple[str, bytes]], start: int, end: int, depth: int
) -> Built:
    """The subtree of items[start:end], which all share their first `depth` nibbles."""
    if start == end:
        return None, None
    first, value = items[start]
    if end - start == 1:
        return None, encode_leaf(layout, first[depth:], value)
    last = items[end - 1][0]
    common = depth
    most = min(len(first), len(last))
    while common < most and first[common] == last[common]:
        common += 1
    own = None
    at = start
    if len(first) == common:
        own = value_part(layout, value)
        at += 1
    refs: list[bytes | None] = [None] * 16
    children: dict[int, Branch] = {}
    while at < end:
        digit = items[at][0][common]
        stop = at + 1
        while stop < end and items[stop][0][common] == digit:
            stop += 1
        built = _build(layout, items, at, stop, common + 1)
        nibble = _VALUES[digit]
        refs[nibble] = _ref(built)
        if built[0] is not None:
            children[nibble] = built[0]
        at = stop
    return branch_of(first[depth:common], own, refs, children), None


def _keys_under(base: Base, front: str) -> Iterator[bytes]:
    """The base's keys whose path starts with some nibbles."""
    whole = len(front) // 2 * 2
    for key in base.keys(bytes.fromhex(front[:whole])):
        if whole == len(front) or key.hex()[whole : whole + 1] == front[whole:]:
            yield key


class _Update:
    """A batch of changes on its way down a trie."""

    def __init__(self, layout: Layout, changes: list[tuple[str, bytes | None]], base: Base) -> None:
        self.layout = layout
        self.changes = changes
        self.base = base

    def at_branch(self, node: Branch, start: int, end: int, depth: int) -> Built:
        """Apply changes[start:end], which share the `depth` nibbles that lead to `node`."""
        changes, part = self.changes, node.part
        size = len(part)
        if size and not (
            changes[start][0].startswith(part, depth)
            and changes[end - 1][0].startswith(part, depth)
        ):
            return self.diverging(node, start, end, depth)
        below = depth + size
        own, at, touched = node.value, start, False
        if len(changes[start][0]) == below:
            value = changes[start][1]
            own = None if value is None else value_part(self.layout, value)
            touched = own != node.value
            at += 1
        hashes: dict[int, bytes] = {}
        odd: dict[int, bytes | None] = {}
        children = node.children
        while at < end:
            digit = changes[at][0][below]
            stop = at + 1
            while stop < end and changes[stop][0][below] == digit:
                stop += 1
            nibble = _VALUES[digit]
            child = children.get(nibble)
            present = node.bitmap >> nibble & 1 == 1
            if child is not None:
                built = self.at_branch(child, at, stop, below + 1)
            else:
                built = self.at_leaf(at, stop, changes[at][0][: below + 1], present)
            if built[0] is not child:
                if children is node.children:
                    children = dict(children)
                if built[0] is None:
                    children.pop(nibble, None)
                else:
                    children[nibble] = built[0]
            ref = _ref(built)
            if ref is not None and len(ref) == 32 and present and node.uniform:
                hashes[nibble] = ref
            else:
                odd[nibble] = ref
            at = stop
        if not touched and not odd:
            return node.patched(hashes, children) if hashes else node, None
        refs = node.refs()
        for nibble, found in {**hashes, **odd}.items():
            refs[nibble] = found
        return self.settled(part, own, refs, children, changes[start][0][:depth])

    def settled(
        self,
        part: str,
        own: tuple[bytes, bool] | None,
        refs: list[bytes | None],
        children: dict[int, Branch],
        front: str,
    ) -> Built:
        """A branch, or what is left of one that has fewer than two things below it."""
        present = [nibble for nibble, ref in enumerate(refs) if ref is not None]
        if len(present) + (own is not None) >= 2:
            return branch_of(part, own, refs, children), None
        if not present:
            return self.lone_leaf(front, front + part) if own is not None else (None, None)
        (nibble,) = present
        child = children.get(nibble)
        if child is None:
            return self.lone_leaf(front, front + part + _NIBBLES[nibble])
        merged = part + _NIBBLES[nibble] + child.part
        return branch_of(merged, child.value, child.refs(), child.children), None

    def lone_leaf(self, front: str, under: str) -> Built:
        """The leaf of the one key that is left under some nibbles, hanging below `front`."""
        ((path, value),) = self.merged(under).items()
        return None, encode_leaf(self.layout, path[len(front) :], value)

    def merged(self, under: str, span: tuple[int, int] | None = None) -> dict[str, bytes]:
        """What the state holds under some nibbles after the changes."""
        found: dict[str, bytes | None] = {
            key.hex(): self.base.get(key) for key in _keys_under(self.base, under)
        }
        changes = self.changes
        at, end = span or (bisect_left(changes, (under,)), len(changes))
        while at < end and changes[at][0].startswith(under):
            path, value = changes[at]
            found[path] = value
            at += 1
        return {path: value for path, value in sorted(found.items()) if value is not None}

    def at_leaf(self, start: int, end: int, front: str, present: bool) -> Built:  # noqa: FBT001
        """Apply changes where a leaf hangs below `front` (`present`), or nothing."""
        changes = self.changes
        if end - start == 1:
            path, value = changes[start]
            if value is None and not present:
                return None, None
            if value is not None and (
                not present or self.base.get(bytes.fromhex(path)) is not None
            ):
                return None, encode_leaf(self.layout, path[len(front) :], value)
        if present:
            items = list(self.merged(front, (start, end)).items())
        else:
            items = [(path, value) for path, value in changes[start:end] if value is not None]
        return _build(self.layout, items, 0, len(items), len(front))

    def diverging(self, node: Branch, start: int, end: int, depth: int) -> Built:
        """Some change leaves the edge above `node`: drop deletions of what is not there, and split
        the edge where the first new key leaves it."""
        part = node.part
        kept = [
            each
            for each in self.changes[start:end]
            if each[1] is not None or each[0].startswith(part, depth)
        ]
        if not kept:
            return node, None
        work = _Update(self.layout, kept, self.base)
        # In order, so the first or the last of them leaves the edge before all others.
        split = min(_shared(part, path, depth) for path, _ in (kept[0], kept[-1]))
        if split == len(part):
            return work.at_branch(node, 0, len(kept), depth)
        nibble = _VALUES[part[split]]
        below = branch_of(part[split + 1 :], node.value, node.refs(), node.children)
        refs: list[bytes | None] = [None] * 16
        refs[nibble] = below.ref
        top = branch_of(part[:split], None, refs, {nibble: below})
        return work.at_branch(top, 0, len(kept), depth)


def _shared(part: str, path: str, depth: int) -> int:
    """How many nibbles of an edge a path follows from `depth` on."""
    size = 0
    most = min(len(part), len(path) - depth)
    while size < most and part[size] == path[depth + size]:
        size += 1
    return size


def root_of(items: Sequence[tuple[bytes, bytes]], layout: Layout) -> Hash:
    """The root of items in any order, each key once."""
    return Trie.build(sorted(items), layout).root
