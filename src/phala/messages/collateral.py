"""Vendors' collateral as the chain keeps it: what anyone submits, and reads by proof."""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.codec import U8, U32, Bytes, Descriptor, Vector
from phala.crypto.hashes import blake2_128
from phala.messages.types import scale
from phala.primitives.keys import storage_prefix
from phala.primitives.types import MOMENT, BlockNumber, Moment

COLLATERAL_VERSION: Final = 1
ITEM_BYTES_MAX: Final = 64 * 1024  # attest.collateral has the same
PRODUCT_BYTES_MAX: Final = 16
PARTS_MAX: Final = 4
AMD_PLATFORMS: Final = (3,)  # SEV-SNP
NO_NUMBER: Final = 0  # of AMD's, which has no evaluations

_ITEM: Final = Bytes(bytes_max=ITEM_BYTES_MAX)


@dataclass(frozen=True, slots=True)
class CollateralKey:
    """What collateral is of. Codes are those of `attest.verdict` and `attest.kept`.

    `issuer`: Intel 0 processor CA, 1 platform CA; AMD 0 VCEK, 1 VLEK. `product`: Intel's FMSPC,
    6 bytes; AMD's line, 1 byte: 1 Milan, 2 Genoa, 3 Turin.
    """

    platform: Annotated[int, U8]
    issuer: Annotated[int, U8]
    product: Annotated[bytes, Bytes(bytes_max=PRODUCT_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class IssueKey:
    """One of the evaluations that coexist."""

    of: CollateralKey
    number: Annotated[int, U32]  # Intel's tcbEvaluationDataNumber


@dataclass(frozen=True, slots=True)
class Issue:
    """What is known of collateral beside its bytes."""

    version: Annotated[int, U8]
    # When each part was issued. Intel: TCB info, QE identity, list of platforms' keys, root's list.
    issued: Annotated[tuple[Moment, ...], Vector(MOMENT, items_max=PARTS_MAX)]
    expires: Moment  # whichever part does first
    submitted_at: BlockNumber


@dataclass(frozen=True, slots=True)
class IntelItems:
    """Texts as Intel's service gives them; lists and signatures in hex, chains in PEM."""

    pck_crl: Annotated[bytes, _ITEM]
    pck_crl_issuer_chain: Annotated[bytes, _ITEM]
    qe_identity: Annotated[bytes, _ITEM]
    qe_identity_issuer_chain: Annotated[bytes, _ITEM]
    qe_identity_signature: Annotated[bytes, _ITEM]
    root_ca_crl: Annotated[bytes, _ITEM]
    tcb_info: Annotated[bytes, _ITEM]
    tcb_info_issuer_chain: Annotated[bytes, _ITEM]
    tcb_info_signature: Annotated[bytes, _ITEM]

    def by_name(self) -> dict[str, bytes]:
        """As `attest.verify` takes them."""
        return {name: getattr(self, name) for name in INTEL_ITEMS}


INTEL_ITEMS: Final = (
    "pck_crl",
    "pck_crl_issuer_chain",
    "qe_identity",
    "qe_identity_issuer_chain",
    "qe_identity_signature",
    "root_ca_crl",
    "tcb_info",
    "tcb_info_issuer_chain",
    "tcb_info_signature",
)


@dataclass(frozen=True, slots=True)
class AmdItems:
    """The root's list in DER; intermediate and root in PEM, as AMD's key server gives them."""

    amd_crl: Annotated[bytes, _ITEM]
    amd_chain: Annotated[bytes, _ITEM]

    def by_name(self) -> dict[str, bytes]:
        """As `attest.verify` takes them."""
        return {"amd_crl": self.amd_crl, "amd_chain": self.amd_chain}


COLLATERAL_KEY: Final[Descriptor[CollateralKey]] = scale(CollateralKey)
ISSUE_KEY: Final[Descriptor[IssueKey]] = scale(IssueKey)
ISSUE: Final[Descriptor[Issue]] = scale(Issue)
INTEL: Final[Descriptor[IntelItems]] = scale(IntelItems)
AMD: Final[Descriptor[AmdItems]] = scale(AmdItems)


def _map_key(item: str, key: bytes) -> bytes:
    return storage_prefix("PhalaCollateral", item) + blake2_128(key) + key


def numbers_key(of: CollateralKey) -> bytes:
    """The value is `Vector(U32)`, ascending: the evaluations that are kept."""
    return _map_key("Numbers", COLLATERAL_KEY.encode(of))


def issue_key(of: IssueKey) -> bytes:
    """The value is `ISSUE`."""
    return _map_key("Issues", ISSUE_KEY.encode(of))


def items_key(of: IssueKey) -> bytes:
    """The value is `INTEL` or `AMD`, by the platform."""
    vendor = "AmdItems" if of.of.platform in AMD_PLATFORMS else "IntelItems"
    return _map_key(vendor, ISSUE_KEY.encode(of))
