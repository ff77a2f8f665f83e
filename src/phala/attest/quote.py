"""The layout of a quote as Intel's TDX makes it, version 4, with nothing optional in it.

All integers are little-endian and no field has a length of its own, so SCALE's fixed sizes spell
it exactly. Source: Intel TDX DCAP Quote Library API, appendix A.3 (version 4).
"""

from dataclasses import dataclass
from typing import Annotated, Final

from phala.attest.verdict import PlatformCode
from phala.codec import U16, U32, U64, Descriptor, FixedBytes
from phala.primitives.types import scale

QUOTE_VERSION: Final = 4
KEY_ECDSA_P256: Final = 2
TEE_TDX: Final = 0x81
VENDOR_SIMULATED: Final = b"SIMULATED-NO-HW\0"  # no vendor's id: Intel's is 939a7233...

CERTIFIES_QE_REPORT: Final = 6
CERTIFIES_PCK_CHAIN: Final = 5
TD_DEBUG: Final = 1  # TD attributes, bit 0

MEASUREMENT_BYTES: Final = 48
SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Header:
    """48 bytes."""

    version: Annotated[int, U16]
    key_type: Annotated[int, U16]
    tee: Annotated[int, U32]
    reserved: Annotated[bytes, FixedBytes(4)]
    vendor: Annotated[bytes, FixedBytes(16)]
    platform_id: Annotated[bytes, FixedBytes(16)]  # Intel's user data begins with the QE's id
    user_data: Annotated[bytes, FixedBytes(4)]


@dataclass(frozen=True, slots=True)
class TdReport:
    """584 bytes."""

    tee_tcb_svn: Annotated[bytes, FixedBytes(16)]
    mr_seam: Annotated[bytes, FixedBytes(48)]
    mr_signer_seam: Annotated[bytes, FixedBytes(48)]
    seam_attributes: Annotated[int, U64]
    td_attributes: Annotated[int, U64]
    xfam: Annotated[int, U64]
    mr_td: Annotated[bytes, FixedBytes(48)]
    mr_config_id: Annotated[bytes, FixedBytes(48)]
    mr_owner: Annotated[bytes, FixedBytes(48)]
    mr_owner_config: Annotated[bytes, FixedBytes(48)]
    rtmrs: Annotated[bytes, FixedBytes(4 * 48)]
    report_data: Annotated[bytes, FixedBytes(64)]


@dataclass(frozen=True, slots=True)
class QeReport:
    """384 bytes: an SGX report, by which the root's side vouches for the attestation key."""

    body: Annotated[bytes, FixedBytes(320)]
    report_data: Annotated[bytes, FixedBytes(64)]  # SHA-256(attestation key), then zeros


@dataclass(frozen=True, slots=True)
class Certification:
    """Why the attestation key counts. Intel's has a certificate chain where ours is empty."""

    kind: Annotated[int, U16]
    size: Annotated[int, U32]
    report: QeReport
    signature: Annotated[bytes, FixedBytes(64)]
    auth_size: Annotated[int, U16]
    chain_kind: Annotated[int, U16]
    chain_size: Annotated[int, U32]


@dataclass(frozen=True, slots=True)
class Quote:
    header: Header
    report: TdReport
    auth_size: Annotated[int, U32]  # of all that follows
    signature: Annotated[bytes, FixedBytes(64)]  # over header and report
    key: Annotated[bytes, FixedBytes(64)]  # x, y of the attestation key
    certification: Certification


HEADER: Final[Descriptor[Header]] = scale(Header)
TD_REPORT: Final[Descriptor[TdReport]] = scale(TdReport)
QE_REPORT: Final[Descriptor[QeReport]] = scale(QeReport)
QUOTE: Final[Descriptor[Quote]] = scale(Quote)

SIGNED_BYTES: Final = 48 + 584
QUOTE_BYTES: Final = 48 + 584 + 4 + 64 + 64 + 2 + 4 + 384 + 64 + 2 + 2 + 4
AUTH_BYTES: Final = QUOTE_BYTES - SIGNED_BYTES - 4
CERTIFICATION_BYTES: Final = AUTH_BYTES - 64 - 64 - 2 - 4


def platform_of(quote: bytes) -> PlatformCode:
    """Whose quote it says that it is, of whatever version; nothing is judged."""
    if quote[12:28] == VENDOR_SIMULATED:
        return PlatformCode.SIMULATED
    is_tdx = int.from_bytes(quote[4:8], "little") == TEE_TDX
    return PlatformCode.TDX if is_tdx else PlatformCode.SGX
