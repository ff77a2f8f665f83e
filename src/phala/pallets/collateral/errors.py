"""Why collateral is refused."""

from phala.frame import PalletError


class CollateralRefused(PalletError):
    """The vendor did not sign this, or it does not count now: fetch it from the vendor again."""


class NotNews(PalletError):
    """The chain has this issue or a later one: there is nothing to submit."""


class BelowFloor(PalletError):
    """The evaluation is older than the chain takes: fetch the vendor's present one."""


class OlderThanKept(PalletError):
    """The chain keeps as many later evaluations as it may: fetch a later one."""


class TooManyProducts(PalletError):
    """The chain keeps collateral of as many products as it may: governance can remove some."""


class FloorNotRaised(PalletError):
    """The floor is there or above already: name a higher number."""


class GraceTooLong(PalletError):
    """The grace is over 90 days, or puts off a floor that waits already: give a shorter one."""


class CollateralNotFound(PalletError):
    """There is no such collateral: take one from `Issues`."""


class ManifestNotAllowed(PalletError):
    """Governance did not list this manifest: propose its hash first."""


class ManifestKnown(PalletError):
    """The chain has this manifest: there is nothing to submit."""


class TooManyManifests(PalletError):
    """The chain lists as many manifests as it may: disallow some first."""
