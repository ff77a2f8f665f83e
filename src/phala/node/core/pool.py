"""Transactions that wait for a block: ready, or in the future of another that is not here yet.

A transaction requires tags and provides tags (an account's nonce, a worker's sequence number). It
is ready when each tag that it requires is provided by a ready one or by the chain's state.
Source: Substrate's `sc-transaction-pool`, `base_pool`.
"""

import enum
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from phala.errors import Refused
from phala.primitives.types import Hash

READY_MAX: Final = 20_000
READY_BYTES_MAX: Final = 64 * 1024 * 1024
FUTURE_MAX: Final = 2_048
FUTURE_BYTES_MAX: Final = 8 * 1024 * 1024
FOR_EVER: Final = 1 << 62  # blocks: no chain has so many
HEAP_MAX: Final = 4 * READY_MAX
BANNED_MAX: Final = 4_096
BANNED_BLOCKS: Final = 64  # blocks for which an invalid transaction is not looked at again


class Status(enum.Enum):
    """What becomes of a transaction; values are the names in `author_extrinsicUpdate`."""

    READY = "ready"
    FUTURE = "future"
    DROPPED = "dropped"
    INVALID = "invalid"
    USURPED = "usurped"


class AlreadyImported(Refused):
    """The pool holds it."""


class Banned(Refused):
    """It was invalid a moment ago."""


class PriorityTooLow(Refused):
    """Another one of the same place is as good."""


class PoolFull(Refused):
    """No room for one that is not better than what is here."""


@dataclass(frozen=True, slots=True)
class Pooled:
    """A valid transaction, as it waits."""

    hash: Hash
    data: bytes
    priority: int
    requires: tuple[bytes, ...]
    provides: tuple[bytes, ...]
    valid_till: int  # block; with that one as the head it is validated again
    decoded: Any = None  # what the runtime read in `data`: the pool only carries it


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction's new status; `by` is who usurped it."""

    hash: Hash
    status: Status
    by: Hash | None = None


