"""The state trie: branch nodes only, in memory, each version sharing what did not change.

A leaf is computed from its key and value when it is needed, and the value stands elsewhere (the
flat table); so a version costs memory for the branches above what changed. Branches are never
altered once a version holds them: keep a `Trie` to prove anything at its block later.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from phala.crypto.hashes import blake2_256
from phala.primitives.types import Hash
from phala.trie.branch import (
    NIBBLES,
    POPULATION,
    SIZE_BITS,
    VALUES,
    Branch,
    Built,
    Kid,
    Opening,
    branch_of,
    build,
    build_around,
    closed,
    opened,
    ref_of,
)
from phala.trie.encoding import (
    EMPTY_ROOT,
    HASHED_VALUE_BYTES_MIN,
    Layout,
    encode_leaf,
    encode_leaf_at,
    reference,
    value_part,
)

PASSED_MAX: Final = 32  # keys walked over at most before others are looked up

Changes = Sequence[tuple[bytes, bytes | None]]


class Base(Protocol):
    """The state that a version of the trie stands for."""

    def get(self, key: bytes, /) -> bytes | None: ...
    def keys(self, prefix: bytes, /) -> Iterator[bytes]:
        """The keys that start with `prefix`, in order."""
        ...


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
    def build(items: Iterable[tuple[bytes, bytes]], layout: Layout) -> "Trie":
        """The trie of items sorted by key, each key once, which are taken one by one."""
        return _finished(layout, build(items, layout))

    @staticmethod
    def build_around(
        before: Iterable[tuple[bytes, bytes]],
        take: Callable[[], Opening],
        after: Iterable[tuple[bytes, bytes]],
        layout: Layout,
        depth: int,
    ) -> "Trie":
        """The same, where somebody else makes what is in the middle: see `branch.build_around`."""
        return _finished(layout, build_around(before, take, after, layout, depth))

    def update(self, changes: Changes, base: Base) -> "Trie":
        """The version after changes sorted by key, None deleting. `base` is the state before."""
        if not changes:
            return self
        work = _Update(self.layout, [(key.hex(), value, key) for key, value in changes], base)
        if self._top is None:
            return _finished(self.layout, work.at_leaf(0, len(changes), "", self._leaf is not None))
        return _finished(self.layout, work.at_branch(self._top, 0, len(changes), 0))

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
            nibble = VALUES[path[depth]]
            depth += 1
            child = node.kid(nibble)
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


def _finished(layout: Layout, built: Built) -> Trie:
    return Trie(layout, built[0], built[1])


def _keys_under(base: Base, front: str) -> Iterator[bytes]:
    """The base's keys whose path starts with some nibbles, in order.

    Where half a byte is asked for, keys with other halves may lie before them: a few are walked
    over, and rather than a million (all accounts, on the way to a neighbour in System) all bytes
    with this half are looked up.
    """
    size = len(front) // 2
    whole = bytes.fromhex(front[: 2 * size])
    if 2 * size == len(front):
        yield from base.keys(whole)
        return
    half, passed = VALUES[front[2 * size]], 0
    for key in base.keys(whole):
        found = key[size] >> 4 if len(key) > size else -1
        if found > half:
            return
        if found == half:
            yield key
        else:
            passed += 1
            if passed > PASSED_MAX:
                break
    else:
        return
    for digit in NIBBLES:
        yield from base.keys(bytes.fromhex(front + digit))


Change = tuple[str, bytes | None, bytes]


class _Patch:
    """New names, and branches, for children of one node."""

    __slots__ = ("_encoded", "_kids", "_node", "children", "refs")

    def __init__(self, node: Branch) -> None:
        self._node = node
        self._encoded: bytearray | None = None  # while each name takes the place of a like one
        self._kids: list[Kid] | None = None
        self.refs: list[bytes | None] | None = None  # from the first that does not
        self.children: dict[int, Kid] = {}  # as long as `refs` is there

    def put(self, nibble: int, built: Built) -> None:
        """What stands below a nibble from now on."""
        branch = built[0]
        bit = 1 << nibble
        kidmap = self._node.kidmap
        if self.refs is None and (branch is not None) != (kidmap & bit != 0):
            self._unlike()
        self.patch(nibble, ref_of(built))
        if self.refs is not None:
            if branch is None:
                self.children.pop(nibble, None)
            else:
                self.children[nibble] = closed(branch)
        elif branch is not None:
            if self._kids is None:
                self._kids = list(self._node.kids)
            self._kids[POPULATION[kidmap & (bit - 1)]] = closed(branch)

    def swap(self, nibble: int, encoded: bytes) -> None:
        """A closed branch is this one from now on; both are named by a hash."""
        self.patch(nibble, blake2_256(encoded))
        if self.refs is not None:
            self.children[nibble] = encoded
            return
        if self._kids is None:
            self._kids = list(self._node.kids)
        self._kids[POPULATION[self._node.kidmap & ((1 << nibble) - 1)]] = encoded

    def patch(self, nibble: int, ref: bytes | None) -> None:
        node = self._node
        if self.refs is None:
            bitmap = node.bitmap
            uniform = len(node.encoded) - node.offset == 33 * POPULATION[bitmap]
            if uniform and ref is not None and len(ref) == 32 and bitmap >> nibble & 1:
                if self._encoded is None:
                    self._encoded = bytearray(node.encoded)
                at = node.offset + 33 * POPULATION[bitmap & ((1 << nibble) - 1)] + 1
                self._encoded[at : at + 32] = ref
                return
            self._unlike()
        assert self.refs is not None
        self.refs[nibble] = ref

    def _unlike(self) -> None:
        """Patching does not do: the node is made anew, from the names of its children."""
        now = self.patched()
        self.refs = now.refs()
        self.children = now.children()

    def patched(self) -> Branch:
        node = self._node
        if self._encoded is None:
            return node
        kids = node.kids if self._kids is None else tuple(self._kids)
        encoded = bytes(self._encoded)
        return Branch(node.part, node.value, node.bitmap, node.kidmap, kids, node.offset, encoded)

    def all_refs(self) -> list[bytes | None]:
        if self.refs is None:
            self._unlike()
        assert self.refs is not None
        return self.refs


class _Update:
    """A batch of changes on its way down a trie. A change is its path, its value, its key."""

    __slots__ = ("base", "changes", "layout")

    def __init__(self, layout: Layout, changes: list[Change], base: Base) -> None:
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
        at = start
        own, touched = node.value, False
        if len(changes[start][0]) == below:
            value = changes[start][1]
            own = None if value is None else value_part(self.layout, value)
            touched = own != node.value
            at += 1
        patch = _Patch(node)
        while at < end:
            path, value, key = changes[at]
            digit = path[below]
            stop = at + 1
            while stop < end and changes[stop][0][below] == digit:
                stop += 1
            nibble = VALUES[digit]
            kid = node.closed_kid(nibble)
            quick = self.repointed(kid, at, stop, below + 1) if isinstance(kid, bytes) else None
            if quick is not None:
                patch.swap(nibble, quick)
            elif kid is not None:
                child = opened(kid) if isinstance(kid, bytes) else kid
                patch.put(nibble, self.at_branch(child, at, stop, below + 1))
            elif (
                value is not None
                and stop - at == 1
                and node.bitmap >> nibble & 1
                and self.base.get(key) is not None
            ):
                # The leaf that hangs here is this key's: the change of an account, say.
                leaf = encode_leaf_at(self.layout, key, below + 1, value)
                patch.patch(nibble, reference(leaf))
            else:
                present = node.bitmap >> nibble & 1 == 1
                patch.put(nibble, self.at_leaf(at, stop, path[: below + 1], present))
            at = stop
        if not touched and patch.refs is None:
            return patch.patched(), None
        return self.settled(part, own, patch.all_refs(), patch.children, changes[start][0][:depth])

    def repointed(self, encoded: bytes, start: int, end: int, depth: int) -> bytes | None:
        """A closed branch where changes[start:end] give leaves that it has other values, and all
        that it has are named by hashes. None: it is not as simple as that."""
        size = encoded[0] & SIZE_BITS
        if size == SIZE_BITS:
            return None
        changes = self.changes
        offset = 3 + (size + 1 >> 1)
        if size:
            part = encoded[1 : offset - 2].hex()[size & 1 :]
            for each in range(start, end):
                if not changes[each][0].startswith(part, depth):
                    return None
        bitmap = encoded[offset - 2] | encoded[offset - 1] << 8
        if len(encoded) - offset != 33 * POPULATION[bitmap]:
            return None
        below = depth + size
        out = bytearray(encoded)
        before = 0
        for each in range(start, end):
            path, value, key = changes[each]
            if value is None or len(path) == below:
                return None
            bit = 1 << VALUES[path[below]]
            if bit == before or not bitmap & bit or self.base.get(key) is None:
                return None
            before = bit
            leaf = encode_leaf_at(self.layout, key, below + 1, value)
            if len(leaf) < 32:
                return None
            place = offset + 33 * POPULATION[bitmap & (bit - 1)] + 1
            out[place : place + 32] = blake2_256(leaf)
        return bytes(out)

    def settled(
        self,
        part: str,
        own: tuple[bytes, bool] | None,
        refs: list[bytes | None],
        children: dict[int, Kid],
        front: str,
    ) -> Built:
        """A branch, or what is left of one that has fewer than two things below it."""
        present = [nibble for nibble, ref in enumerate(refs) if ref is not None]
        if len(present) + (own is not None) >= 2:
            return branch_of(part, own, refs, children), None
        if not present:
            return self.lone_leaf(front, front + part) if own is not None else (None, None)
        (nibble,) = present
        kid = children.get(nibble)
        if kid is None:
            return self.lone_leaf(front, front + part + NIBBLES[nibble])
        child = opened(kid) if isinstance(kid, bytes) else kid
        merged = part + NIBBLES[nibble] + child.part
        return branch_of(merged, child.value, child.refs(), child.children()), None

    def lone_leaf(self, front: str, under: str) -> Built:
        """The leaf of the one key that is left under some nibbles, hanging below `front`."""
        ((key, value),) = self.merged(under).items()
        return None, encode_leaf(self.layout, key.hex()[len(front) :], value)

    def merged(self, under: str, span: tuple[int, int] | None = None) -> dict[bytes, bytes]:
        """What the state holds under some nibbles after the changes, in order."""
        found: dict[bytes, bytes | None] = {
            key: self.base.get(key) for key in _keys_under(self.base, under)
        }
        changes = self.changes
        at, end = span or (bisect_left(changes, (under,)), len(changes))
        while at < end and changes[at][0].startswith(under):
            _, value, key = changes[at]
            found[key] = value
            at += 1
        return {key: value for key, value in sorted(found.items()) if value is not None}

    def at_leaf(self, start: int, end: int, front: str, present: bool) -> Built:  # noqa: FBT001
        """Apply changes where a leaf hangs below `front` (`present`), or nothing."""
        if present:
            items = list(self.merged(front, (start, end)).items())
        else:
            items = [(key, value) for _, value, key in self.changes[start:end] if value is not None]
        return build(items, self.layout, len(front))

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
        split = min(_shared(part, kept[0][0], depth), _shared(part, kept[-1][0], depth))
        if split == len(part):
            return work.at_branch(node, 0, len(kept), depth)
        nibble = VALUES[part[split]]
        below = branch_of(part[split + 1 :], node.value, node.refs(), node.children())
        refs: list[bytes | None] = [None] * 16
        refs[nibble] = reference(below.encoded)
        top = branch_of(part[:split], None, refs, {nibble: closed(below)})
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
