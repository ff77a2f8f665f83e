"""Certificates of vendors: read by our own reader, and signed in the two ways that vendors use."""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from phala.attest import der
from phala.attest.ecdsa import PointInvalid, SignatureMismatch, verify_p256_any, verify_p384
from phala.attest.errors import (
    AnchorRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
)
from phala.primitives.types import Moment

CERTIFICATE_BYTES_MAX: Final = 8 * 1024
CHAIN_CERTIFICATES_MAX: Final = 8  # AMD has 3, NVIDIA 5, AWS 5
EXTENSIONS_MAX: Final = 32
REVOKED_MAX: Final = 4096
CERTIFICATES_KEPT: Final = 128
CHAINS_KEPT: Final = 64  # of at most 128 KiB each
SIGNATURES_KEPT: Final = 256

# SHA-256 of roots as their vendors publish them: these were seen to sign themselves, and a test
# sees it again, so a verification need not.
ROOTS_SEEN: Final = (
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",  # ARK-Milan
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",  # ARK-Genoa
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",  # ARK-Turin
    "102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48",  # NVIDIA's devices
    "12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1",  # NVIDIA's manifests
    "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",  # AWS Nitro G1
    "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",  # Intel SGX
)

# SubjectPublicKeyInfo of an uncompressed P-384 point, all but the point: RFC 5480.
_P384_PREFIX: Final = bytes.fromhex("3076301006072a8648ce3d020106052b81040022036200")
_P256_PREFIX: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_ECDSA_SHA384: Final = bytes.fromhex("300a06082a8648ce3d040303")  # RFC 5758
# RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt of 48: RFC 4055. AMD's older certificates spell
# the default trailer field out.
_PSS_SHA384: Final = (
    bytes.fromhex(
        "304106092a864886f70d01010a3034a00f300d06096086480165030402020500"
        "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130"
    ),
    bytes.fromhex(
        "304606092a864886f70d01010a3039a00f300d06096086480165030402020500"
        "a11c301a06092a864886f70d010108300d06096086480165030402020500a203020130a303020101"
    ),
)
_PADDING: Final = padding.PSS(padding.MGF1(hashes.SHA384()), 48)
_COMMON_NAME: Final = "2.5.4.3"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_KEY_USAGE: Final = "2.5.29.15"
_SIGNS_CERTIFICATES, _SIGNS_LISTS = 1 << 2, 1 << 1  # RFC 5280, section 4.2.1.3: bits 5 and 6
# What a reader that does not know a critical extension must do is refuse: RFC 5280, section 4.2.
_PURPOSES: Final = "2.5.29.37"
_DICE: Final = "2.23.133.5.4."  # TCG DICE Attestation Architecture: extensions, and purposes
_CRITICAL_KNOWN: Final = (_BASIC_CONSTRAINTS, _KEY_USAGE)
# Lists that are no whole ones: changes since another (delta), or of some certificates alone.
_PARTIAL: Final = ("2.5.29.27", "2.5.29.28")
_PEM_LINE: Final = 64
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\r\n]*)-----END CERTIFICATE-----\s*"
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """X.509, version 3, RFC 5280. Names are compared as they are encoded."""

    der: bytes
    tbs: bytes
    algorithm: bytes
    signature: bytes
    serial: int
    issuer: bytes
    subject: bytes
    not_before: Moment
    not_after: Moment
    spki: bytes
    extensions: Mapping[str, bytes]
    critical: tuple[str, ...]  # of the extensions

    @property
    def common_name(self) -> str:
        """Of the subject, or "" where it has none, or two."""
        return _common_name(self.subject)

    @property
    def issuer_name(self) -> str:
        """The same of the issuer."""
        return _common_name(self.issuer)

    @property
    def is_ca(self) -> bool:
        """Whether it may sign others."""
        body = self.extensions.get(_BASIC_CONSTRAINTS)
        if body is None:
            return False
        fields = der.sequence(der.read(body))
        return bool(fields) and fields[0].tag == der.BOOLEAN and der.boolean(fields[0])

    @property
    def cas_below_max(self) -> int:
        """How many CAs may stand between it and a leaf."""
        body = self.extensions.get(_BASIC_CONSTRAINTS, b"\x30\0")
        numbers = [each for each in der.sequence(der.read(body)) if each.tag == der.INTEGER]
        return der.integer(numbers[0]) if numbers else CHAIN_CERTIFICATES_MAX

    @property
    def signs_certificates(self) -> bool:
        """Whether it may sign others, and its key may."""
        return self.is_ca and self._may(_SIGNS_CERTIFICATES)

    @property
    def signs_lists(self) -> bool:
        """Whether it may sign others, and its key may sign which of them are revoked."""
        return self.is_ca and self._may(_SIGNS_LISTS)

    def _may(self, usage: int) -> bool:
        body = self.extensions.get(_KEY_USAGE)
        if body is None:
            return True
        value = der.tagged(der.read(body), der.BIT_STRING).body
        return len(value) > 1 and bool(value[1] & usage)


