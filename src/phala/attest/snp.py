"""Judges AMD SEV-SNP attestation reports, versions 2 to 5, signed by VCEK or VLEK.

Source: AMD SEV Secure Nested Paging Firmware ABI, 56860, section 7.3; VCEK and KDS interface,
57230. Checks, as numbered in `verify`:

4a. The report has 1,184 bytes, a known version and signature algorithm, and the bit that every
    policy has; what its signature leaves open is zero.
4b. What certifies it is there: the key's certificate, and the two above it.
5a. The processor's product is known, and the key is for that product.
5b. The chain ends in AMD's root of that product; each certificate is signed by the next
    (RSA-4096, PSS, SHA-384), valid at `now`, and has the name of its role: VCEK and VLEK have
    intermediates of their own.
5c. The revocation list is the root's, current, and does not name the intermediate. The policy says
    whether one must be there.
5d. The key is for this chip (VCEK) and for the firmware that the report names.
6.  The key signed the report: P-384 with SHA-384.
7a. No migration agent may take the guest elsewhere.
7b. The firmware looked for memory with two addresses (BadRAM), where the policy asks for it.
7c. Who asked for the report is as privileged as the policy asks for.
8.  A debuggable guest is for the policy.
9.  Reported and committed firmware are at the policy's floor for the product.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from phala.attest import der
from phala.attest.certs import (
    Certificate,
    check_pss,
    decode_certificate,
    decode_pem,
    decode_revocation_list,
    p384_point,
    verify_chain,
)
from phala.attest.ecdsa import SignatureMismatch, verify_p384
from phala.attest.errors import (
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    PlatformRefused,
    RevocationRefused,
    TcbRefused,
)
from phala.attest.policy import Policy
from phala.attest.verdict import CONFIDENCE_BEST, CONFIDENCE_WORST, PlatformCode, TcbStatus, Verdict
from phala.primitives.types import Hash, Moment

REPORT_BYTES: Final = 1184
SIGNED_BYTES: Final = 0x2A0
KEY, CHAIN, REVOKED = "amd_key", "amd_chain", "amd_crl"  # DER; PEM as AMD has it; DER
COLLATERAL: Final = (CHAIN, KEY, REVOKED)

# SHA-256 of the root's SubjectPublicKeyInfo, as AMD's key server publishes it; one for both kinds.
ROOTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "Milan": "9f056bee44377e29308cb5ffa895bdfb62d18881fa6bed8d6f075b0204089cb9",
        "Genoa": "429a69c9422aa258ee4d8db5fcda9c6470ef15f8cd5a9cebd6cbc7d90b863831",
        "Turin": "4f125410563a2ab9a50356f9243f6fe0b6f73de98603f53f90339c70e9d7ad08",
    }
)
_LINES: Final = {"Bergamo": "Genoa", "Siena": "Genoa"}  # sold by other names, of Genoa's root
# Lines of which stepping 2 has stacked cache, and microcode that is counted otherwise: Genoa-X's
# revisions are 0x0A1012.., Genoa's 0x0A1011... AMD-SB-3019.
_STACKED_STEPPING: Final = 2
_OIDS: Final = "1.3.6.1.4.1.3704.1."
_LEVEL_OIDS: Final = {"bl": "3.1", "tee": "3.2", "snp": "3.3", "ucode": "3.8", "fmc": "3.9"}
_LEVELS: Final = {"bl": 0, "tee": 1, "snp": 6, "ucode": 7}  # bytes of a TCB version
_LEVELS_TURIN: Final = {"fmc": 0, "bl": 1, "tee": 2, "snp": 3, "ucode": 7}
_ALWAYS, _MIGRATE, _DEBUG = 1 << 17, 1 << 18, 1 << 19  # of the guest's policy
_ALIAS_CHECKED: Final = 1 << 5  # of the platform's information
_R, _S, _SIGNATURE_END, _NUMBER_BYTES = 0x2A0, 0x2E8, 0x330, 72
_MEND: Final = "give the report as the processor made it, and the certificate of its key"


@dataclass(frozen=True, slots=True)
class Report:
    """What the processor says. Offsets as in the firmware ABI, table 23."""

    blob: bytes
    version: int
    policy: int
    vmpl: int
    platform_info: int
    signer: str  # "VCEK", "VLEK"
    cpuid: tuple[int, int, int] | None  # family, model, stepping; version 2 has none
    chip_id: bytes

    def tcb(self, at: int, line: str) -> dict[str, int]:
        """The security versions at that offset."""
        layout = _LEVELS_TURIN if line == "Turin" else _LEVELS
        return {name: self.blob[at + place] for name, place in layout.items()}


CURRENT, REPORTED, COMMITTED, LAUNCH = 0x38, 0x180, 0x1E0, 0x1F0


def verify_snp(
    blob: bytes, policy: Policy, collateral: Mapping[str, bytes], now: Moment
) -> Verdict:
    """Checks 4 to 9 of `verify`, for a report alone; its certificates are collateral."""
    return verify_report(blob, policy, collateral, now, roots=ROOTS)


def verify_report(
    blob: bytes,
    policy: Policy,
    collateral: Mapping[str, bytes],
    now: Moment,
    *,
    roots: Mapping[str, str],
) -> Verdict:
    """The same.

    Args:
        roots: other pins than AMD's, for tests that need a vendor of their own.
    """
    report = decode_report(blob)  # 4a
    key, chain = _certificates(collateral)  # 4b
    line, product = _product(report, key)  # 5a
    _check_chain(report, key, chain, line, now, roots)  # 5b
    _check_revoked(collateral.get(REVOKED), chain, policy, now)  # 5c
    _check_key(report, key, line)  # 5d
    _check_signature(report, key)  # 6
    _check_report(report, policy)  # 7
    status = _status(report, line, product, policy)  # 9
    return _verdict(report, line, product, status)


def decode_report(blob: bytes) -> Report:
    """4a. The report that the bytes are."""
    if len(blob) != REPORT_BYTES:
        raise _malformed(f"{len(blob)} bytes, not {REPORT_BYTES}")
    version, policy = _u32(blob, 0), int.from_bytes(blob[8:16], "little")
    signer, algorithm = _u32(blob, 0x48) >> 2 & 7, _u32(blob, 0x34)
    if not 2 <= version <= 5 or algorithm != 1 or not policy & _ALWAYS:
        raise _malformed(f"version {version}, signature algorithm {algorithm}, policy 0x{policy:x}")
    if _u32(blob, 0x48) >> 5 or signer > 1:
        raise _malformed(f"signed by no VCEK or VLEK: 0x{_u32(blob, 0x48):x}")
    if any(blob[_SIGNATURE_END:]):
        raise _malformed("something follows the signature")
    return Report(
        blob=blob,
        version=version,
        policy=policy,
        vmpl=_u32(blob, 0x30),
        platform_info=int.from_bytes(blob[0x40:0x48], "little"),
        signer=("VCEK", "VLEK")[signer],
        cpuid=(blob[0x188], blob[0x189], blob[0x18A]) if version >= 3 else None,
        chip_id=blob[0x1A0:0x1E0],
    )


def signed_by_vlek(blob: bytes) -> bool:
    """Whether a report says that the cloud's key signed it; nothing is judged."""
    return _u32(blob, 0x48) >> 2 & 7 == 1


