"""What the collateral pallet tells and keeps."""

from dataclasses import dataclass
from typing import Annotated

from phala.codec import U8, U32, U64
from phala.frame import event
from phala.messages.collateral import COLLATERAL_KEY, CollateralKey
from phala.primitives.types import Hash, Moment


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
class Standing:
    """Until when a product's collateral counts, and what was said of that."""

    expires: Moment  # the longest of those evaluations that are at the floor
    stage: Annotated[int, U8]
