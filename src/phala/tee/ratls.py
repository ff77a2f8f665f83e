"""Makes a TLS key in this process, and a certificate that carries the platform's evidence of it.

The layout is TCG DICE's tagged evidence, as Gramine since 1.8 has it: `attest.ratls` judges it, and
says what is bound. The report data is of this layout alone, so no other evidence of this enclave
serves in a certificate, and this serves for nothing else.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from phala.tee.platform import Platform, ReportData

OID: Final = x509.ObjectIdentifier("2.23.133.5.4.9")
PURPOSE: Final = "ra-tls"
NAME: Final = "Phala RA-TLS"

_TAG: Final = bytes.fromhex("d9ea60")  # CBOR's 60000: a TEE's quote with claims
_SHA256: Final = 1  # IANA, Named Information Hash Algorithm Registry
_HALF: Final = 32  # bytes of report data


@dataclass(frozen=True, slots=True)
class TlsKey:
    """A key and its certificate, in PEM. Never print one."""

    key: bytes
    certificate: bytes

    def __repr__(self) -> str:
        return "TlsKey(…)"


@dataclass(frozen=True, slots=True)
class Binding:
    """Whose key it is, and since when: hashes and keys of 32 bytes."""

    genesis: bytes
    worker: bytes
    height: int
    block_hash: bytes


def make_tls_key(
    platform: Platform,
    binding: Binding | None,
    begin: datetime,
    end: datetime,
    *,
    nonce: bytes | None = None,
) -> TlsKey:
    """A new P-256 key, with evidence that it was made here. The platform is asked once."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    claims = encode_claims(spki, binding, nonce)
    quote = platform.quote(ReportData(hashlib.sha256(claims).digest() + bytes(_HALF)))
    certificate = sign(key, encode_evidence(quote, claims), begin, end)
    return TlsKey(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        certificate.public_bytes(Encoding.PEM),
    )


def sign(
    key: ec.EllipticCurvePrivateKey, evidence: bytes, begin: datetime, end: datetime
) -> x509.Certificate:
    """The key's own certificate with that extension."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, NAME)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.UnrecognizedExtension(OID, evidence), critical=False)
    )
    return builder.sign(key, hashes.SHA256())


def encode_claims(spki: bytes, binding: Binding | None, nonce: bytes | None) -> bytes:
    """A map in CBOR, keys in the order of RFC 8949 section 4.2.1: the shorter first."""
    entry = b"\x82" + _head(0, _SHA256) + _bytes(hashlib.sha256(spki).digest())
    claims = [("pubkey-hash", _bytes(entry))]
    if nonce is not None:
        claims.append(("nonce", _bytes(nonce)))
    if binding is not None:
        claims += [
            ("block", _bytes(binding.block_hash)),
            ("height", _head(0, binding.height)),
            ("worker", _bytes(binding.worker)),
            ("genesis", _bytes(binding.genesis)),
            ("purpose", _text(PURPOSE)),
        ]
    pairs = sorted((_text(name), value) for name, value in claims)
    return _head(5, len(pairs)) + b"".join(name + value for name, value in pairs)


def encode_evidence(quote: bytes, claims: bytes) -> bytes:
    """`60000([quote, claims])`."""
    return _TAG + b"\x82" + _bytes(quote) + _bytes(claims)


def _head(kind: int, value: int) -> bytes:
    """RFC 8949 section 3: the kind in three bits, then the value in its shortest form."""
    if value < 24:
        return bytes([kind << 5 | value])
    power = next(power for power in range(4) if value < 1 << (8 << power))
    return bytes([kind << 5 | 24 + power]) + value.to_bytes(1 << power, "big")


def _bytes(data: bytes) -> bytes:
    return _head(2, len(data)) + data


def _text(text: str) -> bytes:
    return _head(3, len(text.encode())) + text.encode()