def _common_name(encoded: bytes) -> str:
    found = []
    for names in der.parts(der.read(encoded).body):
        for pair in der.parts(der.tagged(names, der.SET).body):
            fields = der.sequence(pair)
            if len(fields) == 2 and der.oid(fields[0]) == _COMMON_NAME:
                found.append(fields[1].body.decode("ascii", "replace"))
    return found[0] if len(found) == 1 else ""


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A CRL, RFC 5280 section 5."""

    tbs: bytes
    algorithm: bytes
    signature: bytes
    issuer: bytes
    issued: Moment
    expires: Moment
    serials: tuple[int, ...]


Signed: TypeAlias = Certificate | RevocationList
Scheme: TypeAlias = Callable[[Signed, Certificate, str], None]


@lru_cache(maxsize=CERTIFICATES_KEPT)
def decode_certificate(data: bytes, *, bytes_max: int = CERTIFICATE_BYTES_MAX) -> Certificate:
    """The certificate that `data` is, to its last byte. Kept by its bytes."""
    if len(data) > bytes_max:
        raise _malformed(f"a certificate of {len(data)} bytes, {bytes_max} are allowed")
    tbs, algorithm, signature = _signed(data)
    fields = der.sequence(tbs)
    if len(fields) < 7 or fields[0].whole != bytes.fromhex("a003020102"):
        raise _malformed("a certificate of another version than 3")
    _, serial, inner, issuer, validity, subject, spki, *rest = fields
    if inner.whole != algorithm.whole:
        raise _malformed("a certificate that names two signature algorithms")
    times = der.sequence(validity)
    if len(times) != 2:
        raise _malformed("a certificate without a begin and an end")
    extensions, critical = _extensions(rest)
    return Certificate(
        der=data,
        tbs=tbs.whole,
        algorithm=algorithm.whole,
        signature=der.bits(signature),
        serial=der.integer(serial),
        issuer=der.tagged(issuer, der.SEQUENCE).whole,
        subject=der.tagged(subject, der.SEQUENCE).whole,
        not_before=der.moment(times[0]),
        not_after=der.moment(times[1]),
        spki=der.tagged(spki, der.SEQUENCE).whole,
        extensions=extensions,
        critical=critical,
    )


def decode_first(data: bytes) -> Certificate:
    """The first certificate of a PEM text; the rest is another's to judge."""
    match = _PEM.match(data.lstrip()[: 2 * CERTIFICATE_BYTES_MAX])
    if match is None:
        raise _malformed("a chain that does not begin with a certificate in PEM")
    return decode_certificate(_base64(match[1]))


