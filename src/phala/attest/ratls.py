"""Judges certificates of RA-TLS: TLS keys whose certificate carries evidence of who made them.

Three forms are known. DICE: TCG DICE Attestation Architecture, tagged evidence (CBOR tag 60000), as
Intel's interoperable RA-TLS, Gramine since 1.8 and our own enclaves write it. Gramine's older form,
a bare quote under an identifier whose own DER was put into it. dstack's: a quote and an event log,
or an attestation of its own. Sources: reference/tee.md section 5.2; IANA's registries of CBOR tags
and of named information.

Such a certificate serves for TLS alone, and no other evidence serves in one: what evidence says is
told apart by its form. Report data of a registration is a SHA-512 over length-prefixed parts; of
DICE, a SHA-256 over a CBOR map and 32 zeros; of Gramine's older form, over a DER key and 32 zeros;
of dstack, a SHA-512 behind the words `ratls-cert:`.
"""

import enum
import hashlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from phala.attest import cbor, der, intel
from phala.attest.certs import Certificate, check_time, decode_certificate, decode_pem_of
from phala.attest.envelopes import Opened, open_dstack, open_quote
from phala.attest.errors import (
    AttestationError,
    EvidenceForged,
    EvidenceMalformed,
    PlatformRefused,
)
from phala.attest.policy import Policy
from phala.attest.verdict import Verdict
from phala.attest.verify import Evidence, verify
from phala.primitives.types import Moment

CERTIFICATE_BYTES_MAX: Final = 64 * 1024  # Gramine's has two quotes of 5 KB
CLAIMS_BYTES_MAX: Final = 4 * 1024
LOG_BYTES_MAX: Final = 64 * 1024  # dstack's own verifier takes 16 KiB, unpacked
OID_DICE: Final = "2.23.133.5.4.9"
# The identifier on the wire is 06 09 2A 86 48 86 F8 4D 8A 39 06: the DER of the one that was meant,
# 1.2.840.113741.1337.6, tag and length and all. What was meant is on no wire.
OID_GRAMINE: Final = "0.6.9.42.840.113741.1337.6"
_DSTACK: Final = "1.3.6.1.4.1.62397.1."
OID_DSTACK_QUOTE: Final = _DSTACK + "1"
OID_DSTACK_LOG: Final = _DSTACK + "2"
OID_DSTACK_ATTESTATION: Final = _DSTACK + "8"
PURPOSE: Final = "ra-tls"  # DESIGN section 4
_EVIDENCE: Final = (OID_DICE, OID_GRAMINE, OID_DSTACK_QUOTE, OID_DSTACK_ATTESTATION)
# Key usage, other names, basic constraints, purposes: RFC 5280, section 4.2.1. They narrow what a
# key is for, which here is what evidence says; its holder wrote them himself.
_CRITICAL: Final = (
    *("2.5.29.15", "2.5.29.17", "2.5.29.19", "2.5.29.37"),
    *(*_EVIDENCE, OID_DSTACK_LOG),
)

_FIRST: Final = 12  # of the checks that are not `verify`'s
_TAG: Final = bytes.fromhex("d9ea60")  # 60000
_PACKED: Final = b"ELGZv1"
_DSTACK_WORDS: Final = b"ratls-cert:"
_REPORT_HALF: Final = 32
_HASHES: Final[Mapping[int, Callable[..., "hashlib._Hash"]]] = {
    1: hashlib.sha256,
    7: hashlib.sha384,
    8: hashlib.sha512,
}  # numbers of IANA's "Named Information Hash Algorithm Registry"
_ECDSA: Final[Mapping[bytes, hashes.HashAlgorithm]] = {
    bytes.fromhex("300a06082a8648ce3d040302"): hashes.SHA256(),  # RFC 5758
    bytes.fromhex("300a06082a8648ce3d040303"): hashes.SHA384(),
}
_CURVES: Final = (ec.SECP256R1, ec.SECP384R1)
_MEND: Final = "ask the enclave for its certificate again"
_UNFORESEEN: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)

Judge: TypeAlias = Callable[[Evidence, Policy, Mapping[str, bytes], Moment], Verdict]


class TlsForm(enum.Enum):
    """Who laid the certificate out; the words are for people."""

    DICE = "TCG DICE"
    GRAMINE = "Gramine before 1.8"
    DSTACK = "dstack"


@dataclass(frozen=True, slots=True)
class Binding:
    """What an enclave of ours says beside its key: whose it is, and since when."""

    genesis: bytes  # 32
    worker: bytes  # 32, its attested signing key
    height: int  # of a finalized block that it had seen when it made the key
    block_hash: bytes  # 32


