"""What happens to balances. Names, fields and numbers are `pallet-balances`'s."""

from typing import Annotated, Final

from phala.frame import Choice, event
from phala.primitives.types import AccountId, Balance

FREE, RESERVED = 0, 1

BALANCE_STATUS: Final = Choice(
    ("frame_support", "traits", "tokens", "misc", "BalanceStatus"), ("Free", "Reserved")
)


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
class BalanceSet:
    """The chain set a free balance."""

    who: AccountId
    free: Balance


@event
class Reserved:
    """Free funds were reserved."""

    who: AccountId
    amount: Balance


@event
class Unreserved:
    """Reserved funds are free again."""

    who: AccountId
    amount: Balance


@event
class ReserveRepatriated:
    """Reserved funds went to another account."""

    from_: AccountId
    to: AccountId
    amount: Balance
    destination_status: Annotated[int, BALANCE_STATUS]


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


@event
class Slashed:
    """Funds were taken from an account for what it did."""

    who: AccountId
    amount: Balance


@event
class Burned:
    """Funds of an account ceased to be."""

    who: AccountId
    amount: Balance


@event
class Locked:
    """More of an account is locked."""

    who: AccountId
    amount: Balance


@event
class Unlocked:
    """Less of an account is locked."""

    who: AccountId
    amount: Balance


@event
class Frozen:
    """More of an account is frozen."""

    who: AccountId
    amount: Balance


@event
class Thawed:
    """Less of an account is frozen."""

    who: AccountId
    amount: Balance


@event
class TotalIssuanceForced:
    """The chain set how many plancks there are."""

    old: Balance
    new: Balance