def decode_pem_of(data: bytes, *, bytes_max: int) -> Certificate:
    """The one certificate of a PEM text, of at most `bytes_max` in DER."""
    match = _PEM.fullmatch(data) if len(data) <= 2 * bytes_max else None
    if match is None:
        raise _malformed("a text of other things than one certificate in PEM")
    return decode_certificate(_base64(match[1]), bytes_max=bytes_max)


@lru_cache(maxsize=CHAINS_KEPT)
def decode_pem(data: bytes) -> tuple[Certificate, ...]:
    """The certificates of a PEM text, in its order; nothing else may stand in it.

    Kept by the text: vendors' chains come again with each evidence.
    """
    if len(data) > 2 * CHAIN_CERTIFICATES_MAX * CERTIFICATE_BYTES_MAX:
        raise _malformed(f"a chain of {len(data)} bytes")
    found: list[Certificate] = []
    at = len(data) - len(data.lstrip())
    while at < len(data.rstrip(b" \t\r\n\0")):
        match = _PEM.match(data, at)
        if match is None or len(found) == CHAIN_CERTIFICATES_MAX:
            raise _malformed(
                f"a chain with other things than 1 to {CHAIN_CERTIFICATES_MAX} certificates in PEM"
            )
        found.append(decode_certificate(_base64(match[1])))
        at = match.end()
    if not found:
        raise _malformed("a chain of no certificates")
    return tuple(found)


def encode_pem(chain: Sequence[Certificate]) -> bytes:
    """The one text of a chain that every reader reads alike: RFC 7468, section 3, 64 a line."""
    out = b""
    for each in chain:
        body = base64.b64encode(each.der)
        lines = [body[at : at + _PEM_LINE] for at in range(0, len(body), _PEM_LINE)]
        out += b"\n".join(
            (b"-----BEGIN CERTIFICATE-----", *lines, b"-----END CERTIFICATE-----", b"")
        )
    return out


def decode_revocation_list(data: bytes) -> RevocationList:
    """The CRL that `data` is, to its last byte."""
    tbs, algorithm, signature = _signed(data)
    fields = der.sequence(tbs)
    if len(fields) < 5 or (fields[0].tag, fields[0].body) != (der.INTEGER, b"\1"):
        raise _malformed("a revocation list of another version than 2")
    _, inner, issuer, issued, expires, *rest = fields
    if inner.whole != algorithm.whole:
        raise _malformed("a revocation list that names two signature algorithms")
    serials = []
    if rest and rest[0].tag == der.SEQUENCE:
        for entry in der.parts(rest.pop(0).body):
            serials.append(_revoked(entry))
            if len(serials) > REVOKED_MAX:
                raise _malformed(f"a revocation list of more than {REVOKED_MAX} entries")
    if [each.tag for each in rest] not in ([], [0xA0]):
        raise _malformed("a revocation list with other parts than entries and extensions")
    named, critical = _named(der.sequence(der.read(rest[0].body)) if rest else ())
    partial = [name for name in _PARTIAL if name in named]
    if critical or partial:
        raise _malformed(
            f"a revocation list with the extension {(*partial, *critical)[0]}: it is not whole, or"
            " says what cannot be left unread"
        )
    return RevocationList(
        tbs=tbs.whole,
        algorithm=algorithm.whole,
        signature=der.bits(signature),
        issuer=der.tagged(issuer, der.SEQUENCE).whole,
        issued=der.moment(issued),
        expires=der.moment(expires),
        serials=tuple(serials),
    )


def spki_hash(certificate: Certificate) -> str:
    """SHA-256 of the whole public key, as roots are pinned."""
    return hashlib.sha256(certificate.spki).hexdigest()


def p384_point(certificate: Certificate) -> bytes:
    """The certificate's key, 97 bytes uncompressed."""
    size = len(_P384_PREFIX)
    if certificate.spki[:size] != _P384_PREFIX or len(certificate.spki) != size + 97:
        raise _malformed("a certificate whose key is not of P-384")
    return certificate.spki[size:]


