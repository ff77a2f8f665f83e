"""Judges evidence of `tee.simulated`: the same walk as a vendor's, and nothing behind it."""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from phala.attest.ecdsa import PointInvalid, SignatureMismatch, verify_p256
from phala.attest.errors import (
    AnchorRefused,
    AttestationError,
    EvidenceForged,
    EvidenceMalformed,
)
from phala.attest.policy import Policy
from phala.attest.quote import (
    AUTH_BYTES,
    CERTIFICATION_BYTES,
    CERTIFIES_PCK_CHAIN,
    CERTIFIES_QE_REPORT,
    KEY_ECDSA_P256,
    QE_REPORT,
    QUOTE,
    QUOTE_VERSION,
    SIGNED_BYTES,
    TD_DEBUG,
    TEE_TDX,
    VENDOR_SIMULATED,
    Certification,
    Header,
    Quote,
    TdReport,
)
from phala.attest.verdict import CONFIDENCE_WORST, PlatformCode, TcbStatus, Verdict
from phala.codec import Malformed
from phala.primitives.types import Hash, Moment

NO_HARDWARE: Final = "simulated: no hardware protection"
_ZEROS_32: Final = bytes(32)


def verify_simulated(
    blob: bytes, policy: Policy, collateral: Mapping[str, bytes], _now: Moment
) -> Verdict:
    """Checks 4 to 7 of `verify`. No time enters: the root has no end, being worth nothing."""
    quote = _parsed(blob, collateral)
    _check_certified(quote, policy)
    try:  # 6. The quote is the attestation key's.
        verify_p256(quote.key, blob[:SIGNED_BYTES], quote.signature)
    except (PointInvalid, SignatureMismatch) as error:
        raise _forged(6, error.what) from None
    _check_attributes(quote.report)

    report = quote.report
    return Verdict(
        platform=PlatformCode.SIMULATED,
        hardware=False,
        anchor=NO_HARDWARE,
        measurement=report.mr_td,
        measurements=MappingProxyType({"mrtd": report.mr_td}),
        report_data=report.report_data,
        debug=True,
        tcb_status=TcbStatus.NONE,
        advisories=(),
        confidence=CONFIDENCE_WORST,
        platform_id=quote.header.platform_id,
        signed_hash=Hash(hashlib.sha256(blob[:SIGNED_BYTES]).digest()),
        notes=(NO_HARDWARE,),
    )


def _parsed(blob: bytes, collateral: Mapping[str, bytes]) -> Quote:
    """4. The blob is one quote to its last byte, and its header says: simulated."""
    if collateral:
        raise _malformed(4, f"{len(collateral)} collateral items come with it, it takes none")
    try:
        quote = QUOTE.decode(blob)
    except Malformed as error:
        raise _malformed(4, error.what) from None
    wanted = Header(
        version=QUOTE_VERSION,
        key_type=KEY_ECDSA_P256,
        tee=TEE_TDX,
        reserved=bytes(4),
        vendor=VENDOR_SIMULATED,
        platform_id=quote.header.platform_id,
        user_data=bytes(4),
    )
    if quote.header != wanted:
        raise _malformed(4, f"the header is {quote.header}")
    return quote


def _check_certified(quote: Quote, policy: Policy) -> None:
    """5. The policy's root certifies the attestation key, in the one way there is."""
    if policy.simulated_root is None:
        raise AnchorRefused(
            f"the policy {policy.name} trusts no simulated root",
            check=5,
            mend="judge this network by its own dev policy, or ask for evidence of real hardware",
        )
    given = quote.certification
    wanted = Certification(
        kind=CERTIFIES_QE_REPORT,
        size=CERTIFICATION_BYTES,
        report=given.report,
        signature=given.signature,
        auth_size=0,
        chain_kind=CERTIFIES_PCK_CHAIN,
        chain_size=0,
    )
    if given != wanted or quote.auth_size != AUTH_BYTES:
        raise _malformed(5, "the certification has other sizes than a simulated quote's")
    try:
        verify_p256(policy.simulated_root, QE_REPORT.encode(given.report), given.signature)
    except SignatureMismatch:
        raise AnchorRefused(
            f"the root {policy.simulated_root.hex()} did not certify the attestation key",
            check=5,
            mend="take the simulated root from the chain spec of the network that made it",
        ) from None
    if given.report.report_data != hashlib.sha256(quote.key).digest() + _ZEROS_32:
        raise _forged(5, f"the attestation key {quote.key.hex()} is not the certified one")


def _check_attributes(report: TdReport) -> None:
    """7. The report admits that it is debuggable, and claims nothing that was not measured."""
    wanted = TdReport(
        tee_tcb_svn=bytes(16),
        mr_seam=bytes(48),
        mr_signer_seam=bytes(48),
        seam_attributes=0,
        td_attributes=TD_DEBUG,
        xfam=0,
        mr_td=report.mr_td,
        mr_config_id=bytes(48),
        mr_owner=bytes(48),
        mr_owner_config=bytes(48),
        rtmrs=bytes(4 * 48),
        report_data=report.report_data,
    )
    if report != wanted:
        raise _malformed(7, f"a simulated report has other fields: {report}")


def _malformed(check: int, what: str) -> AttestationError:
    return EvidenceMalformed(
        f"no simulated quote: {what}", check=check, mend="give the evidence as its enclave made it"
    )


def _forged(check: int, what: str) -> AttestationError:
    return EvidenceForged(
        f"the simulated quote is forged: {what}",
        check=check,
        mend="give the evidence as its enclave made it",
    )