@dataclass(frozen=True, slots=True)
class TlsRules:
    """What a verifier asks of a certificate beside its policy. Nothing asked: nothing is fresh."""

    legacy: bool = False  # whether Gramine's older form is accepted
    nonce: bytes | None = None  # the claims must carry it
    key_hash: bytes | None = None  # SHA-256 of the key's SubjectPublicKeyInfo, known beforehand
    genesis: bytes | None = None
    worker: bytes | None = None  # as the chain lists it
    height_min: int | None = None  # the key was made after this block


@dataclass(frozen=True, slots=True)
class TlsVerdict:
    """A certificate whose key was made inside what `verdict` describes."""

    form: TlsForm
    opened: Opened
    verdict: Verdict
    spki: bytes  # the TLS key, SubjectPublicKeyInfo in DER
    key_hash: bytes  # its SHA-256
    not_before: Moment
    not_after: Moment
    nonce: bytes | None
    binding: Binding | None
    fresh: str  # why this is no recording, or that nobody can tell
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Carried:
    """What a certificate carries: evidence, and what its report data must be."""

    form: TlsForm
    opened: Opened
    report_data: bytes
    nonce: bytes | None
    binding: Binding | None
    notes: tuple[str, ...]


def is_certificate(data: bytes) -> bool:
    """Whether the bytes are a certificate of RA-TLS, good or bad; nothing is judged."""
    try:
        return bool(_known(_decoded(data)))
    except AttestationError:
        return False


def claimed_binding(data: bytes) -> Binding | None:
    """Whose enclave a certificate says that it is of. Nothing is judged: it may choose by which
    policy that is done, and what was chosen is asked for by `TlsRules`."""
    try:
        return _carried(_decoded(data), TlsRules(legacy=True)).binding
    except (AttestationError, *_UNFORESEEN):
        return None


def verify_certificate(
    data: bytes,
    policy: Policy,
    collateral: Mapping[str, bytes],
    now: Moment,
    rules: TlsRules | None = None,
    *,
    judge: Judge = verify,
) -> TlsVerdict:
    """The verdict on a certificate, one in DER or PEM.

    1. to 11. The evidence is accepted: the list of `verify`.
    12. It is one certificate, X.509 version 3, of at most `CERTIFICATE_BYTES_MAX`, with evidence in
        one form that is known and accepted, each part within its size when unpacked; and nothing
        in it is marked as what a reader must know, and not known here.
    13. It counts at `now`.
    14. Its key signed it. dstack's is issued by an authority, which nothing here hangs on.
    15. The evidence binds exactly this key, for TLS.
    16. What the rules ask: nonce, key, chain, worker, block.

    12 to 14 come first, for they cost least.

    Args:
        collateral: of the verifier's, by name; it goes before what the certificate brings.
        judge: another than `verify`, for tests that need a vendor of their own.

    Raises:
        AttestationError: and nothing else, whatever the bytes.
    """
    rules = TlsRules() if rules is None else rules
    certificate = _decoded(data)  # 12
    unread = [name for name in certificate.critical if name not in _CRITICAL]
    if unread:
        raise _malformed(f"its critical extension {unread[0]} cannot be left unread")
    try:
        carried = _carried(certificate, rules)
    except AttestationError as error:
        if error.check >= _FIRST:
            raise
        raise _malformed(error.what.partition(": ")[2]) from None
    except _UNFORESEEN as error:
        raise _malformed(f"of a form that was not foreseen: {type(error).__name__}") from error
    check_time_of(certificate, now)  # 13
    notes = (*carried.notes, *_check_signature(certificate, carried.form))  # 14
    items = {**carried.opened.collateral, **collateral}
    verdict = judge(carried.opened.evidence, policy, items, now)
    if verdict.report_data != carried.report_data:  # 15
        raise EvidenceForged(
            f"the evidence says {verdict.report_data.hex()}, a certificate of this key and form"
            f" needs {carried.report_data.hex()}: it is of another key, or for another purpose",
            check=15,
            mend=_MEND,
        )
    key_hash = hashlib.sha256(certificate.spki).digest()
    return TlsVerdict(
        form=carried.form,
        opened=carried.opened,
        verdict=verdict,
        spki=certificate.spki,
        key_hash=key_hash,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        nonce=carried.nonce,
        binding=carried.binding,
        fresh=_check_rules(carried, key_hash, rules),  # 16
        notes=notes,
    )


def check_time_of(certificate: Certificate, now: Moment) -> None:
    """13."""
    try:
        check_time(certificate, now, "the RA-TLS certificate")
    except AttestationError as error:
        raise type(error)(error.what.partition(": ")[2], check=13, mend=_MEND) from None


