"""What accepted evidence proves."""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from phala.primitives.types import Hash, Moment


class PlatformCode(enum.IntEnum):
    """Whose evidence it is. The numbers are wire format and chain state: never reuse one."""

    SIMULATED = 0
    SGX = 1
    TDX = 2
    SEV_SNP = 3
    NITRO = 4
    NVIDIA = 5  # a GPU or a switch: never a worker of its own
    AZURE_SNP = 6  # a virtual TPM whose key an SEV-SNP report vouches for
    AZURE_TDX = 7

    @property
    def word(self) -> str:
        """As policies and people write it: `sev-snp`."""
        return self.name.lower().replace("_", "-")


class TcbStatus(enum.IntEnum):
    """How the vendor judges the platform's firmware, as numbers: state holds no words."""

    NONE = 0  # no vendor stands behind it
    UP_TO_DATE = 1
    SW_HARDENING_NEEDED = 2
    CONFIGURATION_NEEDED = 3
    CONFIGURATION_AND_SW_HARDENING_NEEDED = 4
    OUT_OF_DATE = 5
    OUT_OF_DATE_CONFIGURATION_NEEDED = 6
    REVOKED = 7

    @property
    def word(self) -> str:
        """As policies and people write it: `up-to-date`."""
        return self.name.lower().replace("_", "-")


# As the original's registry, for rewards and tiers: 1 is up to date, 5 is as good as nothing.
CONFIDENCE_BEST: Final = 1
CONFIDENCE_OPERATOR: Final = 3  # the operator of the machine is trusted with its memory
CONFIDENCE_WORST: Final = 5  # simulated, debuggable, out of date, or a product that is broken


@dataclass(frozen=True, slots=True)
class Verdict:
    """Evidence that passed every check of `verify`."""

    platform: PlatformCode
    hardware: bool  # False: no hardware protection, whatever else stands here
    anchor: str  # the root on whose word all of this rests, for people
    measurement: bytes  # what allow-lists hold; which of `measurements` it is of, its verifier says
    measurements: Mapping[str, bytes]  # all of them, by the vendor's names
    report_data: bytes  # 64 bytes that the enclave chose
    debug: bool
    tcb_status: TcbStatus
    advisories: tuple[str, ...]
    confidence: int  # CONFIDENCE_BEST to CONFIDENCE_WORST
    platform_id: bytes  # names the machine
    signed_hash: Hash  # SHA-256 of the signed bytes: identity of the evidence against replay
    notes: tuple[str, ...]
    product: str = ""  # the processor's line: `genoa`, an FMSPC in hex; "" where there is none
    svn: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))  # of its firmware
    issued: Moment | None = None  # when the evidence says that it was made