class Pool:
    """Ready and future transactions. Whoever changes it gets the changes of status, in order.

    No tag has two ready providers, what ready ones require is provided by ready ones, and a future
    one misses something. A tag that the state provides is required by none.
    """

    def __init__(self) -> None:
        self._ready: dict[Hash, Pooled] = {}
        self._future: dict[Hash, Pooled] = {}  # the oldest first
        self._providers: dict[bytes, Hash] = {}  # tag -> the ready one that provides it
        self._users: dict[bytes, dict[Hash, None]] = {}  # tag -> all that require it
        self._waiting: dict[bytes, dict[Hash, None]] = {}  # tag -> future ones that provide it
        self._banned: dict[Hash, int] = {}
        self._order: dict[Hash, int] = {}
        self._mortal: dict[Hash, int] = {}  # those that are not valid for ever, and till when
        self._taken: dict[Hash, None] = {}  # ready ones that are on their way into a block
        self._heap: list[tuple[int, int, Hash]] = []  # of those that may be taken; some are gone
        # Of all that are ready, while the pool is full: who would make room. Some are gone.
        self._worst: list[tuple[int, int, Hash]] | None = None
        self._count = 0
        self._ready_bytes = 0
        self._future_bytes = 0

    def __len__(self) -> int:
        return len(self._ready)

    def __contains__(self, found: Hash) -> bool:
        return found in self._ready or found in self._future

    def provides(self, tag: bytes) -> bool:
        """Whether a ready transaction provides it."""
        return tag in self._providers

    @property
    def future_count(self) -> int:
        return len(self._future)

    @property
    def ready_bytes(self) -> int:
        return self._ready_bytes

    def data(self) -> Iterator[bytes]:
        """Every ready transaction's bytes."""
        return (each.data for each in self._ready.values())

    def future_data(self) -> Iterator[bytes]:
        """The bytes of those that wait for others."""
        return (each.data for each in self._future.values())

    def ensure_new(self, found: Hash, number: int) -> None:
        """Raises `AlreadyImported` or `Banned`: what is cheap to know before validation."""
        if found in self:
            raise AlreadyImported(
                f"the pool holds 0x{found.hex()}", mend="wait for it to be included"
            )
        if self._banned.get(found, -1) >= number:
            raise Banned(
                f"0x{found.hex()} was invalid before", mend="make a new one, with current values"
            )

    def ban(self, found: Hash, number: int) -> None:
        if len(self._banned) >= BANNED_MAX:
            del self._banned[next(iter(self._banned))]
        self._banned[found] = number + BANNED_BLOCKS

    # ---- coming in

    def add(self, new: Pooled) -> list[Change]:
        """Take a valid transaction in.

        Raises:
            PriorityTooLow: a ready one provides the same and has at least its priority.
            PoolFull: there is no room.
        """
        if not self._satisfied(new):
            return self._add_future(new)
        out = self._add_ready(new)
        return out + self._promote(new.provides) if new.hash in self._ready else out

    def _satisfied(self, each: Pooled) -> bool:
        return all(tag in self._providers for tag in each.requires)

    def _add_future(self, new: Pooled) -> list[Change]:
        """The oldest make room: waiting for what may never come costs its sender nothing."""
        if len(new.data) > FUTURE_BYTES_MAX:
            raise PoolFull(f"{len(new.data)} bytes would wait", mend="send those before it first")
        out = []
        while (
            len(self._future) >= FUTURE_MAX or self._future_bytes + len(new.data) > FUTURE_BYTES_MAX
        ):
            oldest = next(iter(self._future))
            self._drop_future(oldest)
            out.append(Change(oldest, Status.DROPPED))
        self._future[new.hash] = new
        self._future_bytes += len(new.data)
        for tag in new.provides:
            self._waiting.setdefault(tag, {})[new.hash] = None
        self._use(new)
        return [*out, Change(new.hash, Status.FUTURE)]

    def _add_ready(self, new: Pooled) -> list[Change]:
        rivals = {self._providers[tag]: None for tag in new.provides if tag in self._providers}
        for rival in rivals:
            if self._ready[rival].priority >= new.priority:
                raise PriorityTooLow(
                    f"priority {new.priority}, 0x{rival.hex()} has {self._ready[rival].priority}",
                    mend="raise the tip, or use the next nonce",
                )
        out: list[Change] = []
        for worse in self._worse(new, rivals):
            out += self.remove(worse, Status.DROPPED)
        if not self._satisfied(new):  # what it requires was among the worse
            return out + self._add_future(new)
        lost: list[bytes] = []
        for rival in rivals:
            if rival in self._ready:
                lost.extend(self._drop_ready(rival).provides)
            elif rival in self._future:
                self._drop_future(rival)
            out.append(Change(rival, Status.USURPED, new.hash))
        self._ready[new.hash] = new
        self._ready_bytes += len(new.data)
        self._count += 1
        self._order[new.hash] = self._count
        self._providers.update(dict.fromkeys(new.provides, new.hash))
        if self._worst is not None:
            heapq.heappush(self._worst, (new.priority, -self._count, new.hash))
        self._use(new)
        self._offer(new.hash)
        return [*out, Change(new.hash, Status.READY), *self._orphan(lost)]

    def _worse(self, new: Pooled, rivals: Iterable[Hash]) -> list[Hash]:
        """Those that make room for `new`: the latest of the lowest priority first."""
        gone = [self._ready[rival] for rival in rivals]
        count = len(self._ready) - len(gone) + 1 - READY_MAX
        size = self._ready_bytes - sum(len(each.data) for each in gone) + len(new.data)
        size -= READY_BYTES_MAX
        if count <= 0 and size <= 0:
            self._worst = None
            return []
        heap, seen = self._worst_first(), []
        out: list[Hash] = []
        try:
            while count > 0 or size > 0:
                while heap and self._order.get(heap[0][2]) != -heap[0][1]:
                    heapq.heappop(heap)  # it is gone
                if not heap or heap[0][0] >= new.priority:
                    raise PoolFull(
                        f"{len(self._ready)} transactions wait", mend="send it again later"
                    )
                seen.append(heapq.heappop(heap))
                worst = seen[-1][2]
                if worst not in rivals:
                    out.append(worst)
                    count -= 1
                    size -= len(self._ready[worst].data)
        finally:
            for entry in seen:
                heapq.heappush(heap, entry)
        return out

    def _worst_first(self) -> list[tuple[int, int, Hash]]:
        if self._worst is None or len(self._worst) > HEAP_MAX:
            self._worst = [
                (each.priority, -self._order[each.hash], each.hash) for each in self._ready.values()
            ]
            heapq.heapify(self._worst)
        return self._worst

    def _promote(self, provided: Iterable[bytes]) -> list[Change]:
        """Make ready what waited for these tags alone."""
        return self._ripen([user for tag in provided for user in self._users.get(tag, ())])

    def _ripen(self, waiting: Iterable[Hash]) -> list[Change]:
        """Make ready what waits for nothing, and what waited for that."""
        out: list[Change] = []
        left = list(waiting)
        while left:
            found = left.pop()
            ripe = self._future.get(found)
            if ripe is None or not self._satisfied(ripe):
                continue
            self._drop_future(found)
            try:
                out += self._add_ready(ripe)
            except Refused:
                out.append(Change(found, Status.DROPPED))
            else:
                left.extend(user for tag in ripe.provides for user in self._users.get(tag, ()))
        return out

    def _use(self, new: Pooled) -> None:
        if new.valid_till < FOR_EVER:
            self._mortal[new.hash] = new.valid_till
        for tag in new.requires:
            self._users.setdefault(tag, {})[new.hash] = None

    # ---- going out

    def _drop_ready(self, found: Hash) -> Pooled:
        gone = self._ready.pop(found)
        del self._order[found]
        self._taken.pop(found, None)
        self._ready_bytes -= len(gone.data)
        for tag in gone.provides:
            if self._providers.get(tag) == found:
                del self._providers[tag]
        self._unuse(gone)
        return gone

    def _drop_future(self, found: Hash) -> None:
        gone = self._future.pop(found)
        self._future_bytes -= len(gone.data)
        for tag in gone.provides:
            _leave(self._waiting, tag, found)
        self._unuse(gone)

    def _unuse(self, gone: Pooled) -> None:
        self._mortal.pop(gone.hash, None)
        for tag in gone.requires:
            _leave(self._users, tag, gone.hash)

    def remove(self, found: Hash, status: Status) -> list[Change]:
        """Take one out; what depends on it goes back to the future."""
        if found in self._future:
            self._drop_future(found)
            return [Change(found, status)]
        if found not in self._ready:
            return []
        return [Change(found, status), *self._orphan(self._drop_ready(found).provides)]

    def _orphan(self, lost: Iterable[bytes]) -> list[Change]:
        """Nobody may provide these tags any longer: who required them waits again."""
        out: list[Change] = []
        tags = list(lost)
        while tags:
            tag = tags.pop()
            if tag in self._providers:
                continue
            for orphan in [each for each in self._users.get(tag, ()) if each in self._ready]:
                gone = self._drop_ready(orphan)
                tags.extend(gone.provides)
                try:
                    out += self._add_future(gone)
                except PoolFull:
                    out.append(Change(orphan, Status.DROPPED))
        return out

    def included(self, hashes: Iterable[Hash], provided: Iterable[bytes]) -> list[Change]:
        """A block has these transactions, and its state provides these tags.

        Others that provide the same came too late.
        """
        tags = dict.fromkeys(provided)
        for found in hashes:
            if found in self._ready:
                self._drop_ready(found)
            elif found in self._future:
                self._drop_future(found)
        users = [user for tag in tags for user in self._provided_by_state(tag)]
        late = [self._providers[tag] for tag in tags if tag in self._providers]
        late += [each for tag in tags for each in self._waiting.get(tag, ())]
        out: list[Change] = []
        for found in late:
            out += self.remove(found, Status.INVALID)
        return out + self._ripen(users)

    def _provided_by_state(self, tag: bytes) -> Iterable[Hash]:
        """Nobody requires it any longer; who did."""
        users = self._users.pop(tag, {})
        for user in users:
            pool = self._ready if user in self._ready else self._future
            each = pool[user]
            pool[user] = replace(each, requires=tuple(t for t in each.requires if t != tag))
            self._offer(user)
        return users

    def stale(self, number: int) -> list[Pooled]:
        """What must be validated again at this block."""
        pools = (self._ready, self._future)
        return [
            pool[found]
            for pool in pools
            for found, till in self._mortal.items()
            if till <= number and found in pool
        ]

    def every(self) -> list[Pooled]:
        return [*self._ready.values(), *self._future.values()]

    def renew(self, found: Hash, valid_till: int, decoded: Any = None) -> None:
        """It is still valid."""
        for pool in (self._ready, self._future):
            if found in pool:
                pool[found] = replace(pool[found], valid_till=valid_till, decoded=decoded)
                self._mortal[found] = valid_till

    # ---- into a block

    def take(self, count: int) -> list[Pooled]:
        """The best that were not taken before: each after what it requires, else by priority, then
        by when they came. They stay ready until a block has them, or they are removed."""
        out: list[Pooled] = []
        while self._heap and len(out) < count:
            _, _, found = heapq.heappop(self._heap)
            each = self._ready.get(found)
            if each is None or found in self._taken or not self._is_next(each):
                continue
            self._taken[found] = None
            out.append(each)
            for tag in each.provides:
                for user in self._users.get(tag, ()):
                    self._offer(user)
        return out

    def give_back(self, found: Hash) -> None:
        """One that was taken is not in a block: it may be taken again."""
        if self._taken.pop(found, found) is None:
            self._offer(found)

    def _is_next(self, each: Pooled) -> bool:
        """Whether all that it requires was taken."""
        return all(self._providers[tag] in self._taken for tag in each.requires)

    def _offer(self, found: Hash) -> None:
        each = self._ready.get(found)
        if each is not None and found not in self._taken and self._is_next(each):
            heapq.heappush(self._heap, (-each.priority, self._order[found], found))
            if len(self._heap) > HEAP_MAX:  # most in it have left the pool
                kept = [entry for entry in self._heap if self._order.get(entry[2]) == entry[1]]
                self._heap = sorted(dict.fromkeys(kept))


def _leave(where: dict[bytes, dict[Hash, None]], tag: bytes, gone: Hash) -> None:
    """One of a tag's is gone; no tag stays with none."""
    left = where.get(tag, {})
    left.pop(gone, None)
    if not left:
        where.pop(tag, None)
