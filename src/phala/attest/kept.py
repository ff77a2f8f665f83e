"""What a chain keeps of vendors' collateral, and which of it evidence is judged by.

The prover chooses none of it: collateral is looked up by what the evidence says of its platform,
and where it lies about that, it does not verify under what was found.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from phala.attest import snp
from phala.attest.certs import check_pss, check_time, decode_pem, encode_pem
from phala.attest.collateral import verify_amd_revocations
from phala.attest.envelopes import open_evidence
from phala.attest.errors import AnchorRefused, EvidenceMalformed, RevocationRefused
from phala.attest.verdict import PlatformCode
from phala.attest.verify import EVIDENCE_BYTES_MAX, UNFORESEEN, Evidence
from phala.primitives.types import Moment

# Numbers of wire format and chain state: never reuse one.
INTEL_AUTHORITIES: Final = {"processor": 0, "platform": 1}
AMD_SIGNERS: Final = {"VCEK": 0, "VLEK": 1}
AMD_LINES: Final = {"Milan": b"\1", "Genoa": b"\2", "Turin": b"\3"}
_FMSPC_BYTES: Final = 6
_PANIC: Final = "PanicException"  # as in `intel`


@dataclass(frozen=True, slots=True)
class Need:
    """Which collateral evidence is judged by."""

    platform: PlatformCode
    issuer: int  # one of the two tables above
    product: bytes  # an FMSPC, or one of `AMD_LINES`


@dataclass(frozen=True, slots=True)
class Taken:
    """Evidence, what of its own certificates came with it, and what else it needs."""

    evidence: Evidence
    own: Mapping[str, bytes]
    need: Need | None  # None: nothing


@dataclass(frozen=True, slots=True)
class AmdCollateral:
    """A line's intermediate and root, and the root's list, as of one day."""

    line: bytes  # one of `AMD_LINES`
    signer: int  # one of `AMD_SIGNERS`
    issued: Moment
    expires: Moment


def take_apart(evidence: Evidence) -> Taken:
    """The evidence of one platform as a worker hands it in, nothing of it verified.

    SEV-SNP's is the report, then the host's table with the certificate of the key that signed: that
    names the chip and nothing that a prover could choose.

    Raises:
        EvidenceMalformed: it does not say what it needs.
    """
    if len(evidence.blob) > EVIDENCE_BYTES_MAX:
        raise _malformed(f"{len(evidence.blob)} bytes, at most {EVIDENCE_BYTES_MAX} are allowed")
    try:
        return _taken(evidence)
    except UNFORESEEN as error:
        raise _malformed(f"a form that was not foreseen: {type(error).__name__}") from error


def _taken(evidence: Evidence) -> Taken:
    match evidence.platform:
        case PlatformCode.SGX | PlatformCode.TDX:
            return Taken(evidence, {}, _intel(PlatformCode(evidence.platform), evidence.blob))
        case PlatformCode.SEV_SNP:
            return _amd(evidence)
        case _:
            return Taken(evidence, {}, None)


def _intel(platform: PlatformCode, blob: bytes) -> Need:
    # Loading it takes 90 ms, and most processes never judge an Intel quote.
    import dcap_qvl  # noqa: PLC0415

    try:
        quote: Any = dcap_qvl.Quote.parse(blob)
        product, authority = bytes.fromhex(quote.fmspc()), INTEL_AUTHORITIES.get(quote.ca())
    except (ValueError, OverflowError) as error:
        raise _malformed(" ".join(str(error).split())[:200]) from None
    except BaseException as error:
        if type(error).__name__ != _PANIC:
            raise
        raise _malformed("a quote of no known form") from None
    if authority is None or len(product) != _FMSPC_BYTES:
        raise _malformed("a platform's certificate of no known CA")
    return Need(platform, authority, product)


def _amd(evidence: Evidence) -> Taken:
    if not 2 <= int.from_bytes(evidence.blob[:4], "little") <= 5:  # no envelope of another form
        raise _malformed("no report of version 2 to 5")
    (opened,) = open_evidence(evidence.blob)
    if opened.evidence.platform != PlatformCode.SEV_SNP or snp.KEY not in opened.collateral:
        raise _malformed("a report without the certificate of its key")
    report = snp.decode_report(opened.evidence.blob)
    line = AMD_LINES[snp.line_of(report, opened.collateral[snp.KEY])]
    need = Need(PlatformCode.SEV_SNP, AMD_SIGNERS[report.signer], line)
    own = {snp.KEY: opened.collateral[snp.KEY]}
    return Taken(Evidence(PlatformCode.SEV_SNP, opened.evidence.blob), own, need)


def plain(items: Mapping[str, bytes]) -> dict[str, bytes]:
    """The same collateral of Intel's with each chain in the one text that `ensure_plain` takes."""
    return {
        name: encode_pem(decode_pem(item)) if name.endswith("_chain") else item
        for name, item in items.items()
    }


def ensure_plain(items: Mapping[str, bytes]) -> None:
    """That each chain stands in the one text there is of it.

    No signature covers that text, and readers differ in what they skip: who brings a chain with a
    blank line would have it kept here, and refused by the library that judges quotes.
    """
    odd = [name for name, item in plain(items).items() if item != items[name]]
    if odd:
        raise EvidenceMalformed(
            f"the collateral does not serve: {odd[0]} has another layout than 64 characters a line",
            check=1,
            mend="bring it by phala collateral submit, which writes it so",
        )


def verify_amd_collateral(
    listed: bytes, chain: bytes, now: Moment, *, roots: Mapping[str, str] = snp.ROOTS
) -> AmdCollateral:
    """A root's list with the intermediate under it, when both count at `now`.

    1. `verify_amd_revocations`: the root is AMD's, and signed the list.
    2. The chain is an intermediate of that line and role, and its root, which signed it.
    3. The list names neither.

    Raises:
        AttestationError: and nothing else, whatever the bytes.
    """
    found = verify_amd_revocations(listed, chain, now, roots=roots)  # 1
    certificates = decode_pem(chain)
    if len(certificates) != 2:
        raise _malformed(f"a chain of {len(certificates)} certificates, not of two")
    intermediate, root = certificates
    signers = {f"SEV-{found.line}": "VCEK", f"SEV-VLEK-{found.line}": "VLEK"}
    signer = signers.get(intermediate.common_name)
    if signer is None or not intermediate.is_ca or intermediate.issuer != root.subject:  # 2
        raise AnchorRefused(
            f"{intermediate.common_name!r} is no intermediate of {found.line}'s",
            check=2,
            mend="give the chain as AMD's key server publishes it",
        )
    check_pss(intermediate, root, "AMD's intermediate")
    check_time(intermediate, now, "AMD's intermediate")
    for each in certificates:  # 3
        if each.serial in found.serials:
            raise RevocationRefused(
                f"AMD revoked {each.common_name}, number {each.serial}",
                check=3,
                mend="fetch the chain from AMD's key server again",
            )
    line = AMD_LINES[found.line]
    return AmdCollateral(line, AMD_SIGNERS[signer], found.issued, found.expires)


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(
        f"the evidence does not say which collateral it needs: {what}",
        check=4,
        mend="give the evidence as the platform made it, SEV-SNP's with the host's certificates",
    )
