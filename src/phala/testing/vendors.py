"""Hardware of vendors that do not exist, and a chain's verifier that believes in them.

For what no public evidence shows: registration of hardware with report data of one's own.
"""

import datetime as dt
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NoReturn

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from phala.attest import (
    Evidence,
    PlatformCode,
    Policy,
    Verdict,
    verify_intel_collateral,
    verify_rim,
)
from phala.attest.certs import decode_pem
from phala.attest.intel import verify_intel
from phala.attest.kept import verify_amd_collateral
from phala.attest.nitro import verify_document
from phala.attest.nvidia import CHAIN_CERTIFICATES, DRIVER, VBIOS, verify_device
from phala.attest.snp import CHAIN, REVOKED, verify_report
from phala.attest.verify import check_verdict
from phala.errors import Invalid
from phala.messages.collateral import AMD, INTEL, INTEL_ITEMS, AmdItems, IntelItems
from phala.primitives.extrinsic import Extrinsic
from phala.primitives.types import Moment
from phala.runtime.attestation import AttestVerifier
from phala.tee.platform import ReportData
from phala.testing import p384_pki
from phala.testing.amd_pki import SimulatedAmd, pinned
from phala.testing.intel_pki import NOW, SimulatedIntel
from phala.testing.x509 import BEGIN

SUBMIT_INTEL, SUBMIT_AMD = bytes([87, 0]), bytes([87, 1])
_SEV: Final = int(PlatformCode.SEV_SNP)
# UUIDs of the host's table, as Linux hands it out: sev-guest.rst.
_VCEK: Final = bytes.fromhex("63da758de6644564adc5f4b93be8accd")
_TABLE_BYTES: Final = 48  # one entry, and the empty one that ends it


@dataclass(frozen=True)
class Hardware:
    """A machine under a worker: each quote is signed as its vendor would."""

    vendor: SimulatedIntel | SimulatedAmd
    attributes: int | None = None  # of an Intel enclave, where not a plain one's

    @property
    def code(self) -> int:
        """Its platform's number."""
        if isinstance(self.vendor, SimulatedAmd):
            return _SEV
        return int(PlatformCode.TDX if self.vendor.tdx else PlatformCode.SGX)

    def quote(self, report_data: ReportData) -> bytes:
        if isinstance(self.vendor, SimulatedIntel):
            return self.vendor.quote(report_data=report_data, attributes=self.attributes)
        key = self.vendor.key()
        sizes = _TABLE_BYTES.to_bytes(4, "little") + len(key).to_bytes(4, "little")
        table = (_VCEK + sizes).ljust(_TABLE_BYTES, b"\0") + key
        chip = self.vendor.chip
        return self.vendor.report(report_data=report_data, chip=chip) + table

    @property
    def measurements(self) -> Mapping[str, bytes]:
        return {}

    @property
    def seals(self) -> bool:
        return False

    def seal(self, plaintext: bytes, *, label: bytes) -> NoReturn:
        raise Invalid(f"{len(plaintext)} bytes under {label!r}", mend="this hardware seals nothing")

    def unseal(self, sealed: bytes, *, label: bytes) -> NoReturn:
        raise Invalid(f"{len(sealed)} bytes under {label!r}", mend="this hardware seals nothing")


@dataclass(frozen=True)
class NitroMachine(Hardware):
    """An enclave of a cloud shaped like Amazon's; `vendor` is not looked at."""

    made: Moment = NOW
    module: str = "i-0123456789abcdef0-enc1"

    @property
    def code(self) -> int:
        return int(PlatformCode.NITRO)

    def quote(self, report_data: ReportData) -> bytes:
        enclave = p384_pki.chain(CHAIN_CERTIFICATES)
        changes: dict[int | str, p384_pki.Cbor] = {
            "user_data": bytes(report_data),
            "module_id": self.module,
        }
        return p384_pki.nitro_document(enclave, made=self.made, changes=changes)


@dataclass
class Vendors:
    """An Intel and an AMD, and what they publish."""

    tdx: SimulatedIntel = field(default_factory=SimulatedIntel)

    def __post_init__(self) -> None:
        self.sgx = self.machine(tdx=False)
        self.amd = SimulatedAmd()

    def machine(
        self, *, tdx: bool = True, ppid: bytes = b"\x11" * 16, fmspc: bytes | None = None
    ) -> SimulatedIntel:
        """Another platform of the same Intel."""
        made = SimulatedIntel(
            tdx=tdx,
            root_key=self.tdx.root_key,
            platform_ca_key=self.tdx.platform_ca_key,
            tcb_key=self.tdx.tcb_key,
            ppid=ppid,
            fmspc=fmspc or self.tdx.fmspc,
        )
        made.root = self.tdx.root
        return made

    def collateral_of(self, vendor: SimulatedIntel | SimulatedAmd) -> dict[str, bytes]:
        """What the vendor publishes of a machine."""
        if isinstance(vendor, SimulatedIntel):
            return vendor.collateral()
        return {REVOKED: vendor.revoked(), CHAIN: vendor.chain()}

    @property
    def verifier(self) -> AttestVerifier:
        """A chain's, that takes these for Intel and AMD."""
        public = self.tdx.root_key.public_key()
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        root = hashlib.sha256(spki).hexdigest()
        return AttestVerifier(
            judge=self._judge,
            device=_judge_device,
            intel=partial(verify_intel_collateral, root=root),
            amd=partial(verify_amd_collateral, roots=pinned()),
        )

    def _judge(
        self, evidence: Evidence, policy: Policy, collateral: Mapping[str, bytes], now: Moment
    ) -> Verdict:
        platform = PlatformCode(evidence.platform)
        if platform == PlatformCode.NITRO:
            pin = p384_pki.chain(CHAIN_CERTIFICATES).root_hash
            verdict = verify_document(evidence.blob, policy, collateral, now, root=pin)
        elif platform == PlatformCode.SEV_SNP:
            verdict = verify_report(evidence.blob, policy, collateral, now, roots=pinned())
        else:
            root = self.tdx.root_der
            verdict = verify_intel(platform, evidence.blob, policy, collateral, now, root=root)
        check_verdict(verdict, policy)
        return verdict


def _judge_device(
    evidence: Evidence, policy: Policy, collateral: Mapping[str, bytes], now: Moment
) -> Verdict:
    documents = [collateral[name] for name in (DRIVER, VBIOS) if name in collateral]
    made = [verify_rim(each, root=p384_pki.chain(4).root_hash) for each in documents]
    root = p384_pki.chain(CHAIN_CERTIFICATES).root_hash
    rims = {bytes(each.digest): each for each in made}
    verdict = verify_device(evidence.blob, policy, collateral, now, rims=rims, root=root)
    check_verdict(verdict, policy)
    return verdict


def submit_intel(items: Mapping[str, bytes]) -> bytes:
    """The bare extrinsic that brings Intel's collateral."""
    named = IntelItems(**{name: items[name] for name in INTEL_ITEMS})
    return Extrinsic(None, SUBMIT_INTEL + INTEL.encode(named)).encode()


def submit_amd(vendor: SimulatedAmd, *, begin: dt.datetime = BEGIN, days: int = 365) -> bytes:
    """The bare extrinsic that brings AMD's chain and list."""
    items = AmdItems(vendor.revoked(begin=begin, days=days), vendor.chain())
    assert len(decode_pem(items.amd_chain)) == 2, "intermediate and root"
    return Extrinsic(None, SUBMIT_AMD + AMD.encode(items)).encode()
