"""Authorities: who finalizes, by whose word that changes, and who did before.

The set is changed in one place, at a block's end and once a block: light clients follow one digest
(`ScheduledChange`, delay 0) a block. Sessions change it, from the members that governance names,
or governance does at once. A change of weights alone is a change: votes are counted by them. Sets
that were replaced are kept until what their members staked is unbound, so that two votes of one
key can still be judged.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Final, Protocol, TypeAlias, cast

from phala.codec import U32, U64, Compact, Descriptor, FixedBytes, Newtype, Tuple, Vector
from phala.frame import (
    MICROSECOND,
    Block,
    Constant,
    Hasher,
    Origin,
    Pallet,
    PalletError,
    StorageMap,
    StorageOption,
    StorageValue,
    call,
    ensure_root,
    event,
)
from phala.primitives.types import ACCOUNT_ID, MOMENT, AccountId, Moment, scale

MEMBERS_MAX: Final = 100  # a header carries the whole set
WEIGHTS_MAX: Final = (1 << 64) - 1  # of all together: votes are counted in 64 bits elsewhere
UNBONDING_MS: Final = 21 * 24 * 3600 * 1000
EACH_REF_TIME: Final = 10 * MICROSECOND

KEY: Final[Newtype[bytes]] = Newtype(("sp_consensus_grandpa", "app", "Public"), FixedBytes(32))
KeySet: TypeAlias = tuple[tuple[bytes, int], ...]  # ed25519 public key, weight
Members: TypeAlias = tuple[tuple[AccountId, int], ...]
KEY_SET: Final = cast("Descriptor[KeySet]", Vector(Tuple((KEY, U64)), items_max=MEMBERS_MAX))
MEMBERS: Final = cast(
    "Descriptor[Members]", Vector(Tuple((ACCOUNT_ID, U64)), items_max=MEMBERS_MAX)
)
SET_ID: Final[Compact[int]] = Compact(U64)


class NoMembers(PalletError):
    """Nobody would finalize: name one member at least."""


class NotSorted(PalletError):
    """Members are not in ascending order, each once: sort them."""


class NoWeight(PalletError):
    """A member weighs nothing, or all together too much: give each a weight, of 64 bits in sum."""


class NoSessionKeys(PalletError):
    """A member has no session keys: have it set them first."""


@dataclass(frozen=True, slots=True)
class PastSet:
    """A set that finalizes no more."""

    authorities: Annotated[KeySet, KEY_SET]
    until: Moment  # the time of the last block that it finalizes


@event
class MembersSet:
    """These many members finalize from the session after next on."""

    members: Annotated[int, U32]


@event
class SetChanged:
    """Another set finalizes every later block."""

    set_id: Annotated[int, U64]
    authorities: Annotated[KeySet, KEY_SET]


@event
class SetForgotten:
    """What a set's members staked is unbound: the set is kept no longer."""

    set_id: Annotated[int, U64]


class Finality(Protocol):
    """Who keeps the present set."""

    def present(self) -> tuple[int, KeySet]: ...
    def change_authorities(self, authorities: KeySet, /) -> None: ...


class Clock(Protocol):
    """The chain's time."""

    def time(self) -> Moment: ...


class Keys(Protocol):
    """Who keeps session keys."""

    def has_keys(self, who: AccountId, /) -> bool: ...


def count_of(items: tuple[object, ...]) -> int:
    return len(items)