def line_of(report: Report, key: bytes) -> str:
    """5a. The processor's line, by the report and its key's certificate: Milan, Genoa, Turin."""
    return _product(report, decode_certificate(key))[0]


def line_of_cpuid(report: Report) -> str:
    """The processor's line, by what the report alone says."""
    if report.cpuid is None:
        raise _malformed("a report of version 2, which does not name its processor")
    return _of_cpuid(*report.cpuid)[0]


def _certificates(
    collateral: Mapping[str, bytes],
) -> tuple[Certificate, tuple[Certificate, Certificate]]:
    """4b. The key's, and intermediate and root."""
    extra = [name for name in sorted(collateral) if name not in COLLATERAL]
    if extra or KEY not in collateral or CHAIN not in collateral:
        raise _malformed(f"the collateral has {', '.join(sorted(collateral)) or 'nothing'}")
    chain = decode_pem(collateral[CHAIN])
    if len(chain) != 2:
        raise _malformed(f"a chain of {len(chain)} certificates above the key's, not 2")
    return decode_certificate(collateral[KEY]), (chain[0], chain[1])


def _product(report: Report, key: Certificate) -> tuple[str, str]:
    """5a. The line, which has a root of its own, and the product, which floors are set for."""
    named = key.extensions.get(_OIDS + "2", b"")
    name = named[2:].decode("ascii", "replace") if named[:1] == b"\x16" else ""
    given = name.split("-")[0]
    line = _LINES.get(given, given)
    product = given
    if report.cpuid is not None:
        cpu, product = _of_cpuid(*report.cpuid)
        if cpu != line:
            raise EvidenceForged(
                f"the report is of a {cpu} processor, its key's certificate for {given!r}",
                check=5,
                mend=_MEND,
            )
    if line not in ROOTS:
        raise PlatformRefused(
            f"the AMD product {given!r} is unknown",
            check=5,
            mend=f"give evidence of one of: {', '.join(ROOTS)}",
        )
    return line, product.lower()


