"""The chain as a node has it in memory: its head, what is finalized, and its recent states.

A `View` reads; a `Chain` has the trie as well, and writes. One process has the chain; others may
have views of the same folder, which grow by what the chain's process tells them.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Final

from phala.errors import Refused
from phala.node.blobs import Changes
from phala.node.halves import OtherHalf, build_trie
from phala.node.store import Damaged, Store, StoredBlock
from phala.primitives.header import Header
from phala.primitives.types import BlockNumber, Hash
from phala.trie import Trie

WINDOW_BLOCKS: Final = 256  # blocks below the head whose state and proofs are at hand
WINDOW_KEYS_MAX: Final = 100_000  # changed in the window, some 150 MB: above it is shorter
WINDOW_BLOCKS_MIN: Final = 16
FOLD_BLOCKS_MAX: Final = 4  # folded with one block: cost follows what changed


class UnknownBlock(Refused):
    """No block has this hash."""

    def __init__(self, block_hash: bytes) -> None:
        super().__init__(
            f"no block 0x{block_hash.hex()} is known", mend="ask for a block of this chain"
        )


class NotKept(Refused):
    """The block is before the first that this node has."""

    def __init__(self, number: int, first: int) -> None:
        super().__init__(
            f"block {number} is not kept, the first is {first}",
            mend="ask a node that followed the chain from its genesis",
        )


class Pruned(Refused):
    """The state of this block is no longer kept."""

    def __init__(self, number: int, oldest: int) -> None:
        super().__init__(
            f"the state of block {number} is pruned, the oldest kept is {oldest}",
            mend="ask a node that runs with --pruning archive",
        )


class NextBase:
    """The head's state, as the next block is made over it: what was read once is kept."""

    def __init__(self, chain: "View") -> None:
        self._chain = chain
        self._number = chain.head.number
        self._known: dict[bytes, bytes | None] = {}

    def get(self, key: bytes, /) -> bytes | None:
        known = self._known
        if key in known:
            return known[key]
        found = known[key] = self._chain.value(key, self._number)
        return found

    def keys(self, prefix: bytes, /) -> Iterator[bytes]:
        return self._chain.keys(prefix, self._number)


@dataclass(slots=True)
class StateView:
    """The state as of one block: what a `State` stands on, and what RPC reads."""

    chain: "View"
    number: BlockNumber

    def get(self, key: bytes, /) -> bytes | None:
        return self.chain.value(key, self.number)

    def keys(self, prefix: bytes, /, start: bytes = b"") -> Iterator[bytes]:
        return self.chain.keys(prefix, self.number, start)


@dataclass(frozen=True, slots=True)
class Growth:
    """A block that was written, as a view takes it up."""

    header: Header
    changes: Changes
    created: tuple[bytes, ...]  # keys among them that held nothing before
    folded: BlockNumber  # the flat table is the state of this block now


