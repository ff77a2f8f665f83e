"""A running node: the chain, the pool, and whoever wants to hear of them."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from phala.crypto.hashes import blake2_256
from phala.errors import PhalaError
from phala.node.chain import View
from phala.node.core.pool import AlreadyImported, Change, Pool, Pooled, PoolFull, Status
from phala.node.runtimes.table import AnyRuntime, AnyValidator, Runtimes
from phala.node.verifiers import Batches, bad_signature
from phala.primitives.header import Header
from phala.primitives.types import BlockNumber, Hash, Moment
from phala.runtime import (
    CODE_KEY,
    Decoded,
    InvalidTransaction,
    Problem,
    Source,
    Validator,
    decode,
)
from phala.trie import State

LOG: Final = logging.getLogger("phala.node")
CHECKING_BYTES_MAX: Final = 16 * 1024 * 1024  # of extrinsics whose signatures wait to be verified
CHECKING_MAX: Final = 8_192


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


@dataclass(frozen=True, slots=True)
class Reverted:
    """On a development network: the blocks above this one are no more."""

    number: BlockNumber


Happening: TypeAlias = NewHead | Finalized | Included | Change | Reverted
Cheat: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]
Prove: TypeAlias = Callable[[Sequence[bytes], BlockNumber], Awaitable[tuple[bytes, ...]]]
Listener: TypeAlias = Callable[[Happening], None]


@dataclass(slots=True)
class Watched:
    """A process beside the node's own, that is begun again when it ends."""

    alive: bool
    restarts: int = 0