class Authorities(Pallet):
    """Who finalizes."""

    name = "Authorities"
    members: StorageValue[Members] = StorageValue(
        MEMBERS, default=(), doc="Who is to finalize, and with which weight."
    )
    queued_members: StorageValue[Members] = StorageValue(
        MEMBERS, default=(), doc="The members of the next session."
    )
    scheduled = StorageOption(KEY_SET, doc="The set that this block's end brings.")
    past_sets: Any = StorageMap(
        Hasher.TWOX_64_CONCAT, U64, scale(PastSet), doc="Sets that were replaced, by their id."
    )
    oldest_set = StorageValue(U64, default=0, doc="The first set that is kept.")

    def __init__(self, block: Block, *, finality: Finality, clock: Clock, keys: Keys) -> None:
        super().__init__(block)
        self.finality = finality
        self.clock = clock
        self.keys = keys

    # ---- what runs by itself

    def on_initialize(self) -> int:
        """Forget the oldest set whose time is over."""
        oldest = self.oldest_set.get()
        if oldest == self.finality.present()[0]:
            return 0
        past: PastSet | None = self.past_sets.get(oldest)
        if past is None or past.until + UNBONDING_MS < self.clock.time():
            self.past_sets.delete(oldest)
            self.oldest_set.put(oldest + 1)
            self.emit(SetForgotten(oldest))
        return EACH_REF_TIME

    def on_finalize(self) -> None:
        """Bring the set that this block scheduled: the latest, where it scheduled several."""
        following = self.scheduled.get()
        if following is None:
            return
        self.scheduled.delete()
        set_id, present = self.finality.present()
        if following == present:
            return
        self.past_sets.put(set_id, PastSet(present, self.clock.time()))
        self.finality.change_authorities(following)
        self.emit(SetChanged(set_id + 1, following))

    # ---- for sessions

    def next_members(self) -> tuple[AccountId, ...] | None:
        """Who takes part in the session after next; None where nothing changed."""
        members = self.members.get()
        if members == self.queued_members.get():
            return None
        self.queued_members.put(members)
        return tuple(who for who, _ in members) or None

    def begin(self, members: tuple[tuple[AccountId, bytes], ...]) -> None:
        """A session begins: these accounts' keys finalize from this block's end on."""
        weights = dict(self.queued_members.get())
        following = tuple((key, weights[who]) for who, key in members if who in weights)
        if following:
            self.scheduled.put(following)

    # ---- calls

    @call(60 * MICROSECOND, count=count_of, each=EACH_REF_TIME)
    def set_members(self, origin: Origin, members: Annotated[Members, MEMBERS]) -> None:
        """Say who is to finalize by session keys, and with which weight: the chain itself may.

        It comes into force when the session after the next begins.
        """
        ensure_root(origin)
        ensure_set(members)
        if not all(self.keys.has_keys(who) for who, _ in members):
            raise NoSessionKeys
        self.members.put(members)
        self.emit(MembersSet(len(members)))

    @call(60 * MICROSECOND, count=count_of, each=EACH_REF_TIME)
    def force_authorities(self, origin: Origin, authorities: Annotated[KeySet, KEY_SET]) -> None:
        """Have other keys finalize every later block, whatever sessions say until members are
        set again: the chain itself may."""
        ensure_root(origin)
        ensure_set(authorities)
        self.scheduled.put(authorities)
        self.members.put(())
        self.queued_members.put(())

    calls: ClassVar = {0: set_members, 1: force_authorities}
    events: ClassVar = {0: MembersSet, 1: SetChanged, 2: SetForgotten}
    errors: ClassVar = {0: NoMembers, 1: NotSorted, 2: NoWeight, 3: NoSessionKeys}
    constants: ClassVar = (
        Constant("MaxMembers", U32, MEMBERS_MAX, "The most members."),
        Constant(
            "UnbondingPeriod", MOMENT, Moment(UNBONDING_MS), "How long a replaced set is kept."
        ),
    )


def ensure_set(weighted: tuple[tuple[bytes, int], ...]) -> None:
    if not weighted:
        raise NoMembers
    if any(one >= other for (one, _), (other, _) in pairwise(weighted)):
        raise NotSorted
    if any(weight == 0 for _, weight in weighted):
        raise NoWeight
    if sum(weight for _, weight in weighted) > WEIGHTS_MAX:
        raise NoWeight
