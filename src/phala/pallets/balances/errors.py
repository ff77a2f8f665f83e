"""Why balances are not changed: the module's own errors; most refusals are `TokenError`s."""

from phala.frame import PalletError


class LiquidityRestrictions(PalletError):
    """Locks keep these funds: wait until they are free."""


class InsufficientBalance(PalletError):
    """The account has less than that: receive funds first, or ask for less."""


class DeadAccount(PalletError):
    """The account does not exist: send it funds first."""


class TooManyReserves(PalletError):
    """The account has as many named reserves as it can: end one first."""


class TooManyHolds(PalletError):
    """The account has as many holds as it can: end one first."""


class TooManyFreezes(PalletError):
    """The account has as many freezes as it can: end one first."""


class IssuanceDeactivated(PalletError):
    """So much of the issuance does not vote: leave at least that."""


class DeltaZero(PalletError):
    """Nothing is to be changed: pass more than 0."""
