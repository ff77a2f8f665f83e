"""Judges what vendors publish by itself, without evidence: for a chain that keeps it.

Anyone may bring it, so nothing but its signatures counts. Checks of Intel's, numbered here:

1. It is the nine items, text, and nothing else.
2. Who signs TCB info and QE identity is Intel's signer of them, under Intel's root; who signs the
   list of platforms' keys is a CA under it. All are valid at `now`.
3. Each signature is theirs: over the texts as they stand, and over both revocation lists.
4. The root revoked none of them.
5. Both texts are of one kind of TEE, and at `now` all are issued and not expired.

Of AMD's list: the chain ends in the product's root; the root signed the list; at `now` it counts.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from phala.attest import snp
from phala.attest.certs import (
    Certificate,
    RevocationList,
    check_p256,
    check_pss,
    check_time,
    decode_pem,
    decode_revocation_list,
    p256_key,
    spki_hash,
    verify_chain,
)
from phala.attest.der import GENERALIZED_TIME, Value, moment
from phala.attest.ecdsa import PointInvalid, SignatureMismatch, verify_p256_any
from phala.attest.errors import (
    AnchorRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    RevocationRefused,
)
from phala.attest.intel import COLLATERAL, SGX_OIDS, TCB_SIGNER
from phala.attest.verdict import PlatformCode
from phala.primitives.types import Moment

# SHA-256 of the SubjectPublicKeyInfo of the "Intel SGX Root CA".
INTEL_ROOT: Final = "a0af031289f5d5d4132f9186068a7fc13628633ba235777472e29b6b6c67a49e"
ITEM_BYTES_MAX: Final = 64 * 1024
_PLATFORMS: Final = {"SGX": PlatformCode.SGX, "TDX": PlatformCode.TDX}
_IDENTITIES: Final = {PlatformCode.SGX: "QE", PlatformCode.TDX: "TD_QE"}
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_FMSPC: Final = re.compile(r"[0-9A-Fa-f]{12}")
_HEX: Final = re.compile(r"(?:[0-9a-fA-F]{2})+")
_NUMBER_MAX: Final = 2**32


@dataclass(frozen=True, slots=True)
class IntelCollateral:
    """What Intel says of one product, as of one evaluation. A chain keeps one of each
    (platform, product, number), and never an older issue of it.
    """

    platform: PlatformCode
    product: str  # FMSPC in hex, as `Verdict.product`
    number: int  # tcbEvaluationDataNumber, the lesser of both texts'
    issued: Moment  # the TCB info
    expires: Moment  # whichever of its parts expires first
    authority: str  # "processor" or "platform": which CA's list of revoked platforms' keys it has
    parts: tuple[Moment, ...]  # issued: TCB info, QE identity, platforms' keys, root's list


@dataclass(frozen=True, slots=True)
class AmdRevocations:
    """AMD's list of one product."""

    line: str  # Milan, Genoa, Turin
    issued: Moment
    expires: Moment
    serials: tuple[int, ...]


def verify_intel_collateral(
    items: Mapping[str, bytes], now: Moment, *, root: str = INTEL_ROOT
) -> IntelCollateral:
    """What the items are of, when Intel published them and they count at `now`.

    Args:
        root: another pin than Intel's, for tests that need a vendor of their own.

    Raises:
        AttestationError: and nothing else, whatever the bytes.
    """
    _check_names(items)  # 1
    spans, signers = [], []
    texts: dict[str, Any] = {}
    for name in ("tcb_info", "qe_identity"):
        signer, above = _chain(items[f"{name}_issuer_chain"], root, now)  # 2
        special = [oid for oid in signer.extensions if oid.startswith(SGX_OIDS)]
        if signer.common_name != TCB_SIGNER or signer.is_ca or special:
            raise AnchorRefused(
                f"{name} is signed by {signer.common_name!r}, not by {TCB_SIGNER!r}",
                check=2,
                mend="fetch the collateral from Intel again",
            )
        _check_signature(signer, items[name], _hex(items[f"{name}_signature"]), name)  # 3
        texts[name] = _parsed(items[name])
        spans.append(_span(texts[name]))
        signers += [signer, above]
    authority, top = _chain(items["pck_crl_issuer_chain"], root, now)
    for listed, issuer in (("pck_crl", authority), ("root_ca_crl", top)):
        found = _list(_hex(items[listed]), issuer, listed)
        spans.append((found.issued, found.expires))
        if listed == "root_ca_crl":
            _check_revoked(found, [*signers, authority])  # 4
    for begin, end in spans:  # 5
        if not begin <= now <= end:
            raise EvidenceExpired(
                f"a part of the collateral is of {begin} to {end} ms, not of {now}",
                check=5,
                mend="fetch the collateral from Intel again",
            )
    return _intel(texts["tcb_info"], texts["qe_identity"], spans, _authority(authority))