def _of_cpuid(family: int, model: int, stepping: int) -> tuple[str, str]:
    """Line and product: AMD's 57230, table of products by CPUID."""
    stacked = "-X" if stepping == _STACKED_STEPPING else ""
    match family, model:
        case 0x19, _ if model <= 0x0F:
            return "Milan", "Milan" + stacked
        case 0x19, _ if 0x10 <= model <= 0x1F:
            return "Genoa", "Genoa" + stacked
        case 0x19, _ if 0xA0 <= model <= 0xAF:
            return "Genoa", "Bergamo"
        case 0x1A, _ if model <= 0x11:
            return "Turin", "Turin"
        case _:
            raise PlatformRefused(
                f"an AMD processor of family 0x{family:x}, model 0x{model:x} is unknown",
                check=5,
                mend=f"give evidence of one of: {', '.join(ROOTS)}",
            )


def _check_chain(
    report: Report,
    key: Certificate,
    chain: tuple[Certificate, Certificate],
    line: str,
    now: Moment,
    roots: Mapping[str, str],
) -> None:
    """5b."""
    wanted = {"VCEK": f"SEV-{line}", "VLEK": f"SEV-VLEK-{line}"}[report.signer]
    found = (key.common_name, chain[0].common_name)
    if found != (f"SEV-{report.signer}", wanted):
        raise EvidenceForged(
            f"the report is signed by a {report.signer} under {wanted}, its certificates are"
            f" {' under '.join(map(repr, found))}",
            check=5,
            mend=_MEND,
        )
    verify_chain((key, *chain), check_pss, now, anchor=roots[line], vendor=f"AMD {line}")


def _check_revoked(
    given: bytes | None, chain: tuple[Certificate, Certificate], policy: Policy, now: Moment
) -> None:
    """5c. Keys of chips have the serial number 0, all of them: a list names intermediates."""
    if given is None:
        if policy.revocation_list:
            raise RevocationRefused(
                f"no {REVOKED} is given, the policy {policy.name} asks for AMD's list",
                check=5,
                mend="fetch the list of the product from AMD's key server",
            )
        return
    listed, (intermediate, root) = decode_revocation_list(given), chain
    if listed.issuer != root.subject or not root.signs_lists:
        raise EvidenceForged(
            "the revocation list is of another issuer than AMD's root", check=5, mend=_MEND
        )
    check_pss(listed, root, "AMD's revocation list")
    if not listed.issued <= now <= listed.expires:
        raise EvidenceExpired(
            f"AMD's revocation list is of {listed.issued} to {listed.expires} ms, not of {now}",
            check=5,
            mend="fetch the list of the product from AMD's key server",
        )
    for certificate in (intermediate, root):
        if certificate.serial in listed.serials:
            raise RevocationRefused(
                f"AMD revoked {certificate.common_name}, number {certificate.serial}",
                check=5,
                mend="move the enclave to a processor whose keys stand",
            )


def _check_key(report: Report, key: Certificate, line: str) -> None:
    """5d."""
    for name, level in report.tcb(REPORTED, line).items():
        body = key.extensions.get(_OIDS + _LEVEL_OIDS[name])
        certified = None if body is None else der.integer(der.read(body))
        if certified != level:
            raise EvidenceForged(
                f"the report names the firmware {name} {level}, its key is for {certified}",
                check=5,
                mend="fetch the certificate of the key for the report's firmware",
            )
    if report.signer == "VLEK":
        return
    if not any(report.chip_id):
        raise PlatformRefused(
            "the chip's id is masked, so nothing ties the report to the chip of its VCEK",
            check=5,
            mend="attest where the host does not mask it, or under a VLEK",
        )
    size = 8 if line == "Turin" else 64
    given = key.extensions.get(_OIDS + "4", b"")
    if len(given) == size + 2 and given[:2] == bytes([der.OCTET_STRING, size]):
        given = given[2:]
    if given != report.chip_id[:size] or any(report.chip_id[size:]):
        raise EvidenceForged(
            f"the report is of the chip {report.chip_id.hex()}, its key of {given.hex() or 'none'}",
            check=5,
            mend=_MEND,
        )


