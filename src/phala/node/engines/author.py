"""Makes blocks of what it is handed, and says what became of it: no clock, no pool, no socket.

A block is committed before it is signed, so a kill in between can never finalize two blocks of one
number. Finality lags the head by a block: clients that hear of both at once lose the first.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from phala.crypto.signatures import Keypair
from phala.errors import Refused
from phala.finality import Authority
from phala.node.chain import Growth
from phala.node.tools.revert import revert
from phala.node.writer import Spoilt, Writer, can_finalize
from phala.primitives.types import BlockNumber, Moment
from phala.runtime import CODE_KEY, Decoded, InvalidTransaction, Problem

LOG: Final = logging.getLogger("phala.node.author")
WORK_S: Final = 0.5  # between two blocks while there is work
BACKLOG_S: Final = 0.1  # after a block that had no room for all; clients need 50 ms, as above
IDLE_S: Final = 3.0
FINALIZED_MAX: Final = 128  # blocks with one that is written: others wait meanwhile
FULL_BLOCKS_MAX: Final = 3  # that had no room for one extrinsic alone: none will


def ensure_authority(
    keys: tuple[Keypair, ...], authorities: tuple[Authority, ...]
) -> tuple[Keypair, ...]:
    """The keys, or `Refused` where the chain's authorities are others, by weight."""
    own = tuple(key.public for key in keys)
    if not can_finalize(authorities, own):
        raise Refused(
            f"the chain's authorities are {[each.key.hex() for each in authorities]}, "
            f"this node's keys are {[each.hex() for each in own]}",
            mend="put the authority's key into this node's folder",
        )
    return keys


@dataclass(frozen=True, slots=True)
class Handed:
    """An extrinsic whose signature is good, for a block with a number up to `valid_till`."""

    data: bytes
    valid_till: int
    decoded: Decoded | None = None


Refusals: TypeAlias = tuple[tuple[int, InvalidTransaction], ...]


@dataclass(frozen=True, slots=True)
class Executed:
    """The next `count` of those handed are in the open block, but for some, by position."""

    count: int
    refused: Refusals


@dataclass(frozen=True, slots=True)
class Written:
    """The open block is committed, with all that were executed, but for some, by position."""

    growth: Growth
    fallen: Refusals  # when the block was begun again without one that broke it


@dataclass(frozen=True, slots=True)
class Justified:
    """A block's justification is committed."""

    number: BlockNumber
    justification: bytes


@dataclass(frozen=True, slots=True)
class Reverted:
    """The blocks above this one are gone, and so is all that was handed."""

    number: BlockNumber


News: TypeAlias = Executed | Written | Justified | Reverted


def _outdated(each: Handed) -> Handed:
    return replace(each, valid_till=0, decoded=None)


def _broke() -> InvalidTransaction:
    return InvalidTransaction(
        Problem.CALL,
        why="the node met an error of its own while applying it",
        mend="report it with the node's log; send nothing like it meanwhile",
    )