class Node:
    """One chain and one pool. Everything here runs on one event loop's thread."""

    def __init__(self, chain: View, runtimes: Runtimes) -> None:
        self.chain = chain
        self.prove: Prove  # set by whoever has the trie
        self.cheat: Cheat  # likewise; what `engines.dev` does, on a development network
        self.runtimes = runtimes
        self.pool = Pool()
        self.has_work: Callable[[], None] = lambda: None  # called when the pool takes something
        self.taken_in: Callable[[bytes], None] = lambda _: None  # called with each of those
        self.signatures: Batches | None = None  # verifies many at once
        self._checking: dict[Hash, None] = {}  # whose signatures are being verified
        self._checking_bytes = 0
        self._validator: AnyValidator | None = None  # of the present head
        self._other_rules = False  # the head's state names another release than its parent's
        self.keys_changed: Callable[[], None] = lambda: None  # set by whoever finalizes
        self.indexer: Watched | None = None  # None: there is none, as in one process
        self.started = time.monotonic()
        self._listeners: dict[int, Listener] = {}
        self._watchers: dict[Hash, dict[int, Listener]] = {}
        self._next_listener = 0
        self._included: dict[BlockNumber, list[Hash]] = {}

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
            if change.hash in self._watchers:
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
        self.pool.ensure_new(found, self.chain.head.number)
        try:
            pooled = self._validated(data, found, source)
        except InvalidTransaction as refusal:
            self._ban(found, refusal)
            raise
        self._take_in(pooled)
        return found

    def submit_soon(self, data: bytes) -> Hash | Awaitable[Hash]:
        """The same, but its signature may be verified with others', in another process."""
        signatures = self.signatures
        if signatures is None or signatures.here():
            return self.submit(data)
        validator = self._present_validator()
        if not isinstance(validator, Validator):
            return self.submit(data)
        found = Hash(blake2_256(data))
        self.pool.ensure_new(found, self.chain.head.number)
        if found in self._checking:
            raise AlreadyImported(f"0x{found.hex()} is being checked", mend="wait for it")
        waiting, size = len(self._checking), self._checking_bytes
        if waiting >= CHECKING_MAX or size + len(data) > CHECKING_BYTES_MAX:
            raise PoolFull(f"{waiting} of {size} bytes are being checked", mend="send it later")
        try:
            pooled = self._validated(data, found, Source.EXTERNAL, check_signature=False)
            check = validator.signature_check(data, decoded=pooled.decoded)
        except InvalidTransaction as refusal:
            self._ban(found, refusal)
            raise
        if check is None:
            self._take_in(pooled)
            return found
        answer: asyncio.Future[Hash] = asyncio.get_running_loop().create_future()
        self._checking[found] = None
        self._checking_bytes += len(data)

        def done(good: bool) -> None:  # noqa: FBT001 - as `Done` has it
            del self._checking[found]
            self._checking_bytes -= len(data)
            try:
                self._checked(pooled, validator, good=good)
            except PhalaError as error:
                if not answer.cancelled():
                    answer.set_exception(error)
            else:
                if not answer.cancelled():
                    answer.set_result(found)

        signatures.check(check, done)
        return answer

    def _checked(self, pooled: Pooled, validator: Validator, *, good: bool) -> None:
        """A signature was verified, maybe a block after the rest was."""
        try:
            if not good:
                raise bad_signature()
            if validator is not self._validator:
                # Also the signature: it may be of an era that ended meanwhile.
                pooled = self._validated(pooled.data, pooled.hash, Source.EXTERNAL)
        except InvalidTransaction as refusal:
            self._ban(pooled.hash, refusal)
            raise
        self._take_in(pooled)

    def _take_in(self, pooled: Pooled) -> None:
        changes = self.pool.add(pooled)
        if self._watchers:
            self.tell_changes(changes)
        self.taken_in(pooled.data)
        self.has_work()

    def _present_validator(self) -> AnyValidator:
        if self._validator is None:
            state = State(self.chain.next_base())
            self._validator = self.runtime.validator(state, self.chain.head)
        return self._validator

    def _validated(
        self, data: bytes, found: Hash, source: Source, *, check_signature: bool = True
    ) -> Pooled:
        validator = self._present_validator()
        # What another release makes of the bytes, it says itself.
        decoded = decode(data) if isinstance(validator, Validator) else None
        valid = validator.validate(data, source, check_signature=check_signature, decoded=decoded)
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
        """Look again at what has waited as long as it said that it is valid; at all of it where
        another release makes the next block: it reads the bytes and what was signed otherwise."""
        pool, other_rules = self.pool, self._other_rules
        old_ones = pool.every() if other_rules else pool.stale(self.chain.head.number)
        self._other_rules = False
        dropped = 0
        for old in old_ones:
            try:
                if not other_rules:
                    ensure_not_ended(old)
                again = self._validated(old.data, old.hash, Source.EXTERNAL)
            except InvalidTransaction as refusal:
                dropped += 1
                self.drop(old.hash, refusal)
            except Exception:  # a fault of ours that one input meets must not end the node
                LOG.exception("a transaction broke its validation: 0x%s", old.hash.hex())
                self._validator = None
                self.tell_changes(self.pool.remove(old.hash, Status.INVALID))
            else:
                self.pool.renew(old.hash, again.valid_till, again.decoded)
        if dropped:
            LOG.info("%d of the pool are no longer valid", dropped)

    # ---- blocks

    def grown(self, header: Header, keys: frozenset[bytes]) -> None:
        """A block was written. What of the pool it holds, `included` is told after that."""
        self._validator = None
        self._other_rules |= CODE_KEY in keys
        self._included[header.number] = []
        self.tell(NewHead(header, header.hash(), keys))

    def included(self, number: BlockNumber, block: Hash, some: list[Pooled]) -> None:
        """The head holds these of the pool. Those of a large block come in slices, between which
        others use the loop: what is still to come is ready meanwhile, and stale by the state."""
        for each in some:
            if each.hash in self._watchers:
                self.tell(Included(each.hash, block, final=False))
        self._included[number] += [each.hash for each in some]
        changes = self.pool.included(
            (each.hash for each in some), (tag for each in some for tag in each.provides)
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
                    if found in self._watchers:
                        self.tell(Included(found, where, final=True))

    def reverted(self, number: BlockNumber) -> None:
        """Blocks above that one are gone. What waits was judged by them: it goes, too."""
        self._validator = None
        lost = [each for at in self._included if at > number for each in self._included[at]]
        for at in [each for each in self._included if each > number]:
            del self._included[at]
        self.tell_changes([Change(each, Status.DROPPED) for each in lost])
        self.tell_changes([Change(each.hash, Status.DROPPED) for each in self.pool.every()])
        self.pool = Pool()
        self.tell(Reverted(number))


def ensure_not_ended(waited: Pooled) -> None:
    """What an account signed was valid as long as its era, so its signature need not be looked at:
    thousands may end with one block. Raises `InvalidTransaction`."""
    if isinstance(waited.decoded, Decoded) and waited.decoded.extrinsic.signature is not None:
        raise InvalidTransaction(
            Problem.ANCIENT_BIRTH_BLOCK,
            mend="sign it again",
            why=f"its era ended with block {waited.valid_till}",
        )


def now() -> Moment:
    """The wall clock, for the one place that needs it: a new block's timestamp."""
    return Moment(time.time_ns() // 1_000_000)