def p256_key(certificate: Certificate) -> bytes:
    """The certificate's key, 64 bytes x and y."""
    size = len(_P256_PREFIX)
    if certificate.spki[:size] != _P256_PREFIX or len(certificate.spki) != size + 64:
        raise _malformed("a certificate whose key is not of P-256")
    return certificate.spki[size:]


def check_pss(signed: Signed, issuer: Certificate, what: str) -> None:
    """5. RSA-4096, PSS with SHA-384 and a salt of 48 bytes: AMD's."""
    if signed.algorithm not in _PSS_SHA384:
        raise _forged(f"{what} is not signed by RSASSA-PSS with SHA-384")
    try:
        key = load_der_public_key(issuer.spki)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 4096:
        raise _forged(f"the issuer of {what} has no RSA-4096 key")
    try:
        key.verify(signed.signature, signed.tbs, _PADDING, hashes.SHA384())
    except InvalidSignature:
        raise _forged(f"{what} is not signed by its issuer") from None


def check_p256(signed: Signed, issuer: Certificate, what: str) -> None:
    """5. ECDSA over P-256 with SHA-256: Intel's, in either form of s."""
    if signed.algorithm != _ECDSA_SHA256:
        raise _forged(f"{what} is not signed by ECDSA with SHA-256")
    try:
        verify_p256_any(p256_key(issuer), signed.tbs, *_numbers(signed, what))
    except (SignatureMismatch, PointInvalid):
        raise _forged(f"{what} is not signed by its issuer") from None


def check_p384(signed: Signed, issuer: Certificate, what: str) -> None:
    """5. ECDSA over P-384 with SHA-384: NVIDIA's and Amazon's."""
    if signed.algorithm != _ECDSA_SHA384:
        raise _forged(f"{what} is not signed by ECDSA with SHA-384")
    try:
        verify_p384(p384_point(issuer), signed.tbs, *_numbers(signed, what))
    except SignatureMismatch:
        raise _forged(f"{what} is not signed by its issuer") from None


def _numbers(signed: Signed, what: str) -> tuple[int, int]:
    """r and s of an ECDSA signature in DER."""
    fields = der.sequence(der.read(signed.signature))
    if len(fields) != 2:
        raise _malformed(f"the signature of {what}")
    return der.integer(fields[0]), der.integer(fields[1])


def verify_chain(
    chain: Sequence[Certificate], scheme: Scheme, now: Moment, *, anchor: str, vendor: str
) -> Certificate:
    """The first of a chain, whose last is the pinned root.

    5. Each is signed by the next, whose name it gives as its issuer's, and which may sign, and that
       deep; all are valid at `now`, and none says what must not be left unread; the last is
       `anchor`: SHA-256 of the root's public key, in hex. The root signs itself: else what stands
       beside its key would be anyone's.
    """
    if not 2 <= len(chain) <= CHAIN_CERTIFICATES_MAX:
        raise _malformed(f"a chain of {len(chain)} certificates")
    unread = [name for each in chain for name in each.critical if not _is_read(each, name)]
    if unread:
        raise _malformed(f"a certificate whose extension {unread[0]} cannot be left unread")
    if spki_hash(chain[-1]) != anchor:
        raise AnchorRefused(
            f"the chain ends in the key {spki_hash(chain[-1])}, {vendor}'s root is {anchor}",
            check=5,
            mend=f"fetch the chain from {vendor} again",
        )
    for index, each in enumerate(chain):
        issuer = chain[min(index + 1, len(chain) - 1)]
        what = f"certificate {index} of {vendor}'s chain"
        if each.issuer != issuer.subject:
            raise _forged(f"{what} was issued by another than the next certificate")
        if not issuer.signs_certificates:
            raise _forged(f"the issuer of {what} may not sign certificates")
        if issuer is not each and issuer.cas_below_max < index:
            raise _forged(f"the issuer of {what} may not have {index} CAs below it")
        check_time(each, now, what)
        if issuer is each and hashlib.sha256(each.der).hexdigest() in ROOTS_SEEN:
            continue
        if each.is_ca:
            _check_once(scheme, each.der, issuer.der, what)
        else:
            scheme(each, issuer, what)
    return chain[0]


