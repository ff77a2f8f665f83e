"""Vesting: funds that are an account's, and become free block by block.

Source: `pallet-vesting`: calls, events, errors, their numbers, and its arithmetic.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Protocol

from phala.codec import U32, Vector
from phala.frame import (
    MICROSECOND,
    Block,
    Constant,
    Described,
    Hasher,
    Origin,
    Pallet,
    PalletError,
    StorageMap,
    account_at,
    call,
    ensure_root,
    ensure_signed,
    event,
)
from phala.primitives.address import MULTI_ADDRESS, MultiAddress
from phala.primitives.types import BALANCE, PHA, AccountId, Balance, BlockNumber, scale

SCHEDULES_MAX: Final = 28
TRANSFER_MIN: Final = Balance(PHA)  # so that nobody fills another's schedules for nothing
LOCK: Final = b"vesting "


class NotVesting(PalletError):
    """The account has no funds that become free later: nothing is to be done."""


class AtMaxVestingSchedules(PalletError):
    """The account has as many schedules as it can: merge two first."""


class AmountLow(PalletError):
    """The amount is too small for a schedule: send more."""


class ScheduleIndexOutOfBounds(PalletError):
    """The account has no schedule of that number: look up its schedules."""


class InvalidScheduleParams(PalletError):
    """Nothing would become free, or no such schedule is there: give more than 0 a block."""


@dataclass(frozen=True, slots=True)
class ScheduleRecord:
    locked: Balance
    per_block: Balance
    starting_block: BlockNumber

    def locked_at(self, now: BlockNumber) -> int:
        passed = max(now - self.starting_block, 0)
        return max(self.locked - passed * self.per_block, 0)

    def ending_block(self) -> int:
        """The first block in which all is free."""
        return self.starting_block + -(-self.locked // self.per_block)


SCHEDULE: Final[Described[ScheduleRecord]] = Described(
    ("pallet_vesting", "vesting_info", "VestingInfo"), scale(ScheduleRecord)
)
Schedules = tuple[ScheduleRecord, ...]


@event
class VestingCreated:
    """An account has one more schedule."""

    account: AccountId
    schedule_index: Annotated[int, U32]


@event
class VestingUpdated:
    """So much is not free yet."""

    account: AccountId
    unvested: Balance


@event
class VestingCompleted:
    """All is free."""

    account: AccountId


class Currency(Protocol):
    """Who keeps balances."""

    def move(
        self, source: AccountId, target: AccountId, amount: Balance, *, keep_alive: bool
    ) -> None: ...
    def set_lock(self, name: bytes, who: AccountId, amount: Balance) -> None: ...


class Vesting(Pallet):
    """Funds that become free block by block."""

    name = "Vesting"
    vesting: Any = StorageMap(
        Hasher.BLAKE2_128_CONCAT,
        AccountId,
        Vector(SCHEDULE, items_max=SCHEDULES_MAX),
        doc="An account's schedules.",
    )

    def __init__(self, block: Block, *, currency: Currency) -> None:
        super().__init__(block)
        self.currency = currency

    # ---- calls

    @call(60 * MICROSECOND)
    def vest(self, origin: Origin) -> None:
        """Free what has become free of the signer's."""
        who = ensure_signed(origin)
        self._write(who, self._schedules(who))

    @call(60 * MICROSECOND)
    def vest_other(self, origin: Origin, target: Annotated[MultiAddress, MULTI_ADDRESS]) -> None:
        """Free what has become free of another's."""
        ensure_signed(origin)
        who = account_at(target)
        self._write(who, self._schedules(who))

    @call(120 * MICROSECOND)
    def vested_transfer(
        self,
        origin: Origin,
        target: Annotated[MultiAddress, MULTI_ADDRESS],
        schedule: Annotated[ScheduleRecord, SCHEDULE],
    ) -> None:
        """Send funds that become free block by block."""
        self._send(ensure_signed(origin), account_at(target), schedule)

    @call(120 * MICROSECOND)
    def force_vested_transfer(
        self,
        origin: Origin,
        source: Annotated[MultiAddress, MULTI_ADDRESS],
        target: Annotated[MultiAddress, MULTI_ADDRESS],
        schedule: Annotated[ScheduleRecord, SCHEDULE],
    ) -> None:
        """As `vested_transfer`, from any account: the chain itself may."""
        ensure_root(origin)
        self._send(account_at(source), account_at(target), schedule)

    @call(80 * MICROSECOND)
    def merge_schedules(
        self,
        origin: Origin,
        schedule1_index: Annotated[int, U32],
        schedule2_index: Annotated[int, U32],
    ) -> None:
        """Make one schedule of two, which ends when the later of them does."""
        who = ensure_signed(origin)
        if schedule1_index == schedule2_index:
            return
        schedules, chosen = self._schedules(who), (schedule1_index, schedule2_index)
        if max(chosen) >= len(schedules):
            raise ScheduleIndexOutOfBounds
        others = tuple(each for index, each in enumerate(schedules) if index not in chosen)
        one, two = (schedules[index] for index in chosen)
        self._write(who, (*others, *merged(self.block.number, one, two)))

    @call(80 * MICROSECOND)
    def force_remove_vesting_schedule(
        self,
        origin: Origin,
        target: Annotated[MultiAddress, MULTI_ADDRESS],
        schedule_index: Annotated[int, U32],
    ) -> None:
        """End a schedule, whose funds are free at once: the chain itself may."""
        ensure_root(origin)
        who = account_at(target)
        schedules = self.vesting.get(who) or ()
        if schedule_index >= len(schedules):
            raise InvalidScheduleParams
        self._write(who, (*schedules[:schedule_index], *schedules[schedule_index + 1 :]))

    # ---- for genesis and other pallets

    def add(self, who: AccountId, schedule: ScheduleRecord) -> None:
        """Lock funds that the account has. Raises as `vested_transfer` does."""
        ensure_valid(schedule)
        schedules: Schedules = self.vesting.get(who) or ()
        if len(schedules) >= SCHEDULES_MAX:
            raise AtMaxVestingSchedules
        self.emit(VestingCreated(who, len(schedules)))
        self._write(who, (*schedules, schedule))

    # ---- what they share

    def _schedules(self, who: AccountId) -> Schedules:
        found: Schedules | None = self.vesting.get(who)
        if found is None:
            raise NotVesting
        return found

    def _send(self, source: AccountId, target: AccountId, schedule: ScheduleRecord) -> None:
        if schedule.locked < TRANSFER_MIN:
            raise AmountLow
        ensure_valid(schedule)
        self.currency.move(source, target, schedule.locked, keep_alive=False)
        self.add(target, schedule)

    def _write(self, who: AccountId, schedules: Schedules) -> None:
        """Keep those that are not over, and lock what they come to now."""
        now = self.block.number
        left = tuple(each for each in schedules if each.locked_at(now))
        locked = Balance(sum(each.locked_at(now) for each in left))
        self.currency.set_lock(LOCK, who, locked)
        if left:
            self.vesting.put(who, left)
            self.emit(VestingUpdated(who, locked))
        else:
            self.vesting.delete(who)
            self.emit(VestingCompleted(who))

    calls: ClassVar = {
        0: vest,
        1: vest_other,
        2: vested_transfer,
        3: force_vested_transfer,
        4: merge_schedules,
        5: force_remove_vesting_schedule,
    }
    events: ClassVar = {0: VestingUpdated, 1: VestingCompleted, 2: VestingCreated}
    errors: ClassVar = {
        0: NotVesting,
        1: AtMaxVestingSchedules,
        2: AmountLow,
        3: ScheduleIndexOutOfBounds,
        4: InvalidScheduleParams,
    }
    constants: ClassVar = (
        Constant("MinVestedTransfer", BALANCE, TRANSFER_MIN, "The least that is sent so."),
        Constant("MaxVestingSchedules", U32, SCHEDULES_MAX, "The most schedules of an account."),
    )


def ensure_valid(schedule: ScheduleRecord) -> None:
    if not (schedule.locked and schedule.per_block):
        raise InvalidScheduleParams


def merged(now: BlockNumber, one: ScheduleRecord, two: ScheduleRecord) -> Schedules:
    """The schedule of both; the one that is not over; or none."""
    left = tuple(each for each in (one, two) if each.ending_block() > now)
    if len(left) < 2:
        return left
    locked = one.locked_at(now) + two.locked_at(now)
    start = max(now, one.starting_block, two.starting_block)
    blocks = max(max(one.ending_block(), two.ending_block()) - start, 1)
    per_block = Balance(max(locked // blocks, 1))
    return (ScheduleRecord(Balance(locked), per_block, BlockNumber(start)),)
