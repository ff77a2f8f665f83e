"""What every transfer goes through, apart from what the pallet declares: so it can be compiled.

A compiler drops docstrings and annotations of classes, which in a pallet are wire format.
"""

from typing import Final, Protocol

from phala.frame.account import NO_ACCOUNT, AccountData, AccountInfo
from phala.frame.block import Block
from phala.frame.errors import BelowMinimum, Frozen, FundsUnavailable, NotExpendable
from phala.frame.ledger import Book, account_of, keep, with_free
from phala.pallets.balances.events import Deposit, Transfer, Withdraw
from phala.primitives.types import PHA, AccountId, Balance

EXISTENTIAL_DEPOSIT: Final = Balance(PHA // 100)


class Births(Protocol):
    """Who makes and ends accounts, which few transfers do."""

    def bear(self, who: AccountId, info: AccountInfo, free: Balance) -> None: ...
    def reap(self, who: AccountId, dust: Balance) -> None: ...


def liquid(data: AccountData) -> Balance:
    """What of the free balance is not frozen. What is reserved counts towards the frozen part."""
    free, frozen, reserved = data.free, data.frozen, data.reserved
    if frozen <= reserved:
        return free
    return Balance(max(free - (frozen - reserved), 0))


def left_after(data: AccountData, amount: Balance) -> Balance:
    free = data.free
    if amount > free:
        raise FundsUnavailable
    if amount > liquid(data):
        raise Frozen
    return Balance(free - amount)


def ensure_withdrawable(info: AccountInfo, amount: Balance) -> Balance:
    """What `withdraw` would leave.

    Raises:
        TokenError: the account has too little, or would die.
    """
    left = left_after(info.data, amount)
    if left < EXISTENTIAL_DEPOSIT:
        raise NotExpendable
    return left


def withdraw(book: Book, block: Block, who: AccountId, amount: Balance, extrinsics: int) -> None:
    """As `Balances.withdraw`."""
    info = account_of(book, who)
    keep(book, who, with_free(info, ensure_withdrawable(info, amount), extrinsics))
    block.emit(Withdraw(who, amount))


def move(
    book: Book,
    block: Block,
    births: Births,
    source: AccountId,
    target: AccountId,
    amount: Balance,
    keep_alive: bool,  # noqa: FBT001
) -> None:
    """As `Balances.move`."""
    giver = account_of(book, source)
    left = left_after(giver.data, amount)
    if source == target or amount == 0:
        block.emit(Transfer(source, target, amount))
        return
    taker = account_of(book, target)
    if taker.providers == 0 and amount < EXISTENTIAL_DEPOSIT:
        raise BelowMinimum
    if left >= EXISTENTIAL_DEPOSIT:
        keep(book, source, with_free(giver, left))
    elif keep_alive or giver.data.reserved or giver.consumers:
        raise NotExpendable
    else:
        births.reap(source, left)
    give(book, births, target, taker, amount)
    block.emit(Transfer(source, target, amount))


def give(book: Book, births: Births, who: AccountId, info: AccountInfo, amount: Balance) -> None:
    """Add to what an account has; one that does not exist is born of it."""
    free = Balance(info.data.free + amount)
    if info.providers:
        keep(book, who, with_free(info, free))
    else:
        births.bear(who, info, free)


def deposit(book: Book, block: Block, births: Births, who: AccountId, amount: Balance) -> bool:
    """As `Balances.deposit`; False: it is too little, and to be destroyed."""
    info = account_of(book, who)
    if not info.providers and amount < EXISTENTIAL_DEPOSIT:
        return False
    give(book, births, who, info, amount)
    block.emit(Deposit(who, amount))
    return True


def newborn(info: AccountInfo, free: Balance) -> AccountInfo:
    return with_free(AccountInfo(info.nonce, 0, 1, 0, NO_ACCOUNT.data), free)
