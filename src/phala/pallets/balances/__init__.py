"""Balances: PHA of accounts. What an account holds is what it was given less what it gave."""

from phala.pallets.balances.balances import (
    Balances,
)
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
from phala.pallets.balances.moves import EXISTENTIAL_DEPOSIT, ensure_withdrawable, liquid
from phala.pallets.balances.rules import FREEZE_VOTE, HOLD_PREIMAGE

__all__ = [
    "EXISTENTIAL_DEPOSIT",
    "FREEZE_VOTE",
    "HOLD_PREIMAGE",
    "BalanceSet",
    "Balances",
    "Burned",
    "DeadAccount",
    "DeltaZero",
    "Deposit",
    "DustLost",
    "Endowed",
    "Frozen",
    "InsufficientBalance",
    "IssuanceDeactivated",
    "LiquidityRestrictions",
    "Locked",
    "ReserveRepatriated",
    "Reserved",
    "Slashed",
    "Thawed",
    "TooManyFreezes",
    "TooManyHolds",
    "TooManyReserves",
    "TotalIssuanceForced",
    "Transfer",
    "Unlocked",
    "Unreserved",
    "Withdraw",
    "ensure_withdrawable",
    "liquid",
]
