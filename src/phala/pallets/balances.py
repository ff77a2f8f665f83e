"""Balances: PHA of accounts. What an account holds is what it was given less what it gave.

Calls, events and their numbers are `pallet-balances`'s.
"""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Protocol

from phala.codec import BOOL, Compact, FixedBytes, Vector
from phala.frame import (
    MICROSECOND,
    NO_ACCOUNT,
    AccountData,
    AccountInfo,
    BelowMinimum,
    CannotLookup,
    Choice,
    Constant,
    DefaultMap,
    Frozen,
    FundsUnavailable,
    Hasher,
    NotExpendable,
    Origin,
    Pallet,
    StorageValue,
    call,
    ensure_signed,
    event,
)
from phala.frame.block import Block
from phala.primitives.address import MULTI_ADDRESS, MultiAddress
from phala.primitives.types import BALANCE, PHA, AccountId, Balance, scale

EXISTENTIAL_DEPOSIT: Final = Balance(PHA // 100)
LOCKS_MAX: Final = 50  # as Phala's own chain

BALANCE_COMPACT: Final[Compact[Balance]] = Compact(BALANCE)


@event
class Endowed:
    """An account was created with some free balance."""

    account: AccountId
    free_balance: Balance


@event
class DustLost:
    """An account died, and what was left of it."""

    account: AccountId
    amount: Balance


@event
class Transfer:
    """Funds went from one account to another."""

    from_: AccountId
    to: AccountId
    amount: Balance


@event
class Deposit:
    """Funds came to an account, as a fee does."""

    who: AccountId
    amount: Balance


@event
class Withdraw:
    """Funds were taken from an account, as a fee is."""

    who: AccountId
    amount: Balance


@dataclass(frozen=True, slots=True)
class BalanceLock:
    id: Annotated[bytes, FixedBytes(8)]
    amount: Balance
    reasons: Annotated[int, Choice(("pallet_balances", "types", "Reasons"), ("Fee", "Misc", "All"))]


@dataclass(frozen=True, slots=True)
class ReserveData:
    id: Annotated[bytes, FixedBytes(8)]
    amount: Balance


class Accounts(Protocol):
    """Where accounts are kept."""

    def account_of(self, who: AccountId) -> AccountInfo: ...
    def keep(self, who: AccountId, info: AccountInfo) -> None: ...
    def create(self, who: AccountId, info: AccountInfo) -> None: ...
    def kill(self, who: AccountId) -> None: ...


def no_holds(doc: str) -> DefaultMap[AccountId, tuple[ReserveData, ...]]:
    return DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        AccountId,
        Vector(scale(ReserveData), items_max=LOCKS_MAX),
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
    locks: DefaultMap[AccountId, tuple[BalanceLock, ...]] = DefaultMap(
        Hasher.BLAKE2_128_CONCAT,
        AccountId,
        Vector(scale(BalanceLock), items_max=LOCKS_MAX),
        default=(),
        doc="Locks on an account.",
    )
    reserves = no_holds("Named reserves of an account.")
    holds = no_holds("Holds on an account.")
    freezes = no_holds("Freezes on an account.")

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
        info = self.accounts.account_of(who)
        left = ensure_withdrawable(info, amount)
        data = info.data
        self.accounts.keep(
            who,
            AccountInfo(
                info.nonce + extrinsics,
                info.consumers,
                info.providers,
                info.sufficients,
                AccountData(left, data.reserved, data.frozen, data.flags),
            ),
        )
        self.emit(Withdraw(who, amount))

    def deposit(self, who: AccountId, amount: Balance) -> None:
        """Give an account what was withdrawn elsewhere. Too little to create it is burnt."""
        info = self.accounts.account_of(who)
        if not info.exists and amount < EXISTENTIAL_DEPOSIT:
            self.burn(amount)
            return
        self._put(who, info, Balance(info.data.free + amount))
        self.emit(Deposit(who, amount))

    def burn(self, amount: Balance) -> None:
        """Withdrawn funds cease to be."""
        self.total_issuance.put(Balance(self.total_issuance.get() - amount))

    def endow(self, who: AccountId, amount: Balance) -> None:
        """Make funds: genesis alone does."""
        assert amount >= EXISTENTIAL_DEPOSIT
        info = self.accounts.account_of(who)
        self._put(who, info, Balance(info.data.free + amount))
        self.total_issuance.put(Balance(self.total_issuance.get() + amount))

    def move(
        self, source: AccountId, target: AccountId, amount: Balance, *, keep_alive: bool
    ) -> None:
        """Transfer. A source that keeps less than the existential deposit dies, or it is refused.

        Raises:
            TokenError: nothing happened.
        """
        giver = self.accounts.account_of(source)
        left = left_after(giver.data, amount)
        if source == target or amount == 0:
            self.emit(Transfer(source, target, amount))
            return
        taker = self.accounts.account_of(target)
        if not taker.exists and amount < EXISTENTIAL_DEPOSIT:
            raise BelowMinimum
        if left >= EXISTENTIAL_DEPOSIT:
            self.accounts.keep(source, with_free(giver, left))
        elif keep_alive or giver.data.reserved or giver.consumers:
            raise NotExpendable
        else:
            self._reap(source, left)
        self._put(target, taker, Balance(taker.data.free + amount))
        self.emit(Transfer(source, target, amount))

    def _put(self, who: AccountId, info: AccountInfo, free: Balance) -> None:
        if info.exists:
            self.accounts.keep(who, with_free(info, free))
        else:
            born = AccountInfo(info.nonce, 0, 1, 0, NO_ACCOUNT.data)
            self.accounts.create(who, with_free(born, free))
            self.emit(Endowed(who, free))

    def _reap(self, who: AccountId, dust: Balance) -> None:
        self.accounts.kill(who)
        if dust:
            self.burn(dust)
            self.emit(DustLost(who, dust))

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
        data = self.accounts.account_of(who).data
        amount = liquid(data) - (EXISTENTIAL_DEPOSIT if keep_alive else 0)
        self.move(who, account_at(dest), Balance(max(amount, 0)), keep_alive=keep_alive)

    calls: ClassVar = {0: transfer_allow_death, 3: transfer_keep_alive, 4: transfer_all}
    events: ClassVar = {0: Endowed, 1: DustLost, 2: Transfer, 7: Deposit, 8: Withdraw}
    constants: ClassVar = (
        Constant(
            "ExistentialDeposit", BALANCE, EXISTENTIAL_DEPOSIT, "The least that an account holds."
        ),
    )


def account_at(address: MultiAddress) -> AccountId:
    if address.kind != 0:
        raise CannotLookup
    return AccountId(address.data)


def liquid(data: AccountData) -> Balance:
    """What of the free balance is not frozen. What is reserved counts towards the frozen part."""
    if data.frozen <= data.reserved:
        return data.free
    return Balance(data.free - (data.frozen - data.reserved))


def left_after(data: AccountData, amount: Balance) -> Balance:
    if amount > data.free:
        raise FundsUnavailable
    if amount > liquid(data):
        raise Frozen
    return Balance(data.free - amount)


def ensure_withdrawable(info: AccountInfo, amount: Balance) -> Balance:
    """What `withdraw` would leave.

    Raises:
        TokenError: the account has too little, or would die.
    """
    left = left_after(info.data, amount)
    if left < EXISTENTIAL_DEPOSIT:
        raise NotExpendable
    return left


def with_free(info: AccountInfo, free: Balance) -> AccountInfo:
    data = info.data
    return AccountInfo(
        info.nonce,
        info.consumers,
        info.providers,
        info.sufficients,
        AccountData(free, data.reserved, data.frozen, data.flags),
    )