def _decoded(data: bytes) -> Certificate:
    """12."""
    try:
        text = data.strip()
        if text.startswith(b"-----BEGIN"):
            return decode_pem_of(text, bytes_max=CERTIFICATE_BYTES_MAX)
        return decode_certificate(data, bytes_max=CERTIFICATE_BYTES_MAX)
    except AttestationError as error:
        raise _malformed(error.what.partition(": ")[2]) from None
    except _UNFORESEEN as error:
        raise _malformed(f"of a form that was not foreseen: {type(error).__name__}") from error


def _known(certificate: Certificate) -> tuple[str, ...]:
    return tuple(each for each in _EVIDENCE if each in certificate.extensions)


def _carried(certificate: Certificate, rules: TlsRules) -> _Carried:
    """12. The evidence: one kind of it, but Gramine's two, of which the newer counts."""
    found, extensions = _known(certificate), certificate.extensions
    match found:
        case (each,) if each == OID_DICE:
            return _dice(certificate.spki, extensions[OID_DICE], ())
        case (first, second) if (first, second) == (OID_DICE, OID_GRAMINE):
            note = "Gramine's older extension stands beside and was not looked at"
            return _dice(certificate.spki, extensions[OID_DICE], (note,))
        case (each,) if each == OID_GRAMINE:
            return _gramine(certificate.spki, extensions[OID_GRAMINE], rules)
        case (each,) if each == OID_DSTACK_QUOTE:
            opened = open_quote(_wrapped(extensions[each]))
            items = _log(extensions.get(OID_DSTACK_LOG))
            return _dstack(certificate.spki, Opened(opened.form, opened.evidence, items))
        case (each,) if each == OID_DSTACK_ATTESTATION:
            packed = _wrapped(extensions[each])
            return _dstack(certificate.spki, open_dstack(_unpacked(packed)))
        case ():
            raise _malformed("it carries no evidence of a known form")
        case _:
            raise _malformed(f"it carries evidence of {len(found)} forms: {', '.join(found)}")


def _dice(spki: bytes, body: bytes, notes: tuple[str, ...]) -> _Carried:
    """`60000([quote, claims])`, both strings of bytes; the claims are a map in CBOR."""
    if body[: len(_TAG)] != _TAG:
        raise _malformed("its tagged evidence has another tag than 60000")
    pair = cbor.decode(body[len(_TAG) :])
    if not isinstance(pair, list) or len(pair) != 2:
        raise _malformed("its tagged evidence is no pair of quote and claims")
    quote, text = pair
    if not isinstance(quote, bytes) or not isinstance(text, bytes):
        raise _malformed("its quote or claims are no string of bytes")
    if len(text) > CLAIMS_BYTES_MAX:
        raise _malformed(f"claims of {len(text)} bytes, {CLAIMS_BYTES_MAX} are allowed")
    claims = cbor.decode(text)
    if not isinstance(claims, dict):
        raise _malformed("its claims are no map")
    _check_key(spki, claims.get("pubkey-hash"))
    nonce = claims.get("nonce")
    if nonce is not None and not isinstance(nonce, bytes):
        raise _malformed("the nonce of its claims is no string of bytes")
    return _Carried(
        form=TlsForm.DICE,
        opened=open_quote(quote),
        report_data=hashlib.sha256(text).digest() + bytes(_REPORT_HALF),
        nonce=nonce,
        binding=_binding(claims),
        notes=notes,
    )


def _check_key(spki: bytes, entry: cbor.Cbor) -> None:
    """15. The claims are of this key."""
    pair = cbor.decode(entry) if isinstance(entry, bytes) else None
    if not isinstance(pair, list) or len(pair) != 2:
        raise _malformed("its claims name no hash of a key")
    number, digest = pair
    known = [make for kind, make in _HASHES.items() if kind == number and type(number) is int]
    if not known:
        raise _malformed(f"its claims hash the key by algorithm {number!r}")
    if digest != known[0](spki).digest():
        raise EvidenceForged("the claims are of another key", check=15, mend=_MEND)


def _binding(claims: Mapping[int | str, cbor.Cbor]) -> Binding | None:
    """Ours, where the purpose is named; all of it, or the certificate is nobody's."""
    if "purpose" not in claims:
        return None
    genesis, worker, block = (claims.get(name) for name in ("genesis", "worker", "block"))
    height = claims.get("height")
    if claims["purpose"] != PURPOSE:
        raise EvidenceForged(
            f"the claims are for {str(claims['purpose'])[:64]!r}, not for {PURPOSE!r}",
            check=15,
            mend=_MEND,
        )
    for each in (genesis, worker, block):
        if not isinstance(each, bytes) or len(each) != 32:
            raise _malformed("its claims name no chain, worker and block of 32 bytes each")
    if type(height) is not int or not 0 <= height < 2**32:
        raise _malformed(f"its claims name the block {height!r}")
    assert isinstance(genesis, bytes), "checked above"
    assert isinstance(worker, bytes), "checked above"
    assert isinstance(block, bytes), "checked above"
    return Binding(genesis, worker, height, block)