def _is_read(certificate: Certificate, name: str) -> bool:
    """Whether who goes on knows what a critical extension asks. DICE's describe the device that the
    key is of, and loosen nothing; keys for its purposes alone are what is wanted here."""
    if name == _PURPOSES:
        purposes = der.sequence(der.read(certificate.extensions[name]))
        return bool(purposes) and all(der.oid(each).startswith(_DICE) for each in purposes)
    return name in _CRITICAL_KNOWN or name.startswith(_DICE)


@lru_cache(maxsize=SIGNATURES_KEPT)
def _check_once(scheme: Scheme, signed: bytes, issuer: bytes, what: str) -> None:
    """5. That the one certificate is signed by the other, kept by their bytes: vendors have a few
    CAs, which certify each evidence. A refusal is not kept."""
    scheme(decode_certificate(signed), decode_certificate(issuer), what)


def check_time(certificate: Certificate, now: Moment, what: str) -> None:
    """5. `now` is in the certificate's time."""
    if not certificate.not_before <= now <= certificate.not_after:
        raise EvidenceExpired(
            f"{what} is valid from {certificate.not_before} to {certificate.not_after} ms,"
            f" not at {now}",
            check=5,
            mend="fetch a certificate that is valid, and attest again",
        )


def _base64(body: bytes) -> bytes:
    try:
        return base64.b64decode(re.sub(rb"\s", b"", body), validate=True)
    except binascii.Error:
        raise _malformed("a certificate whose PEM is not base64") from None


def _signed(data: bytes) -> tuple[der.Value, der.Value, der.Value]:
    fields = der.sequence(der.read(data))
    if len(fields) != 3:
        raise _malformed(f"{len(fields)} parts where signed ones have 3")
    return fields[0], fields[1], fields[2]


def _extensions(rest: Sequence[der.Value]) -> tuple[Mapping[str, bytes], tuple[str, ...]]:
    """All of them, and the names of the critical ones."""
    if [each.tag for each in rest] not in ([], [0xA3]):
        raise _malformed("a certificate with other parts than extensions behind its key")
    return _named(der.sequence(der.read(rest[0].body)) if rest else ())


def _named(entries: Sequence[der.Value]) -> tuple[Mapping[str, bytes], tuple[str, ...]]:
    found: dict[str, bytes] = {}
    critical: list[str] = []
    for entry in entries:
        fields = der.sequence(entry)
        if len(fields) not in (2, 3):
            raise _malformed("an extension")
        name, value = der.oid(fields[0]), der.tagged(fields[-1], der.OCTET_STRING).body
        if name in found or len(found) == EXTENSIONS_MAX:
            raise _malformed(f"two extensions {name}, or too many")
        if len(fields) == 3 and der.boolean(fields[1]):
            critical.append(name)
        found[name] = value
    return MappingProxyType(found), tuple(critical)


def _revoked(entry: der.Value) -> int:
    """The serial number of an entry of a list: number, date, and perhaps why."""
    fields = der.sequence(entry)
    if len(fields) not in (2, 3):
        raise _malformed("an entry of a revocation list")
    _, critical = _named(der.sequence(fields[2]) if len(fields) == 3 else ())
    if critical:  # it is of another issuer's certificate, perhaps
        raise _malformed(f"an entry whose extension {critical[0]} cannot be left unread")
    return der.integer(fields[0])


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(
        f"not a vendor's: {what}", check=4, mend="give the bytes as the vendor published them"
    )


def _forged(what: str) -> EvidenceForged:
    return EvidenceForged(what, check=5, mend="fetch the chain from the vendor again")