def verify_amd_revocations(
    given: bytes, chain: bytes, now: Moment, *, roots: Mapping[str, str] = snp.ROOTS
) -> AmdRevocations:
    """What AMD's list says, when its root signed it and it counts at `now`.

    Args:
        chain: intermediate and root in PEM, as AMD publishes them.
        roots: other pins than AMD's, for tests that need a vendor of their own.

    Raises:
        AttestationError: and nothing else, whatever the bytes.
    """
    *_, root = decode_pem(chain)
    line = root.common_name.removeprefix("ARK-")
    if line not in roots or spki_hash(root) != roots[line]:
        raise AnchorRefused(
            f"the chain ends in {root.common_name!r}, which is no root of AMD's",
            check=2,
            mend="give the chain as AMD's key server publishes it",
        )
    check_time(root, now, "AMD's root")
    listed = decode_revocation_list(given)
    if listed.issuer != root.subject or not root.signs_lists:
        raise EvidenceForged(
            "the list is of another issuer than AMD's root", check=3, mend="fetch it again"
        )
    check_pss(listed, root, "AMD's revocation list")
    if not listed.issued <= now <= listed.expires:
        raise EvidenceExpired(
            f"AMD's list is of {listed.issued} to {listed.expires} ms, not of {now}",
            check=5,
            mend="fetch the list from AMD's key server again",
        )
    return AmdRevocations(line, listed.issued, listed.expires, listed.serials)


def _check_names(items: Mapping[str, bytes]) -> None:
    """1."""
    if tuple(sorted(items)) != COLLATERAL:
        raise _malformed(f"it has {', '.join(sorted(items)) or 'nothing'}")
    large = [name for name in COLLATERAL if len(items[name]) > ITEM_BYTES_MAX]
    if large:
        raise _malformed(f"{', '.join(large)}: more than {ITEM_BYTES_MAX} bytes")


def _chain(pem: bytes, root: str, now: Moment) -> tuple[Certificate, Certificate]:
    """2. Somebody, and the root above."""
    chain = decode_pem(pem)
    if len(chain) != 2:
        raise _malformed(f"a chain of {len(chain)} certificates, not 2")
    verify_chain(chain, check_p256, now, anchor=root, vendor="Intel")
    return chain[0], chain[1]


def _check_signature(signer: Certificate, text: bytes, signature: bytes, what: str) -> None:
    """3. r and s, 32 bytes each."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        if len(signature) == 64:
            verify_p256_any(p256_key(signer), text, r, s)
            return
    except (SignatureMismatch, PointInvalid):
        pass
    raise EvidenceForged(
        f"{what} is not signed by its signer",
        check=3,
        mend="fetch the collateral from Intel again",
    )


def _list(data: bytes, issuer: Certificate, what: str) -> RevocationList:
    """3."""
    listed = decode_revocation_list(data)
    if listed.issuer != issuer.subject or not issuer.signs_lists:
        raise EvidenceForged(
            f"{what} is of another issuer than its chain's",
            check=3,
            mend="fetch the collateral from Intel again",
        )
    check_p256(listed, issuer, what)
    return listed


def _check_revoked(listed: RevocationList, certificates: list[Certificate]) -> None:
    """4."""
    for certificate in certificates:
        if certificate.serial in listed.serials:
            raise RevocationRefused(
                f"Intel revoked {certificate.common_name}, number {certificate.serial}",
                check=4,
                mend="fetch the collateral from Intel again",
            )


def _intel(
    info: dict[str, Any],
    identity: dict[str, Any],
    spans: list[tuple[Moment, Moment]],
    authority: str,
) -> IntelCollateral:
    platform, fmspc = _PLATFORMS.get(str(info.get("id"))), info.get("fmspc")
    if platform is None or identity.get("id") != _IDENTITIES[platform]:  # 5
        raise _malformed(f"of {info.get('id')!r} and {identity.get('id')!r}")
    if not isinstance(fmspc, str) or not _FMSPC.fullmatch(fmspc):
        raise _malformed(f"the product {fmspc!r}")
    numbers = [text.get("tcbEvaluationDataNumber") for text in (info, identity)]
    if not all(type(number) is int and 0 <= number < _NUMBER_MAX for number in numbers):
        raise _malformed(f"the evaluation numbers {numbers}")
    return IntelCollateral(
        platform=platform,
        product=fmspc.lower(),
        number=min(number for number in numbers if number is not None),
        issued=spans[0][0],
        expires=min(end for _, end in spans),
        authority=authority,
        parts=tuple(begin for begin, _ in spans),
    )


def _authority(certificate: Certificate) -> str:
    """2. Whose list it is: Intel has two CAs of platforms' keys."""
    for word in ("Processor", "Platform"):
        if certificate.common_name.endswith(f"{word} CA"):
            return word.lower()
    raise AnchorRefused(
        f"{certificate.common_name!r} is no CA of platforms' keys",
        check=2,
        mend="fetch the collateral from Intel again",
    )


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise _malformed("a text that is no JSON object")
    return parsed


def _span(text: dict[str, Any]) -> tuple[Moment, Moment]:
    begin, end = (_moment(text.get(name)) for name in ("issueDate", "nextUpdate"))
    return begin, end


def _moment(text: Any) -> Moment:
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise _malformed(f"the time {text!r}")
    body = re.sub("[-T:]", "", text).encode()
    return moment(Value(GENERALIZED_TIME, body, body))


def _hex(item: bytes) -> bytes:
    text = item.decode("ascii", "replace")
    if not _HEX.fullmatch(text):
        raise _malformed("an item that is not hex")
    return bytes.fromhex(text)


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(
        f"no collateral of Intel's: {what}",
        check=1,
        mend=f"give exactly: {', '.join(COLLATERAL)}",
    )