class View:
    """The blocks from genesis to the head, one after the other, and their states to read."""

    def __init__(self, store: Store, *, archive: bool = False) -> None:
        """Read what the store holds."""
        self.store = store
        self.archive = archive
        self.folded = store.folded
        self.oldest = store.oldest  # the oldest block whose state can be read
        self.head = store.head()
        genesis = store.header(BlockNumber(0))
        assert genesis is not None
        self.genesis = genesis.hash()
        self.finalized = store.finalized
        self._missing = object()
        self._changed: dict[int, dict[bytes, bytes | None]] = {}  # by each block above `folded`
        self._created: dict[int, tuple[bytes, ...]] = {}  # likewise, what held nothing before
        self._recent: dict[bytes, bytes | None] = {}  # what they changed: as of the head
        self._last: dict[bytes, int] = {}  # of the same keys, the last block that changed each
        self._added: list[bytes] = []  # created in the window, in order
        self._added_last: dict[bytes, int] = {}
        self._window_keys = 0
        self._next_base: NextBase | None = None  # until the head changes
        for number in range(self.folded + 1, self.head.number + 1):
            at = BlockNumber(number)
            created = tuple(key for key, value in store.undo(at) if value is None)
            self._remember(number, store.changes(at), created)

    def _remember(self, number: int, changes: Changes, created: tuple[bytes, ...]) -> None:
        changed = dict(changes)
        self._changed[number] = changed
        self._created[number] = created
        self._recent.update(changed)
        self._last.update(dict.fromkeys(changed, number))
        self._window_keys += len(changed)
        for key in created:
            if key not in self._added_last:
                insort(self._added, key)
            self._added_last[key] = number

    def _forget(self, number: int) -> None:
        """A block's changes are in the flat table."""
        changed = self._changed.pop(number)
        self._window_keys -= len(changed)
        last, recent = self._last, self._recent
        for key in changed:
            if last[key] == number:
                del last[key], recent[key]
        for key in self._created.pop(number):
            if self._added_last[key] == number:
                del self._added_last[key], self._added[bisect_left(self._added, key)]

    def fold(self, folded: BlockNumber) -> None:
        """The store's flat table is the state of this block now."""
        for number in range(self.folded + 1, folded + 1):
            self._forget(number)
            self.folded = BlockNumber(number)
            if not self.archive:
                self.oldest = self.folded

    def grow(self, growth: Growth) -> None:
        """Take up a block that is written; the store shows what stands with it already."""
        assert growth.header.number == self.head.number + 1
        self.fold(growth.folded)
        self._remember(growth.header.number, growth.changes, growth.created)
        self.head = growth.header
        self._next_base = None

    def shrink(self, number: BlockNumber) -> None:
        """Forget the blocks above `number`, which the store has forgotten. None is finalized."""
        assert self.finalized <= number <= self.head.number
        kept = [
            (each, tuple(self._changed[each].items()), self._created[each])
            for each in range(self.folded + 1, number + 1)
        ]
        for known in (self._changed, self._created, self._recent, self._last, self._added_last):
            known.clear()
        self._added.clear()
        self._window_keys = 0
        for each, changes, created in kept:
            self._remember(each, changes, created)
        self.head = self.header(number)
        self._next_base = None

    @property
    def window_keys(self) -> int:
        """How many changes of keys are in memory."""
        return self._window_keys

    # ---- reading

    def number_of(self, block_hash: Hash) -> BlockNumber:
        """Raises `UnknownBlock`."""
        number = self.store.number_of(block_hash)
        if number is None or number > self.head.number:
            raise UnknownBlock(block_hash)
        return number

    def header(self, number: BlockNumber) -> Header:
        """Raises `NotKept`: of a restored snapshot, for what came before it."""
        found = self.store.header(number)
        if found is None:
            raise NotKept(number, self.store.base)
        return found

    def state_at(self, number: BlockNumber) -> StateView:
        """Raises `Pruned`. Ask anew after a block was written: old views are not kept alive."""
        if number < self.oldest:
            raise Pruned(number, self.oldest)
        return StateView(self, number)

    def value(self, key: bytes, number: BlockNumber) -> bytes | None:
        found = self._recent.get(key, self._missing)
        if found is not self._missing:
            if number == self.head.number:
                return found  # type: ignore[return-value] # it is none of ours
            for each in range(number, self.folded, -1):
                if key in self._changed[each]:
                    return self._changed[each][key]
        if number < self.folded:
            changed, value = self.store.before(key, number)
            if changed:
                return value
        return self.store.flat(key)

    def keys(self, prefix: bytes, number: BlockNumber, start: bytes = b"") -> Iterator[bytes]:
        """Keys that hold something, in order, from `start` on."""
        sources = [self._added_keys(prefix, start), self.store.flat_keys(prefix, start)]
        if number < self.folded:
            sources.append(self.store.gone_keys(prefix, start))
        last = None
        for key in merge(*sources):
            if key != last and self.value(key, number) is not None:
                yield key
            last = key

    def _added_keys(self, prefix: bytes, start: bytes) -> Iterator[bytes]:
        key = max(prefix, start)
        at = bisect_left(self._added, key)
        while at < len(self._added) and self._added[at].startswith(prefix):
            key = self._added[at]
            yield key
            at = bisect_right(self._added, key)  # found anew: others may have come meanwhile

    def next_base(self) -> NextBase:
        """What the next block is made over. One for all who look at it until it is written."""
        if self._next_base is None:
            self._next_base = NextBase(self)
        return self._next_base


