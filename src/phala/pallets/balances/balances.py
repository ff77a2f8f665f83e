"""Balances: PHA of accounts. What an account holds is what it was given less what it gave.

Calls, events and their numbers are `pallet-balances`'s.
"""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Final, Protocol

from phala.codec import BOOL, U32, Compact, Vector
from phala.frame import (
    MICROSECOND,
    AccountData,
    AccountInfo,
    Block,
    Constant,
    ConsumerRemaining,
    DefaultMap,
    FundsUnavailable,
    Hasher,
    NotExpendable,
    Origin,
    Pallet,
    StorageValue,
    account_at,
    call,
    ensure_root,
    ensure_signed,
)
from phala.frame.ledger import Book
from phala.pallets.balances import moves
from phala.pallets.balances.errors import (
    DeadAccount,
    DeltaZero,
    InsufficientBalance,
    IssuanceDeactivated,
    LiquidityRestrictions,
    TooManyFreezes,
    TooManyHolds,
    TooManyReserves,
)
from phala.pallets.balances.events import (
    FREE,
    RESERVED,
    BalanceSet,
    Burned,
    Deposit,
    DustLost,
    Endowed,
    Frozen,
    Locked,
    Reserved,
    ReserveRepatriated,
    Slashed,
    Thawed,
    TotalIssuanceForced,
    Transfer,
    Unlocked,
    Unreserved,
    Withdraw,
)
from phala.pallets.balances.moves import EXISTENTIAL_DEPOSIT, left_after
from phala.pallets.balances.rules import (
    BALANCE_LOCK,
    DIRECTION,
    FOR_ALL,
    FREEZE,
    HOLD,
    LOCKS_MAX,
    RESERVE_DATA,
    BalanceLock,
    Freeze,
    Hold,
    ReserveData,
    amount_of,
    lowered,
    put_or_delete,
    raised,
    reducible,
    with_data,
    with_frozen,
    with_more,
    with_moved,
    with_reserved,
)
from phala.primitives.address import MULTI_ADDRESS, MultiAddress
from phala.primitives.types import ACCOUNT_ID, BALANCE, AccountId, Balance

UPGRADES_MAX: Final = 1024  # accounts in one call
ISSUANCE_MAX: Final = (1 << 128) - 1
BALANCE_COMPACT: Final[Compact[Balance]] = Compact(BALANCE)


class Accounts(Protocol):
    """Where accounts are kept."""

    def book(self) -> Book: ...
    def account_of(self, who: AccountId) -> AccountInfo: ...
    def keep(self, who: AccountId, info: AccountInfo) -> None: ...
    def create(self, who: AccountId, info: AccountInfo) -> None: ...
    def kill(self, who: AccountId) -> None: ...


def by_account(kind: Any, doc: str) -> DefaultMap[AccountId, Any]:
    return DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        AccountId,
        Vector(kind, items_max=LOCKS_MAX),
        default=(),
        doc=doc,
    )


