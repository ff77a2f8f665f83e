"""A vendor shaped like AMD: reports, keys and lists that nobody publishes.

Keys of chips here have other serial numbers than AMD's 0, which the builder of certificates does
not write; the judge reads genuine ones in its tests of vectors.
"""

import datetime as dt
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from phala.attest import snp
from phala.primitives.types import Moment
from phala.testing.x509 import BEGIN, certificate, name, revocation_list

LEVELS: Final[Mapping[str, int]] = MappingProxyType(
    {"bl": 10, "tee": 0, "snp": 27, "ucode": 222, "fmc": 2}
)
INTERMEDIATE: Final = 11  # the serial number of the VCEK's; the next is the VLEK's
CHIP: Final = bytes(range(64))
_CPUIDS: Final = {"Milan": (0x19, 1, 1), "Genoa": (0x19, 0x11, 1), "Turin": (0x1A, 2, 1)}
_OIDS: Final = "1.3.6.1.4.1.3704.1."
_LEVEL_OIDS: Final = {"bl": "3.1", "tee": "3.2", "snp": "3.3", "ucode": "3.8", "fmc": "3.9"}
_LEVELS_AT: Final = {"bl": 0, "tee": 1, "snp": 6, "ucode": 7}
_LEVELS_AT_TURIN: Final = {"fmc": 0, "bl": 1, "tee": 2, "snp": 3, "ucode": 7}


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    """One for all roots and intermediates: to make it takes seconds."""
    return rsa.generate_private_key(65537, 4096)


@functools.cache
def chip_key() -> ec.EllipticCurvePrivateKey:
    """The key that signs reports."""
    return ec.generate_private_key(ec.SECP384R1())


def pinned() -> dict[str, str]:
    """What to judge by in place of AMD's roots."""
    spki = rsa_key().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return dict.fromkeys(snp.ROOTS, hashlib.sha256(spki).hexdigest())


@dataclass(frozen=True)
class SimulatedAmd:
    """One chip of a product, and all that certifies it."""

    product: str = "Genoa"
    signer: str = "VCEK"
    certified: Mapping[str, int] = field(default_factory=lambda: LEVELS)
    chip: bytes | None = CHIP  # as the key's certificate has it
    id_key: bytes = bytes(48)  # the digest of whose key signed the guest
    guest_svn: int = 0

    def key(self, *, begin: dt.datetime | None = None, end: dt.datetime | None = None) -> bytes:
        """The certificate of the key that signs reports."""
        levels = {oid: integer(self.certified[part]) for part, oid in _LEVEL_OIDS.items()}
        if self.product != "Turin":
            del levels["3.9"]
        extensions = {"2": b"\x16" + _short(f"{self.product}-B0".encode()), **levels}
        if self.chip is not None and self.signer == "VCEK":
            extensions["4"] = self.chip[: 8 if self.product == "Turin" else 64]
        return certificate(
            name(f"SEV-{self.signer}"),
            chip_key().public_key(),
            self.intermediate_name,
            rsa_key(),
            extensions={_OIDS + oid: body for oid, body in extensions.items()},
            begin=begin,
            end=end,
            pss=_PSS,
        ).public_bytes(Encoding.DER)

    @property
    def intermediate_name(self) -> x509.Name:
        kind = {"VCEK": "SEV", "VLEK": "SEV-VLEK"}[self.signer]
        return name(f"{kind}-{self.product}")

    def chain(self) -> bytes:
        """Intermediate and root, in PEM."""
        root = name(f"ARK-{self.product}")
        public = rsa_key().public_key()
        above = (
            certificate(
                self.intermediate_name,
                public,
                root,
                rsa_key(),
                ca=True,
                serial=INTERMEDIATE + (self.signer == "VLEK"),
                pss=_PSS,
            ),
            certificate(root, public, root, rsa_key(), ca=True, serial=10, pss=_PSS),
        )
        return b"".join(each.public_bytes(Encoding.PEM) for each in above)

    def revoked(
        self, serials: Sequence[int] = (), *, days: int = 365, begin: dt.datetime = BEGIN
    ) -> bytes:
        """The root's list."""
        root = name(f"ARK-{self.product}")
        return revocation_list(root, rsa_key(), serials, days=days, begin=begin, pss=_PSS)

    def collateral(self) -> dict[str, bytes]:
        """All that is needed beside a report."""
        return {snp.KEY: self.key(), snp.CHAIN: self.chain(), snp.REVOKED: self.revoked()}

    def report(
        self,
        *,
        version: int = 3,
        policy: int = 0x30000,
        platform_info: int = 0x25,
        vmpl: int = 0,
        reported: Mapping[str, int] = LEVELS,
        committed: Mapping[str, int] = LEVELS,
        chip: bytes | None = None,
        report_data: bytes = b"\x07" * 64,
        cpuid: tuple[int, int, int] | None = None,
        signing: ec.EllipticCurvePrivateKey | None = None,
    ) -> bytes:
        """A report, signed."""
        blob = bytearray(snp.REPORT_BYTES)
        blob[0:4] = version.to_bytes(4, "little")
        blob[4:8] = self.guest_svn.to_bytes(4, "little")
        blob[0xE0:0x110] = self.id_key
        blob[8:16] = policy.to_bytes(8, "little")
        blob[0x30:0x34] = vmpl.to_bytes(4, "little")
        blob[0x34] = 1
        blob[0x40:0x48] = platform_info.to_bytes(8, "little")
        blob[0x48] = {"VCEK": 0, "VLEK": 1}[self.signer] << 2
        blob[0x50:0x90] = report_data
        blob[0x90:0xC0] = b"\x33" * 48
        for at, levels in ((0x38, reported), (0x180, reported), (0x1E0, committed)):
            layout = _LEVELS_AT_TURIN if self.product == "Turin" else _LEVELS_AT
            for part, place in layout.items():
                blob[at + place] = levels[part]
        if version >= 3:
            blob[0x188:0x18B] = bytes(cpuid or _CPUIDS[self.product])
        size = 8 if self.product == "Turin" else 64
        blob[0x1A0:0x1E0] = (CHIP[:size] if chip is None else chip).ljust(64, b"\0")
        signed = bytes(blob[: snp.SIGNED_BYTES])
        r, s = decode_dss_signature((signing or chip_key()).sign(signed, ec.ECDSA(hashes.SHA384())))
        blob[0x2A0:0x2E8] = r.to_bytes(72, "little")
        blob[0x2E8:0x330] = s.to_bytes(72, "little")
        return bytes(blob)


NOW: Final = Moment(1_780_000_000_000)  # 2026-05-28
_PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), 48)


def integer(number: int) -> bytes:
    """A small one in DER."""
    return b"\x02" + _short(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def _short(body: bytes) -> bytes:
    return bytes([len(body)]) + body