class Chain(View):
    """The chain with its trie, as the one process has it that writes."""

    def __init__(
        self, store: Store, *, archive: bool = False, half: OtherHalf | None = None
    ) -> None:
        """Read what the store holds and build the trie, with `half` where it is there.

        Raises:
            Damaged: the state does not have the root that the head's header says.
        """
        super().__init__(store, archive=archive)
        self.others_at: int | None = None  # where a view in another process is; None: there is none
        self._tries: dict[int, Trie] = {}
        self._next: Trie | None = None  # the head's with changes, from `root_with` to `append`
        self._begin(build_trie(store, half))

    def _begin(self, folded: Trie) -> None:
        """Of the window's blocks the last alone has a trie: what they all changed is often the
        same. `trie_at` makes the others."""
        changes = sorted(self._recent.items())
        trie = folded.update(changes, StateView(self, self.folded))
        self._tries[self.head.number] = trie
        if trie.root != self.head.state_root:
            raise Damaged(
                f"the state's root is 0x{trie.root.hex()}, block {self.head.number} says "
                f"0x{self.head.state_root.hex()}",
                mend="remove the node's folder and import the chain again",
            )

    def trie_at(self, number: BlockNumber) -> Trie:
        """From the next later one that there is, by what each block replaced.

        Raises:
            Pruned: proofs are made for the window alone.
        """
        if not self.folded <= number <= self.head.number:
            raise Pruned(number, self.folded)
        tries, known = self._tries, number
        while known not in tries:
            known = BlockNumber(known + 1)
        trie = tries[known]
        for later in range(known, number, -1):
            at = BlockNumber(later)
            trie = trie.update(self.store.undo(at), StateView(self, at))
            tries[later - 1] = trie
        return trie

    def prove(self, keys: Sequence[bytes], number: BlockNumber) -> tuple[bytes, ...]:
        return self.trie_at(number).prove(keys, self.state_at(number))

    # ---- growing

    def root_with(self, changes: Changes) -> Hash:
        """The state root of the head's state after changes; the trie is kept for `append`."""
        head = self.head.number
        self._next = self._tries[head].update(changes, self.next_base())
        return self._next.root

    def append(
        self,
        header: Header,
        body: tuple[bytes, ...],
        changes: Changes,
        messages: tuple[tuple[bytes, int, bytes], ...],
    ) -> Growth:
        """Commit the block that follows the head. Its state root was computed by `root_with`."""
        assert header.parent_hash == self.head.hash()
        trie, self._next = self._next, None
        assert trie is not None
        assert header.state_root == trie.root
        base = self.next_base()
        undo = tuple((key, base.get(key)) for key, _ in changes)
        folding = self._folding(header.number)
        block = StoredBlock(header, body, changes, undo, messages)
        self.store.commit(block, folding=folding, keep=self.archive)
        for number in folding:
            self._tries.pop(number - 1, None)
        self._tries[header.number] = trie
        growth = Growth(
            header,
            changes,
            tuple(key for key, value in undo if value is None),
            folding[-1] if folding else self.folded,
        )
        self.grow(growth)
        return growth

    def shrink(self, number: BlockNumber) -> None:
        assert number in self._tries, "ask for it before the store forgets what came after it"
        for above in range(number + 1, self.head.number + 1):
            self._tries.pop(above, None)
        self._next = None
        super().shrink(number)

    def finalize(self, number: BlockNumber, justification: bytes) -> None:
        assert self.finalized < number <= self.head.number
        self.store.finalize(number, justification)
        self.finalized = number

    def _folding(self, head: int) -> list[BlockNumber]:
        """The final blocks that leave the window when `head` is written, a few at a time.

        None while another view is behind: it reads the flat table as of its own `folded`.
        """
        out: list[BlockNumber] = []
        if self.others_at is not None and self.others_at < self.head.number:
            return out
        keys = self._window_keys
        for number in range(self.folded + 1, self.folded + 1 + FOLD_BLOCKS_MAX):
            full = keys > WINDOW_KEYS_MAX and number + WINDOW_BLOCKS_MIN <= head
            if number > self.finalized or not (full or number + WINDOW_BLOCKS <= head):
                break
            keys -= len(self._changed[number])
            out.append(BlockNumber(number))
        return out