def _check_signature(report: Report, key: Certificate) -> None:
    """6. Both numbers are little-endian."""
    r, s = (int.from_bytes(report.blob[at : at + _NUMBER_BYTES], "little") for at in (_R, _S))
    try:
        verify_p384(p384_point(key), report.blob[:SIGNED_BYTES], r, s)
    except SignatureMismatch:
        raise EvidenceForged(
            f"the report is not signed by its {report.signer}", check=6, mend=_MEND
        ) from None


def _check_report(report: Report, policy: Policy) -> None:
    """7."""
    if report.policy & _MIGRATE:  # 7a
        raise EvidenceMalformed(
            f"the guest's policy 0x{report.policy:x} lets a migration agent take it elsewhere",
            check=7,
            mend="start the guest without the migration bit",
        )
    if policy.alias_check and not report.platform_info & _ALIAS_CHECKED:  # 7b
        raise TcbRefused(
            f"the platform's information 0x{report.platform_info:x} lacks the alias check: memory"
            " with two addresses (BadRAM, CVE-2024-21944) was not looked for",
            check=7,
            mend="update the platform's firmware, then attest again",
        )
    if report.vmpl > policy.vmpl_max:  # 7c
        raise PlatformRefused(
            f"VMPL {report.vmpl} asked for the report, the policy {policy.name} accepts up to"
            f" {policy.vmpl_max}",
            check=7,
            mend="ask for the report at the level that the policy names",
        )


def _status(report: Report, line: str, product: str, policy: Policy) -> TcbStatus:
    """9. AMD says nothing on it, so without a floor nobody does."""
    floor = policy.floor(product)
    if floor is None:
        return TcbStatus.NONE
    for what, at in (("reported", REPORTED), ("committed", COMMITTED)):
        for name, level in report.tcb(at, line).items():
            if level < getattr(floor, name):
                return _below(policy, f"{what} {name} {level}", getattr(floor, name), product)
    return TcbStatus.UP_TO_DATE


def _below(policy: Policy, found: str, least: int, product: str) -> TcbStatus:
    if TcbStatus.OUT_OF_DATE in policy.tcb_statuses:
        return TcbStatus.OUT_OF_DATE
    raise TcbRefused(
        f"the firmware is {found}, the policy {policy.name} asks for {least} of {product}",
        check=9,
        mend="update the platform's firmware and microcode, then attest again",
    )


def _verdict(report: Report, line: str, product: str, status: TcbStatus) -> Verdict:
    blob, debug = report.blob, bool(report.policy & _DEBUG)
    notes = ["AMD publishes no judgement of firmware: its status is by the policy's floors"]
    if line == "Milan":
        notes.append("the keys of Milan processors can be read out by software")
    if report.signer == "VLEK":
        notes.append("the cloud's key signed it, not the chip's: you believe the cloud, too")
    masked = not any(report.chip_id)
    if masked:
        notes.append("the chip's id is masked: no list can block it")
    worst = debug or line == "Milan" or status is not TcbStatus.UP_TO_DATE
    return Verdict(
        platform=PlatformCode.SEV_SNP,
        hardware=True,
        anchor=f"AMD ARK-{line}",
        measurement=blob[0x90:0xC0],
        measurements=MappingProxyType(
            {
                "measurement": blob[0x90:0xC0],
                "host_data": blob[0xC0:0xE0],
                "id_key_digest": blob[0xE0:0x110],
                "author_key_digest": blob[0x110:0x140],
                "family_id": blob[0x10:0x20],
                "image_id": blob[0x20:0x30],
                "report_id": blob[0x140:0x160],
                "policy": blob[8:16],
            }
        ),
        report_data=blob[0x50:0x90],
        debug=debug,
        tcb_status=status,
        advisories=(),
        confidence=CONFIDENCE_WORST if worst else CONFIDENCE_BEST,
        platform_id=b"" if masked else report.chip_id,
        signed_hash=Hash(hashlib.sha256(blob[:SIGNED_BYTES]).digest()),
        notes=tuple(notes),
        product=product,
        svn=MappingProxyType({**report.tcb(REPORTED, line), "guest": _u32(blob, 4)}),
    )


def _u32(blob: bytes, at: int) -> int:
    return int.from_bytes(blob[at : at + 4], "little")


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(f"no SEV-SNP evidence: {what}", check=4, mend=_MEND)
