"""A running node: the chain, the pool, and whoever wants to hear of them."""

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from phala.crypto.hashes import blake2_256
from phala.node.chain import View
from phala.node.core.pool import Change, Pool, Pooled, Status
from phala.node.runtimes.table import AnyRuntime, AnyValidator, Runtimes
from phala.primitives.header import Header
from phala.primitives.types import BlockNumber, Hash, Moment
from phala.runtime import InvalidTransaction, Problem, Source, Validator, decode
from phala.trie import State

LOG: Final = logging.getLogger("phala.node")


@dataclass(frozen=True, slots=True)
class NewHead:
    """A block was written."""

    header: Header
    hash: Hash
    keys: frozenset[bytes]  # storage that it changed


@dataclass(frozen=True, slots=True)
class Finalized:
    number: BlockNumber
    hash: Hash
    justification: bytes


@dataclass(frozen=True, slots=True)
class Included:
    """A pooled transaction is in a block, and later in a finalized one."""

    hash: Hash
    block: Hash
    final: bool


Happening: TypeAlias = NewHead | Finalized | Included | Change
Prove: TypeAlias = Callable[[Sequence[bytes], BlockNumber], Awaitable[tuple[bytes, ...]]]
Listener: TypeAlias = Callable[[Happening], None]


class Node:
    """One chain and one pool. Everything here runs on one event loop's thread."""

    def __init__(self, chain: View, runtimes: Runtimes) -> None:
        self.chain = chain
        self.prove: Prove  # set by whoever has the trie
        self.runtimes = runtimes
        self.pool = Pool()
        self.has_work: Callable[[], None] = lambda: None  # called when the pool takes something
        self._validator: AnyValidator | None = None  # of the present head
        self.started = time.monotonic()
        self._listeners: dict[int, Listener] = {}
        self._watchers: dict[Hash, dict[int, Listener]] = {}
        self._next_listener = 0
        self._included: dict[BlockNumber, tuple[Hash, ...]] = {}

    @property
    def runtime(self) -> AnyRuntime:
        """Answers for the head's state, and makes the block after it. Raises `OtherRelease`."""
        return self.runtime_at(self.chain.head.number)

    def runtime_at(self, number: BlockNumber) -> AnyRuntime:
        """Answers for a block's state. Raises `OtherRelease`."""
        return self.runtimes.at(self.chain, number)

    # ---- hearing

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` of every block, and of what becomes final, until the returned function is
        called."""
        return self._enter(self._listeners, listener)

    def watch(self, found: Hash, listener: Listener) -> Callable[[], None]:
        """Call `listener` of all that becomes of one transaction, until the returned function is
        called."""
        watchers = self._watchers.setdefault(found, {})
        end = self._enter(watchers, listener)

        def unwatch() -> None:
            end()
            if not watchers and self._watchers.get(found) is watchers:
                del self._watchers[found]

        return unwatch

    def _enter(self, where: dict[int, Listener], listener: Listener) -> Callable[[], None]:
        self._next_listener += 1
        name = self._next_listener
        where[name] = listener

        def leave() -> None:
            where.pop(name, None)

        return leave

    def tell(self, happening: Happening) -> None:
        if isinstance(happening, Included | Change):
            listeners = self._watchers.get(happening.hash)
            if listeners is None:
                return
        else:
            listeners = self._listeners
        for listener in list(listeners.values()):
            try:
                listener(happening)
            except Exception:  # one listener's trouble is not the node's
                LOG.exception("a listener failed")

    def tell_changes(self, changes: list[Change]) -> None:
        for change in changes:
            self.tell(change)

    # ---- transactions

    def state(self) -> State:
        """A fresh overlay over the head's state."""
        return State(self.chain.state_at(self.chain.head.number))

    def submit(self, data: bytes, *, source: Source = Source.EXTERNAL) -> Hash:
        """Validate a transaction and put it into the pool; its hash.

        Raises:
            InvalidTransaction, Malformed: it cannot be in the next block.
            Refused: the pool does not take it.
        """
        found = Hash(blake2_256(data))
        number = self.chain.head.number
        self.pool.ensure_new(found, number)
        try:
            pooled = self._validated(data, found, source)
        except InvalidTransaction as refusal:
            self._ban(found, refusal)
            raise
        self.tell_changes(self.pool.add(pooled))
        self.has_work()
        return found

    def _validated(self, data: bytes, found: Hash, source: Source) -> Pooled:
        if self._validator is None:
            state = State(self.chain.next_base())
            self._validator = self.runtime.validator(state, self.chain.head)
        # What another release makes of the bytes, it says itself.
        decoded = decode(data) if isinstance(self._validator, Validator) else None
        valid = self._validator.validate(data, source, decoded=decoded)
        return Pooled(
            found,
            data,
            valid.priority,
            valid.requires,
            valid.provides,
            self.chain.head.number + valid.longevity,
            decoded,
        )

    def _ban(self, found: Hash, refusal: InvalidTransaction) -> None:
        """Not for what may soon be mended: funds or earlier transactions may come."""
        if refusal.problem not in (Problem.FUTURE, Problem.PAYMENT):
            self.pool.ban(found, self.chain.head.number)

    def drop(self, found: Hash, refusal: InvalidTransaction) -> None:
        """A pooled transaction is no longer valid."""
        self._ban(found, refusal)
        self.tell_changes(self.pool.remove(found, Status.INVALID))

    def revalidate(self) -> None:
        """Look again at what has waited as long as it said that it is valid."""
        for old in self.pool.stale(self.chain.head.number):
            try:
                again = self._validated(old.data, old.hash, Source.EXTERNAL)
            except InvalidTransaction as refusal:
                LOG.info("dropped from the pool: %s", refusal)
                self.drop(old.hash, refusal)
            except Exception:  # a fault of ours that one input meets must not end the node
                LOG.exception("a transaction broke its validation: 0x%s", old.hash.hex())
                self._validator = None
                self.tell_changes(self.pool.remove(old.hash, Status.INVALID))
            else:
                self.pool.renew(old.hash, again.valid_till)

    # ---- blocks

    def included(self, header: Header, keys: frozenset[bytes], taken: list[Pooled]) -> None:
        """A block was written, with these of the pool in it."""
        self._validator = None
        block = header.hash()
        self.tell(NewHead(header, block, keys))
        for each in taken:
            self.tell(Included(each.hash, block, final=False))
        self._included[header.number] = tuple(each.hash for each in taken)
        changes = self.pool.included(
            (each.hash for each in taken), (tag for each in taken for tag in each.provides)
        )
        self.tell_changes(changes)

    def finalized(self, number: BlockNumber, justification: bytes) -> None:
        """A block and its ancestors are final: on disk already."""
        block = self.chain.header(number).hash()
        self.tell(Finalized(number, block, justification))
        for past in [each for each in self._included if each <= number]:
            hashes = self._included.pop(past)
            if hashes:
                where = self.chain.header(past).hash()
                for found in hashes:
                    self.tell(Included(found, where, final=True))


def now() -> Moment:
    """The wall clock, for the one place that needs it: a new block's timestamp."""
    return Moment(time.time_ns() // 1_000_000)
