"""Why an identity is not changed. Names and numbers are `pallet-identity`'s."""

from phala.frame import PalletError


class TooManySubAccounts(PalletError):
    """The account has as many sub-accounts as it can: remove one first."""


class NotFound(PalletError):
    """There is nothing like it: look up what there is."""


class NotNamed(PalletError):
    """The account has no name: set its identity first."""


class EmptyIndex(PalletError):
    """No registrar has this number: look up the registrars."""


class FeeChanged(PalletError):
    """The registrar asks for more than that: allow its fee."""


class NoIdentity(PalletError):
    """The account has no identity: set it first."""


class StickyJudgement(PalletError):
    """That registrar's judgement stays until the identity goes: clear the identity first."""


class JudgementGiven(PalletError):
    """The judgement is given already: nothing is to be cancelled."""


class InvalidJudgement(PalletError):
    """A registrar does not say that a fee was paid: give a judgement."""


class InvalidIndex(PalletError):
    """The sender is not the registrar of this number: use the registrar's account."""


class InvalidTarget(PalletError):
    """The account to judge has no identity: have it set one."""


class TooManyRegistrars(PalletError):
    """There are as many registrars as there can be: use one of them."""


class AlreadyClaimed(PalletError):
    """The account is a sub-account of another: have it quit that first."""


class NotSub(PalletError):
    """The account is no sub-account: look up the identity's sub-accounts."""


class NotOwned(PalletError):
    """The account is another's sub-account: leave it to that one."""


class JudgementForDifferentIdentity(PalletError):
    """The identity was changed since: judge the present one, by its hash."""


class JudgementPaymentFailed(PalletError):
    """The registrar's account takes no fee: fund it first."""


class InvalidSuffix(PalletError):
    """No suffix is like this: one to seven small letters and digits, of that authority."""


class NotUsernameAuthority(PalletError):
    """The account grants no usernames of this suffix: have its authority do it."""


class NoAllocation(PalletError):
    """The authority has granted all that it may without a deposit: reserve one."""


class InvalidSignature(PalletError):
    """The account did not sign this username: sign it whole, with its suffix."""


class RequiresSignature(PalletError):
    """The account has to sign this username: pass its signature."""


class InvalidUsername(PalletError):
    """It is no username, or another's: small letters and digits, a dot, the suffix."""


class UsernameTaken(PalletError):
    """Somebody has this username, or is to accept it: choose another."""


class NoUsername(PalletError):
    """There is no such username: look up what there is."""


class NotExpired(PalletError):
    """The username can still be accepted: wait until it cannot."""


class TooEarly(PalletError):
    """The username is not to be removed yet: wait for its block."""


class NotUnbinding(PalletError):
    """The username is not taken back: have its authority unbind it first."""


class AlreadyUnbinding(PalletError):
    """The username is taken back already: wait for its block."""


class InsufficientPrivileges(PalletError):
    """The chain itself granted this username: leave it to the chain."""
