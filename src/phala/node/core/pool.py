"""Transactions that wait for a block: ready, or in the future of another that is not here yet.

A transaction requires tags and provides tags (an account's nonce, a worker's sequence number). It
is ready when each tag that it requires is provided by a ready one or by the chain's state.
Source: Substrate's `sc-transaction-pool`, `base_pool`.
"""

import enum
import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from phala.errors import Refused
from phala.primitives.types import Hash

READY_MAX: Final = 20_000
FUTURE_MAX: Final = 2_048
BYTES_MAX: Final = 64 * 1024 * 1024
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
    valid_till: int  # block; then it is validated again


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction's new status; `by` is who usurped it."""

    hash: Hash
    status: Status
    by: Hash | None = None


class Pool:
    """Ready and future transactions. Whoever changes it gets the changes of status, in order."""

    def __init__(self) -> None:
        self._ready: dict[Hash, Pooled] = {}
        self._future: dict[Hash, Pooled] = {}
        self._providers: dict[bytes, Hash] = {}  # tag -> the ready one that provides it
        self._missing: dict[Hash, dict[bytes, None]] = {}  # of future ones
        self._waiting: dict[bytes, dict[Hash, None]] = {}  # tag -> future ones
        self._banned: dict[Hash, int] = {}
        self._order: dict[Hash, int] = {}
        self._count = 0
        self._bytes = 0

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

    def data(self) -> Iterator[bytes]:
        """Every ready transaction's bytes."""
        return (each.data for each in self._ready.values())

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

    def add(self, new: Pooled) -> list[Change]:
        """Take a valid transaction in.

        Raises:
            PriorityTooLow: a ready one provides the same and has at least its priority.
            PoolFull: there is no room.
        """
        if self._bytes + len(new.data) > BYTES_MAX:
            raise PoolFull(f"the pool holds {self._bytes} bytes", mend="send it again later")
        missing = {tag: None for tag in new.requires if tag not in self._providers}
        if missing:
            return self._add_future(new, missing)
        out = self._add_ready(new)
        return out + self._promote(new.provides)

    def _add_future(self, new: Pooled, missing: dict[bytes, None]) -> list[Change]:
        if len(self._future) >= FUTURE_MAX:
            raise PoolFull(
                f"{len(self._future)} transactions wait for others", mend="send it again later"
            )
        self._future[new.hash] = new
        self._bytes += len(new.data)
        self._missing[new.hash] = missing
        for tag in missing:
            self._waiting.setdefault(tag, {})[new.hash] = None
        return [Change(new.hash, Status.FUTURE)]

    def _add_ready(self, new: Pooled) -> list[Change]:
        rivals = {self._providers[tag]: None for tag in new.provides if tag in self._providers}
        for rival in rivals:
            if self._ready[rival].priority >= new.priority:
                raise PriorityTooLow(
                    f"priority {new.priority}, 0x{rival.hex()} has {self._ready[rival].priority}",
                    mend="raise the tip, or use the next nonce",
                )
        if not rivals and len(self._ready) >= READY_MAX:
            raise PoolFull(f"{len(self._ready)} transactions wait", mend="send it again later")
        out = [Change(rival, Status.USURPED, new.hash) for rival in rivals]
        for rival in rivals:
            self._drop_ready(rival)
        self._ready[new.hash] = new
        self._bytes += len(new.data)
        self._count += 1
        self._order[new.hash] = self._count
        for tag in new.provides:
            self._providers[tag] = new.hash
        return [*out, Change(new.hash, Status.READY)]

    def _promote(self, provided: Iterable[bytes]) -> list[Change]:
        """Make ready what waited for these tags alone."""
        out: list[Change] = []
        tags = list(provided)
        while tags:
            tag = tags.pop()
            for waiting in self._waiting.pop(tag, {}):
                missing = self._missing[waiting]
                missing.pop(tag, None)
                if missing:
                    continue
                del self._missing[waiting]
                ripe = self._future.pop(waiting)
                self._bytes -= len(ripe.data)
                try:
                    out += self._add_ready(ripe)
                except Refused:
                    out.append(Change(ripe.hash, Status.DROPPED))
                else:
                    tags.extend(ripe.provides)
        return out

    def _drop_ready(self, found: Hash) -> None:
        gone = self._ready.pop(found)
        self._order.pop(found)
        self._bytes -= len(gone.data)
        for tag in gone.provides:
            if self._providers.get(tag) == found:
                del self._providers[tag]

    def _drop_future(self, found: Hash) -> None:
        gone = self._future.pop(found)
        self._bytes -= len(gone.data)
        for tag in self._missing.pop(found):
            waiting = self._waiting.get(tag, {})
            waiting.pop(found, None)
            if not waiting:
                self._waiting.pop(tag, None)

    def remove(self, found: Hash, status: Status) -> list[Change]:
        """Take one out; what depends on it goes back to the future."""
        if found in self._future:
            self._drop_future(found)
            return [Change(found, status)]
        if found not in self._ready:
            return []
        gone = self._ready[found]
        self._drop_ready(found)
        out = [Change(found, status)]
        for orphan in [
            each for each in self._ready.values() if any(t in gone.provides for t in each.requires)
        ]:
            out += self.remove(orphan.hash, Status.FUTURE)
            with_missing = {t: None for t in orphan.requires if t not in self._providers}
            try:
                out += self._add_future(orphan, with_missing)
            except PoolFull:
                out.append(Change(orphan.hash, Status.DROPPED))
        return out

    def included(self, hashes: Iterable[Hash], provided: Iterable[bytes]) -> list[Change]:
        """A block has these transactions, and its state provides these tags."""
        for found in hashes:
            if found in self._ready:
                self._drop_ready(found)
            elif found in self._future:
                self._drop_future(found)
        return self._promote(provided)

    def stale(self, number: int) -> list[Pooled]:
        """What must be validated again at this block."""
        pools = (self._ready, self._future)
        return [each for pool in pools for each in pool.values() if each.valid_till <= number]

    def in_order(self) -> Iterator[Pooled]:
        """Ready ones as a block takes them: each after what it requires, else by priority, then by
        when they came."""
        left: dict[Hash, int] = {}
        dependents: dict[Hash, list[Hash]] = {}
        heap: list[tuple[int, int, Hash]] = []
        for each in self._ready.values():
            before = {self._providers[tag] for tag in each.requires if tag in self._providers}
            before.discard(each.hash)
            if before:
                left[each.hash] = len(before)
                for provider in sorted(before):
                    dependents.setdefault(provider, []).append(each.hash)
            else:
                heap.append((-each.priority, self._order[each.hash], each.hash))
        heapq.heapify(heap)
        while heap:
            _, _, found = heapq.heappop(heap)
            each = self._ready[found]
            yield each
            for dependent in dependents.get(found, ()):
                left[dependent] -= 1
                if not left[dependent]:
                    ripe = self._ready[dependent]
                    heapq.heappush(heap, (-ripe.priority, self._order[dependent], dependent))