def _gramine(spki: bytes, body: bytes, rules: TlsRules) -> _Carried:
    if not rules.legacy:
        raise PlatformRefused(
            f"the certificate is of {TlsForm.GRAMINE.value}, which is not accepted",
            check=12,
            mend="run Gramine 1.8 or later, or accept its older form by an explicit flag",
        )
    return _Carried(
        form=TlsForm.GRAMINE,
        opened=open_quote(body),
        report_data=hashlib.sha256(spki).digest() + bytes(_REPORT_HALF),
        nonce=None,
        binding=None,
        notes=(
            "accepted by an explicit rule: this form binds the key alone, and names no purpose",
        ),
    )


def _dstack(spki: bytes, opened: Opened) -> _Carried:
    return _Carried(
        form=TlsForm.DSTACK,
        opened=opened,
        report_data=hashlib.sha512(_DSTACK_WORDS + spki).digest(),
        nonce=None,
        binding=None,
        notes=(),
    )


def _wrapped(body: bytes) -> bytes:
    """dstack puts a string of its own into each extension's."""
    return der.tagged(der.read(body), der.OCTET_STRING).body


def _log(body: bytes | None) -> dict[str, bytes]:
    if body is None:
        return {}
    return {intel.EVENT_LOG: _unpacked(_wrapped(body))}


def _unpacked(data: bytes) -> bytes:
    """12. At most `LOG_BYTES_MAX`, however little they were packed in."""
    if data[: len(_PACKED)] == _PACKED:
        unpacking = zlib.decompressobj(wbits=31)  # gzip, RFC 1952
        try:
            data = unpacking.decompress(data[len(_PACKED) :], LOG_BYTES_MAX + 1)
        except zlib.error:
            raise _malformed("a part that is said to be packed, and is not") from None
        if len(data) <= LOG_BYTES_MAX and not (unpacking.eof and not unpacking.unused_data):
            raise _malformed("a packed part that does not end where it should")
    if len(data) > LOG_BYTES_MAX:
        raise _malformed(f"a part of more than {LOG_BYTES_MAX} bytes, unpacked")
    return data


def _check_signature(certificate: Certificate, form: TlsForm) -> tuple[str, ...]:
    """14. Notes, where nobody's signature was judged."""
    if form is TlsForm.DSTACK and certificate.issuer != certificate.subject:
        return ("who issued the certificate was not judged: its key is bound by the evidence",)
    try:
        key = load_der_public_key(certificate.spki)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    algorithm = _ECDSA.get(certificate.algorithm)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise _malformed("its key is not of P-256 or P-384")
    if algorithm is None:
        raise _malformed("it is not signed by ECDSA with SHA-256 or SHA-384")
    try:
        key.verify(certificate.signature, certificate.tbs, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise EvidenceForged(
            "the certificate is not signed by its own key", check=14, mend=_MEND
        ) from None
    return ()


def _check_rules(carried: _Carried, key_hash: bytes, rules: TlsRules) -> str:
    """16. Why it is fresh."""
    binding, fresh = carried.binding, []
    if rules.nonce is not None:
        _ensure(carried.nonce, rules.nonce, "nonce")
        fresh.append("the claims carry your nonce")
    if rules.key_hash is not None:
        _ensure(key_hash, rules.key_hash, "key")
        fresh.append("the key is the one that you know")
    if rules.genesis is not None:
        _ensure(None if binding is None else binding.genesis, rules.genesis, "chain")
    if rules.worker is not None:
        _ensure(None if binding is None else binding.worker, rules.worker, "worker")
        fresh.append("the claims name the worker that you know")
    if rules.height_min is not None:
        if binding is None or binding.height < rules.height_min:
            height = "no block" if binding is None else f"block {binding.height}"
            raise EvidenceForged(
                f"the key was made at {height}, {rules.height_min} or later is asked for",
                check=16,
                mend=_MEND,
            )
        fresh.append(f"the key was made after block {rules.height_min}")
    return "; ".join(fresh) or "nobody can tell when it was made: RA-TLS alone has no freshness"


def _ensure(found: bytes | None, wanted: bytes, what: str) -> None:
    if found != wanted:
        raise EvidenceForged(
            f"the certificate is of the {what} {found.hex() if found else 'of nobody'},"
            f" {wanted.hex()} is asked for",
            check=16,
            mend=_MEND,
        )


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(f"no certificate of RA-TLS: {what}", check=12, mend=_MEND)
