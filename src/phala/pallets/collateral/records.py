"""What the collateral pallet tells and keeps."""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U8, U32, U64, Bytes
from phala.frame import event
from phala.messages.collateral import COLLATERAL_KEY, ITEM_BYTES_MAX, CollateralKey
from phala.primitives.types import Hash, Moment

_LIST: Final = Bytes(bytes_max=ITEM_BYTES_MAX)


@event
class CollateralSubmitted:
    """A vendor's word is the chain's from now on; a refresh of what is known, or a new number."""

    of: Annotated[CollateralKey, COLLATERAL_KEY]
    number: Annotated[int, U32]
    expires: Moment


@event
class CollateralExpired:
    """Nobody brought later collateral of a product: none of its workers can register, and those
    that did are stale."""

    of: Annotated[CollateralKey, COLLATERAL_KEY]


@event
class CollateralLapsed:
    """The grace after that ended: the product's workers are suspended."""

    of: Annotated[CollateralKey, COLLATERAL_KEY]


@event
class CollateralPruned:
    """An evaluation is kept no more."""

    of: Annotated[CollateralKey, COLLATERAL_KEY]
    number: Annotated[int, U32]


@event
class FloorRaised:
    """Intel's evaluations below a number judge nothing from that time on."""

    number: Annotated[int, U32]
    effective_at: Moment


@event
class GraceSet:
    """How long workers outlive their collateral, in milliseconds."""

    grace_ms: Annotated[int, U64]


@event
class ManifestAllowed:
    """Devices may be held against a manifest, once it is submitted."""

    manifest: Hash


@event
class ManifestDisallowed:
    """No device is held against it any more."""

    manifest: Hash


@event
class ManifestSubmitted:
    """A manifest is here."""

    manifest: Hash


@dataclass(frozen=True, slots=True)
class Floor:
    """The least of Intel's evaluation numbers; the previous one holds until the time is there."""

    number: Annotated[int, U32]
    previous: Annotated[int, U32]
    effective_at: Moment


@dataclass(frozen=True, slots=True)
class Revoked:
    """Intel's lists of revoked keys: those of platforms by one of its CAs, and those of CAs.

    They are of no product and no evaluation: a bundle that is older in this gets the later ones.
    """

    keys_at: Moment
    pck_crl: Annotated[bytes, _LIST]
    pck_crl_issuer_chain: Annotated[bytes, _LIST]
    root_at: Moment
    root_ca_crl: Annotated[bytes, _LIST]

    def by_name(self) -> dict[str, bytes]:
        """As `attest.verify` takes them."""
        names = ("pck_crl", "pck_crl_issuer_chain", "root_ca_crl")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class Standing:
    """Until when a product's collateral counts, and what was said of that."""

    expires: Moment  # the longest of those evaluations that are at the floor
    stage: Annotated[int, U8]