class Balances(Pallet):
    """PHA of accounts."""

    name = "Balances"
    total_issuance = StorageValue(Balance, default=Balance(0), doc="All plancks there are.")
    inactive_issuance = StorageValue(
        Balance, default=Balance(0), doc="Plancks that do not vote.", name="InactiveIssuance"
    )
    locks: DefaultMap[AccountId, tuple[BalanceLock, ...]] = by_account(
        BALANCE_LOCK, "Locks on an account."
    )
    reserves: DefaultMap[AccountId, tuple[ReserveData, ...]] = by_account(
        RESERVE_DATA, "Named reserves of an account."
    )
    holds: DefaultMap[AccountId, tuple[Hold, ...]] = by_account(HOLD, "Holds on an account.")
    freezes: DefaultMap[AccountId, tuple[Freeze, ...]] = by_account(
        FREEZE, "Freezes on an account."
    )

    def __init__(self, block: Block, *, accounts: Accounts) -> None:
        super().__init__(block)
        self.accounts = accounts

    # ---- for other pallets, and the executive

    def free(self, who: AccountId) -> Balance:
        return self.accounts.account_of(who).data.free

    def withdraw(self, who: AccountId, amount: Balance, *, extrinsics: int = 0) -> None:
        """Take funds out of an account that stays alive. `deposit` them, or they are burnt.

        Args:
            extrinsics: how many more the account has sent, kept with the same write.

        Raises:
            TokenError: as `ensure_withdrawable`; nothing happened.
        """
        moves.withdraw(self.accounts.book(), self.block, who, amount, extrinsics)

    def deposit(self, who: AccountId, amount: Balance) -> None:
        """Give an account what was withdrawn elsewhere. Too little to create it is burnt."""
        if not moves.deposit(self.accounts.book(), self.block, self, who, amount):
            self.destroy(amount)

    def destroy(self, amount: Balance) -> None:
        """Withdrawn funds cease to be."""
        self.total_issuance.put(Balance(self.total_issuance.get() - amount))

    def endow(self, who: AccountId, amount: Balance) -> None:
        """Make funds: genesis alone does."""
        assert amount >= EXISTENTIAL_DEPOSIT
        info = self.accounts.account_of(who)
        moves.give(self.accounts.book(), self, who, info, amount)
        self.total_issuance.put(Balance(self.total_issuance.get() + amount))

    def move(
        self, source: AccountId, target: AccountId, amount: Balance, *, keep_alive: bool
    ) -> None:
        """Transfer. A source that keeps less than the existential deposit dies, or it is refused.

        Raises:
            TokenError: nothing happened.
        """
        book = self.accounts.book()
        moves.move(book, self.block, self, source, target, amount, keep_alive)

    def bear(self, who: AccountId, info: AccountInfo, free: Balance) -> None:
        """An account that does not exist comes to be."""
        self.accounts.create(who, moves.newborn(info, free))
        self.emit(Endowed(who, free))

    def reap(self, who: AccountId, dust: Balance) -> None:
        """An account ceases to be, with what is left of it."""
        self.accounts.kill(who)
        if dust:
            self.destroy(dust)
            self.emit(DustLost(who, dust))

    def _change(self, who: AccountId, info: AccountInfo, data: AccountData) -> None:
        """Store an account that exists, and must stay while something is reserved or frozen."""
        changed = with_data(info, data)
        if data.free >= EXISTENTIAL_DEPOSIT:
            self.accounts.keep(who, changed)
        elif changed.consumers:
            raise ConsumerRemaining
        else:
            self.reap(who, data.free)

    # ---- reserves: funds of an account that it cannot use, and that can be taken from it

    def reserve(self, who: AccountId, amount: Balance) -> None:
        """Free funds become reserved ones.

        Raises:
            InsufficientBalance, LiquidityRestrictions, ConsumerRemaining: nothing happened.
        """
        if amount == 0:
            return
        info = self.accounts.account_of(who)
        data = info.data
        if amount > data.free:
            raise InsufficientBalance
        if data.free - amount < data.frozen:
            raise LiquidityRestrictions
        self._change(who, info, with_moved(data, amount))
        self.emit(Reserved(who, amount))

    def unreserve(self, who: AccountId, amount: Balance) -> Balance:
        """Reserved funds that have no name become free. Returns how much was not there."""
        info = self.accounts.account_of(who)
        taken = Balance(min(amount, self._unnamed(who, info.data)))
        if taken:
            self._change(who, info, with_moved(info.data, -taken))
            self.emit(Unreserved(who, taken))
        return Balance(amount - taken)

    def slash_reserved(self, who: AccountId, amount: Balance) -> Balance:
        """Burn reserved funds that have no name. Returns how much was not there."""
        info = self.accounts.account_of(who)
        taken = Balance(min(amount, self._unnamed(who, info.data)))
        if taken:
            left = with_reserved(info.data, info.data.reserved - taken)
            self._change(who, info, left)
            self.destroy(taken)
            self.emit(Slashed(who, taken))
        return Balance(amount - taken)

    def repatriate_reserved(
        self, source: AccountId, target: AccountId, amount: Balance, *, reserved: bool
    ) -> Balance:
        """Reserved funds go to another account that exists. Returns how much was not there.

        Args:
            reserved: there they are reserved too, else free.

        Raises:
            DeadAccount: nothing happened.
        """
        giver, taker = self.accounts.account_of(source), self.accounts.account_of(target)
        if not taker.exists:
            raise DeadAccount
        if source == target:
            return Balance(0) if reserved else self.unreserve(source, amount)
        taken = Balance(min(amount, self._unnamed(source, giver.data)))
        if not taken:
            return amount
        data = taker.data
        given = with_reserved(data, data.reserved + taken) if reserved else with_more(data, taken)
        left = with_reserved(giver.data, giver.data.reserved - taken)
        self._change(source, giver, left)
        self._change(target, taker, given)
        self.emit(ReserveRepatriated(source, target, taken, RESERVED if reserved else FREE))
        return Balance(amount - taken)

    def reserve_named(self, name: bytes, who: AccountId, amount: Balance) -> None:
        """As `reserve`; what has a name is given back under it alone."""
        if amount == 0:
            return
        named = raised(self.reserves.get(who), ReserveData, name, amount, TooManyReserves)
        self.reserve(who, amount)
        self.reserves.put(who, named)

    def unreserve_named(self, name: bytes, who: AccountId, amount: Balance) -> Balance:
        """As `unreserve`, of what was reserved under the name."""
        named = self.reserves.get(who)
        taken = Balance(min(amount, amount_of(named, name)))
        put_or_delete(self.reserves, who, lowered(named, name, taken))
        self.unreserve(who, taken)
        return Balance(amount - taken)

    def _unnamed(self, who: AccountId, data: AccountData) -> int:
        """What is reserved, and neither under a name nor on hold."""
        named = sum(each.amount for each in self.reserves.get(who))
        return data.reserved - named - sum(each.amount for each in self.holds.get(who))

    # ---- holds: reserved funds, each for a reason

    def held(self, reason: int, who: AccountId) -> Balance:
        return amount_of(self.holds.get(who), reason)

    def hold(self, reason: int, who: AccountId, amount: Balance) -> None:
        """Free funds, frozen or not, are held for a reason.

        Raises:
            FundsUnavailable, TooManyHolds: nothing happened.
        """
        if amount == 0:
            return
        info = self.accounts.account_of(who)
        if info.data.free - amount < EXISTENTIAL_DEPOSIT:
            raise FundsUnavailable
        self.holds.put(who, raised(self.holds.get(who), Hold, reason, amount, TooManyHolds))
        self._change(who, info, with_moved(info.data, amount))

    def release(self, reason: int, who: AccountId, amount: Balance) -> Balance:
        """Funds held for the reason become free. Returns how much was not there."""
        holds, info = self.holds.get(who), self.accounts.account_of(who)
        taken = Balance(min(amount, amount_of(holds, reason)))
        if taken:
            put_or_delete(self.holds, who, lowered(holds, reason, taken))
            self._change(who, info, with_moved(info.data, -taken))
        return Balance(amount - taken)

    # ---- locks and freezes: funds that stay; the largest counts, not the sum

    def set_lock(self, name: bytes, who: AccountId, amount: Balance) -> None:
        """Lock so much of an account under a name; 0 ends the lock.

        Raises:
            DeadAccount: nothing happened.
        """
        locks = tuple(each for each in self.locks.get(who) if each.id != name)
        if amount:
            locks = (*locks, BalanceLock(name, amount, FOR_ALL))
        self._freeze(who, locks, self.freezes.get(who), Locked, Unlocked)
        put_or_delete(self.locks, who, locks)

    def set_freeze(self, reason: int, who: AccountId, amount: Balance) -> None:
        """Freeze so much of an account for a reason; 0 ends the freeze.

        Raises:
            DeadAccount, TooManyFreezes: nothing happened.
        """
        freezes = tuple(each for each in self.freezes.get(who) if each.id != reason)
        if amount:
            freezes = raised(freezes, Freeze, reason, amount, TooManyFreezes)
        self._freeze(who, self.locks.get(who), freezes, Frozen, Thawed)
        put_or_delete(self.freezes, who, freezes)

    def _freeze(
        self,
        who: AccountId,
        locks: tuple[BalanceLock, ...],
        freezes: tuple[Freeze, ...],
        more: Callable[[AccountId, Balance], object],
        less: Callable[[AccountId, Balance], object],
    ) -> None:
        info = self.accounts.account_of(who)
        if not info.exists:
            raise DeadAccount
        before = info.data.frozen
        locked = max((each.amount for each in locks), default=0)
        frozen = max((each.amount for each in freezes), default=0)
        after = Balance(max(locked, frozen))
        self._change(who, info, with_frozen(info.data, after))
        if after > before:
            self.emit(more(who, Balance(after - before)))
        elif after < before:
            self.emit(less(who, Balance(before - after)))

    # ---- calls

    @call(50 * MICROSECOND)
    def transfer_allow_death(
        self,
        origin: Origin,
        dest: Annotated[MultiAddress, MULTI_ADDRESS],
        value: Annotated[Balance, BALANCE_COMPACT],
    ) -> None:
        """Transfer; the sender dies when less than the existential deposit stays."""
        self.move(ensure_signed(origin), account_at(dest), value, keep_alive=False)

    @call(50 * MICROSECOND)
    def transfer_keep_alive(
        self,
        origin: Origin,
        dest: Annotated[MultiAddress, MULTI_ADDRESS],
        value: Annotated[Balance, BALANCE_COMPACT],
    ) -> None:
        """Transfer, unless the sender would die of it."""
        self.move(ensure_signed(origin), account_at(dest), value, keep_alive=True)

    @call(60 * MICROSECOND)
    def transfer_all(
        self,
        origin: Origin,
        dest: Annotated[MultiAddress, MULTI_ADDRESS],
        keep_alive: Annotated[bool, BOOL],
    ) -> None:
        """Transfer all that is free, or all but the existential deposit."""
        who = ensure_signed(origin)
        amount = reducible(self.accounts.account_of(who), keep_alive=keep_alive)
        self.move(who, account_at(dest), amount, keep_alive=keep_alive)

    @call(60 * MICROSECOND)
    def force_transfer(
        self,
        origin: Origin,
        source: Annotated[MultiAddress, MULTI_ADDRESS],
        dest: Annotated[MultiAddress, MULTI_ADDRESS],
        value: Annotated[Balance, BALANCE_COMPACT],
    ) -> None:
        """Transfer from any account: the chain itself may."""
        ensure_root(origin)
        self.move(account_at(source), account_at(dest), value, keep_alive=False)

    @call(30 * MICROSECOND)
    def force_unreserve(
        self, origin: Origin, who: Annotated[MultiAddress, MULTI_ADDRESS], amount: Balance
    ) -> None:
        """Give reserved funds back: the chain itself may."""
        ensure_root(origin)
        self.unreserve(account_at(who), amount)

    @call(20 * MICROSECOND)
    def upgrade_accounts(
        self,
        origin: Origin,
        who: Annotated[tuple[AccountId, ...], Vector(ACCOUNT_ID, items_max=UPGRADES_MAX)],  # noqa: ARG002
    ) -> None:
        """Nothing: every account has the present form from its birth."""
        ensure_signed(origin)

    @call(50 * MICROSECOND)
    def force_set_balance(
        self,
        origin: Origin,
        who: Annotated[MultiAddress, MULTI_ADDRESS],
        new_free: Annotated[Balance, BALANCE_COMPACT],
    ) -> None:
        """Set what is free: the chain itself may. Under the existential deposit it is nothing."""
        ensure_root(origin)
        account = account_at(who)
        info = self.accounts.account_of(account)
        free = new_free if new_free >= EXISTENTIAL_DEPOSIT else Balance(0)
        if info.exists:
            self._change(account, info, with_more(info.data, free - info.data.free))
        elif free:
            self.bear(account, info, free)
        issued = self.total_issuance.get() + free - info.data.free
        self.total_issuance.put(Balance(issued))
        self.emit(BalanceSet(account, free))

    @call(20 * MICROSECOND)
    def force_adjust_total_issuance(
        self,
        origin: Origin,
        direction: Annotated[int, DIRECTION],
        delta: Annotated[Balance, BALANCE_COMPACT],
    ) -> None:
        """Say how many plancks there are: the chain itself may, to mend a wrong sum."""
        ensure_root(origin)
        if delta == 0:
            raise DeltaZero
        old = self.total_issuance.get()
        new = Balance(min(old + delta, ISSUANCE_MAX) if direction == 0 else max(old - delta, 0))
        if new < self.inactive_issuance.get():
            raise IssuanceDeactivated
        self.total_issuance.put(new)
        self.emit(TotalIssuanceForced(old, new))

    @call(50 * MICROSECOND)
    def burn(
        self,
        origin: Origin,
        value: Annotated[Balance, BALANCE_COMPACT],
        keep_alive: Annotated[bool, BOOL],
    ) -> None:
        """Destroy one's own funds."""
        who = ensure_signed(origin)
        info = self.accounts.account_of(who)
        left = left_after(info.data, value)
        if left < EXISTENTIAL_DEPOSIT and (keep_alive or info.consumers):
            raise NotExpendable
        if info.exists:
            self._change(who, info, with_more(info.data, left - info.data.free))
        self.destroy(value)
        self.emit(Burned(who, value))

    calls: ClassVar = {
        0: transfer_allow_death,
        2: force_transfer,
        3: transfer_keep_alive,
        4: transfer_all,
        5: force_unreserve,
        6: upgrade_accounts,
        8: force_set_balance,
        9: force_adjust_total_issuance,
        10: burn,
    }
    events: ClassVar = {
        0: Endowed,
        1: DustLost,
        2: Transfer,
        3: BalanceSet,
        4: Reserved,
        5: Unreserved,
        6: ReserveRepatriated,
        7: Deposit,
        8: Withdraw,
        9: Slashed,
        11: Burned,
        17: Locked,
        18: Unlocked,
        19: Frozen,
        20: Thawed,
        21: TotalIssuanceForced,
    }
    errors: ClassVar = {
        1: LiquidityRestrictions,
        2: InsufficientBalance,
        6: DeadAccount,
        7: TooManyReserves,
        8: TooManyHolds,
        9: TooManyFreezes,
        10: IssuanceDeactivated,
        11: DeltaZero,
    }
    constants: ClassVar = (
        Constant(
            "ExistentialDeposit", BALANCE, EXISTENTIAL_DEPOSIT, "The least that an account holds."
        ),
        Constant("MaxLocks", U32, LOCKS_MAX, "The most locks on an account."),
        Constant("MaxReserves", U32, LOCKS_MAX, "The most named reserves of an account."),
        Constant("MaxFreezes", U32, LOCKS_MAX, "The most freezes on an account."),
    )