class Author:
    """The one authority's pen."""

    def __init__(
        self, writer: Writer, keys: tuple[Keypair, ...], tell: Callable[[News], None]
    ) -> None:
        self.writer = writer
        self._keys = keys
        self._tell = tell
        self._waiting: deque[Handed] = deque()
        self._applied: list[Handed] = []  # in the open block, in order
        self._fallen: list[tuple[int, InvalidTransaction]] = []
        self._full_blocks = 0  # one after the other, that began with one that found no room
        self._ruled_since = 0  # the last block whose state names another release than before
        self._lags = False  # more is to be finalized than at once
        self.hold: BlockNumber | None = None  # nothing above it is finalized
        self.full = False  # the open block has no room for all that waits
        self.backlog = False  # the head had none
        chain = writer.chain
        self._work_on_top = len(chain.store.body(chain.head.number)) > 1

    def hand(self, more: Iterable[Handed], *, seen: int | None = None) -> None:
        """`seen` is the head for which they were validated, where that may not be the present one.
        What was signed for another release's rules goes back."""
        if seen is not None and seen < self._ruled_since:
            more = map(_outdated, more)
        self._waiting.extend(more)

    def use(self, keys: tuple[Keypair, ...]) -> None:
        """Finalize by these from now on."""
        self._keys = keys

    @property
    def has_work(self) -> bool:
        """Whether some extrinsic waits, or is in no finalized block yet; or many blocks are in none
        because a snapshot held them."""
        return bool(self._waiting or self._applied) or self._work_on_top or self._lags

    @property
    def can_execute(self) -> bool:
        return bool(self._waiting) and not self.full

    @property
    def pace_s(self) -> float:
        """From the head to the next block."""
        if not self.has_work:
            return IDLE_S
        return BACKLOG_S if self.backlog or self.full else WORK_S

    def execute(self, now: Moment, *, count: int) -> None:
        """Apply some of what waits, in a block that is begun at `now` where none is open."""
        if not self.writer.is_open:
            self._begin(now)
        done = 0
        refused: list[tuple[int, InvalidTransaction]] = []
        while done < count and self.can_execute:
            each = self._waiting[0]
            refusal = self._apply(each, now)
            if self.full:
                break
            self._waiting.popleft()
            if refusal is None:
                self._applied.append(each)
            else:
                refused.append((done, refusal))
            done += 1
        if done:
            self._tell(Executed(done, tuple(refused)))

    def _begin(self, now: Moment) -> None:
        self.writer.open(now)
        self.full = False

    def _apply(self, each: Handed, now: Moment) -> InvalidTransaction | None:
        if each.valid_till <= self.writer.chain.head.number:
            # Its signature may be of another era; whoever handed it looks again.
            return InvalidTransaction(Problem.FUTURE, mend="validate it again")
        try:
            self.writer.apply(each.data, each.decoded)
        except InvalidTransaction as refusal:
            if refusal.problem is not Problem.EXHAUSTS_RESOURCES:
                return refusal
            if self._applied:
                self._full_blocks = 0
            self._full_blocks += 1
            self.full = self._full_blocks <= FULL_BLOCKS_MAX
            return refusal
        except Spoilt as spoilt:
            LOG.exception("an extrinsic broke the block", exc_info=spoilt.error)
            self._begin_again(now)
            return _broke()
        self._full_blocks = 0
        return None

    def _begin_again(self, now: Moment) -> None:
        """The same block without the extrinsic that broke it: a bug of ours that one of them meets
        must not end the node."""
        gone = [position for position, _ in self._fallen]
        while not self.writer.is_open:
            self._begin(now)
            for position, each in enumerate(self._applied):
                if position in gone:
                    continue
                try:
                    self.writer.apply(each.data, each.decoded)
                except InvalidTransaction as refusal:
                    gone.append(position)
                    self._fallen.append((position, refusal))
                except Spoilt as spoilt:
                    LOG.exception("an extrinsic broke the block", exc_info=spoilt.error)
                    gone.append(position)
                    self._fallen.append((position, _broke()))
                    break

    def write(self, now: Moment) -> None:
        """Commit the open block, or an empty one; then finalize those before it."""
        chain = self.writer.chain
        if not self.writer.is_open:
            self._begin(now)
        parent = chain.head
        self.backlog = self.full
        self._work_on_top = self.writer.extrinsics > 0
        growth = self.writer.seal(*self._keys)
        fallen, self._fallen, self._applied = tuple(self._fallen), [], []
        self.full = False
        if any(key == CODE_KEY for key, _ in growth.changes):
            self._ruled_since = growth.header.number
            self._waiting = deque(map(_outdated, self._waiting))
        self._tell(Written(growth, fallen))
        last = parent.number if self.hold is None else min(parent.number, self.hold)
        self._lags = last > chain.finalized + FINALIZED_MAX
        last = min(last, BlockNumber(chain.finalized + FINALIZED_MAX))
        for number in range(chain.finalized + 1, last + 1):
            self.finalize(BlockNumber(number))

    def revert(self, number: BlockNumber) -> None:
        """Forget the blocks above `number`, the open one, and all that waits."""
        chain = self.writer.chain
        self.writer.close()
        self._waiting.clear()
        self._applied, self._fallen = [], []
        self.full = self.backlog = False
        self._full_blocks = 0
        chain.trie_at(number)  # by what the store is about to forget
        revert(chain.store, number)
        chain.shrink(number)
        self._ruled_since = min(self._ruled_since, number)
        self._work_on_top = len(chain.store.body(number)) > 1
        self._tell(Reverted(number))

    def finalize(self, number: BlockNumber) -> None:
        """Sign a committed block, commit its justification, then tell of it."""
        self._tell(Justified(number, self.writer.finalize(number, *self._keys)))
