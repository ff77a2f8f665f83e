"""Why a preimage is not noted, requested or cleared."""

from phala.frame import PalletError


class AlreadyNoted(PalletError):
    """The preimage is noted: nothing is to be done."""


class NotAuthorized(PalletError):
    """Another account noted it: leave its end to that one."""


class NotNoted(PalletError):
    """Nobody noted it: look up its hash."""


class NotRequested(PalletError):
    """Nothing asks for the preimage: nothing is to be done."""


class TooMany(PalletError):
    """There are too many hashes: name fewer at once."""


class TooFew(PalletError):
    """There is no hash: name one at least."""
