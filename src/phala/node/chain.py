"""The chain as a node has it in memory: its head, what is finalized, and its recent states."""

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import merge
from typing import Final

from phala.errors import Refused
from phala.node.blobs import Changes
from phala.node.store import Damaged, Store, StoredBlock
from phala.primitives.header import Header
from phala.primitives.types import BlockNumber, Hash
from phala.trie import Layout, Trie

WINDOW_BLOCKS: Final = 256  # blocks below the head whose state and proofs are at hand
WINDOW_KEYS_MAX: Final = 500_000  # changed in the window, some 1 GB: above it is shorter
WINDOW_BLOCKS_MIN: Final = 16
FOLD_BLOCKS_MAX: Final = 4  # folded with one block: cost follows what changed


class UnknownBlock(Refused):
    """No block has this hash."""

    def __init__(self, block_hash: bytes) -> None:
        super().__init__(
            f"no block 0x{block_hash.hex()} is known", mend="ask for a block of this chain"
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

    def __init__(self, chain: "Chain") -> None:
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

    chain: "Chain"
    number: BlockNumber

    def get(self, key: bytes, /) -> bytes | None:
        return self.chain.value(key, self.number)

    def keys(self, prefix: bytes, /, start: bytes = b"") -> Iterator[bytes]:
        return self.chain.keys(prefix, self.number, start)


class Chain:
    """The blocks from genesis to the head, one after the other."""

    def __init__(self, store: Store, *, archive: bool = False) -> None:
        """Read what the store holds and build the trie.

        Raises:
            Damaged: the state does not have the root that the head's header says.
        """
        self.store = store
        self.archive = archive
        self.folded = store.folded
        self.oldest = store.oldest  # the oldest block whose state can be read
        self.head = store.head()
        genesis = store.header(BlockNumber(0))
        assert genesis is not None
        self.genesis = genesis.hash()
        self.finalized = store.finalized
        self._recent: dict[bytes, bytes | None] = {}  # of blocks above `folded`, the newest value
        self._touched: dict[bytes, list[int]] = defaultdict(list)  # key -> blocks above `folded`
        self._added: list[bytes] = []  # those touched that the flat table lacks, in order
        self._undos: dict[int, dict[bytes, bytes | None]] = {}
        self._tries: dict[int, Trie] = {}
        self._next: Trie | None = None  # the head's with changes, from `root_with` to `append`
        self._next_base: NextBase | None = None  # until the head changes
        self._window_keys = 0  # that the blocks above `folded` changed
        self._replay()

    def _replay(self) -> None:
        trie = Trie.build(list(self.store.flat_items()), Layout.V1)
        self._tries[self.folded] = trie
        for number in range(self.folded + 1, self.head.number + 1):
            changes = self.store.changes(BlockNumber(number))
            trie = trie.update(changes, StateView(self, BlockNumber(number - 1)))
            self._tries[number] = trie
            self._remember(number, changes, self.store.undo(BlockNumber(number)))
        if trie.root != self.head.state_root:
            raise Damaged(
                f"the state's root is 0x{trie.root.hex()}, block {self.head.number} says "
                f"0x{self.head.state_root.hex()}",
                mend="remove the node's folder and import the chain again",
            )

    def _remember(self, number: int, changes: Changes, undo: Changes) -> None:
        for key, value in changes:
            self._recent[key] = value
            touched = self._touched[key]
            if not touched and self.store.flat(key) is None:
                insort(self._added, key)
            touched.append(number)
        self._undos[number] = dict(undo)
        self._window_keys += len(undo)

    # ---- reading

    def number_of(self, block_hash: Hash) -> BlockNumber:
        """Raises `UnknownBlock`."""
        number = self.store.number_of(block_hash)
        if number is None:
            raise UnknownBlock(block_hash)
        return number

    def header(self, number: BlockNumber) -> Header:
        found = self.store.header(number)
        assert found is not None
        return found

    def state_at(self, number: BlockNumber) -> StateView:
        """Raises `Pruned`. Ask anew after a block was written: old views are not kept alive."""
        if number < self.oldest:
            raise Pruned(number, self.oldest)
        return StateView(self, number)

    def trie_at(self, number: BlockNumber) -> Trie:
        """Raises `Pruned`: proofs are made for the window alone."""
        found = self._tries.get(number)
        if found is None:
            raise Pruned(number, min(self._tries))
        return found

    def value(self, key: bytes, number: BlockNumber) -> bytes | None:
        touched = self._touched.get(key)
        if touched is not None and number >= self.folded:
            after = bisect_right(touched, number)
            if after < len(touched):
                return self._undos[touched[after]][key]
            return self._recent[key]
        if number < self.folded:
            changed, value = self.store.before(key, number)
            if changed:
                return value
            if touched:
                return self._undos[touched[0]][key]
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

    def prove(self, keys: Sequence[bytes], number: BlockNumber) -> tuple[bytes, ...]:
        return self.trie_at(number).prove(keys, self.state_at(number))

    # ---- growing

    def next_base(self) -> NextBase:
        """What the next block is made over. One for all who look at it until it is written."""
        if self._next_base is None:
            self._next_base = NextBase(self)
        return self._next_base

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
    ) -> None:
        """Commit the block that follows the head. Its state root was computed by `root_with`."""
        assert header.parent_hash == self.head.hash()
        trie, self._next = self._next, None
        assert trie is not None
        assert header.state_root == trie.root
        base = self.next_base()
        undo = tuple((key, base.get(key)) for key, _ in changes)
        folding = self._folding(header.number)
        folded = [self.store.changes(number) for number in folding]
        block = StoredBlock(header, body, changes, undo, messages)
        self.store.commit(block, folding=folding, keep=self.archive)
        self._tries[header.number] = trie
        self.head = header
        self._next_base = None
        for number, past in zip(folding, folded, strict=True):
            self._forget(number, past)
        self._remember(header.number, changes, undo)

    def finalize(self, number: BlockNumber, justification: bytes) -> None:
        assert self.finalized < number <= self.head.number
        self.store.finalize(number, justification)
        self.finalized = number

    def _folding(self, head: int) -> list[BlockNumber]:
        """The final blocks that leave the window when `head` is written, a few at a time."""
        out: list[BlockNumber] = []
        keys = self._window_keys
        for number in range(self.folded + 1, self.folded + 1 + FOLD_BLOCKS_MAX):
            full = keys > WINDOW_KEYS_MAX and number + WINDOW_BLOCKS_MIN <= head
            if number > self.finalized or not (full or number + WINDOW_BLOCKS <= head):
                break
            keys -= len(self._undos[number])
            out.append(BlockNumber(number))
        return out

    def _forget(self, number: BlockNumber, changes: Changes) -> None:
        """A block's changes are in the flat table now."""
        del self._tries[self.folded]
        self._window_keys -= len(self._undos.pop(number))
        self.folded = number
        if not self.archive:
            self.oldest = number
        for key, value in changes:
            touched = self._touched[key]
            del touched[0]
            at = bisect_left(self._added, key)
            listed = at < len(self._added) and self._added[at] == key
            wanted = bool(touched) and value is None
            if listed and not wanted:
                del self._added[at]
            elif wanted and not listed:
                self._added.insert(at, key)
            if not touched:
                del self._touched[key]
                del self._recent[key]
