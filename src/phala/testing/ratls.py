"""RA-TLS certificates of every form, good and crooked, of whatever platform a test hands in."""

import datetime as dt
import gzip
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from phala.attest import ratls
from phala.tee.ratls import Binding, encode_claims, encode_evidence
from phala.testing.x509 import BEGIN, END, name

BOUND: Final = Binding(b"g" * 32, b"w" * 32, 7, b"b" * 32)
HALF: Final = bytes(32)

Quote = Callable[[bytes], bytes]  # 64 bytes of report data to a quote
Key = ec.EllipticCurvePrivateKey


def new_key(curve: ec.EllipticCurve | None = None) -> Key:
    return ec.generate_private_key(curve or ec.SECP256R1())


def spki_of(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate_of(
    key: Key,
    extensions: Mapping[str, bytes],
    *,
    signer: Key | None = None,
    issuer: str = "RA-TLS",
    begin: dt.datetime = BEGIN,
    end: dt.datetime = END,
    critical: Sequence[str] = (),
) -> bytes:
    """A certificate in DER with exactly these extensions, by the key itself or another.

    Args:
        critical: which of the extensions a reader must know.
    """
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("RA-TLS"))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    for oid, body in extensions.items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), body)
        builder = builder.add_extension(extension, critical=oid in critical)
    return builder.sign(signer or key, hashes.SHA256()).public_bytes(Encoding.DER)


def dice_claims(key: Key, *, binding: Binding | None = BOUND, nonce: bytes | None = None) -> bytes:
    return encode_claims(spki_of(key), binding, nonce)


def dice_evidence(quote: Quote, claims: bytes) -> bytes:
    return encode_evidence(quote(hashlib.sha256(claims).digest() + HALF), claims)


def dice(quote: Quote, key: Key, *, binding: Binding | None = BOUND, nonce: bytes = b"n") -> bytes:
    claims = dice_claims(key, binding=binding, nonce=nonce)
    return certificate_of(key, {ratls.OID_DICE: dice_evidence(quote, claims)})


def gramine_quote(quote: Quote, key: Key) -> bytes:
    return quote(hashlib.sha256(spki_of(key)).digest() + HALF)


def dstack_report(key: Key) -> bytes:
    return hashlib.sha512(b"ratls-cert:" + spki_of(key)).digest()


def wrapped(data: bytes) -> bytes:
    """In the string of DER that dstack puts around each of its parts."""
    if len(data) < 0x80:
        return bytes([4, len(data)]) + data
    size = (len(data).bit_length() + 7) // 8
    return bytes([4, 0x80 | size]) + len(data).to_bytes(size, "big") + data


def packed(data: bytes) -> bytes:
    return b"ELGZv1" + gzip.compress(data)


def dstack_attestation(quote: bytes) -> bytes:
    """Version 0, TDX, the quote, no events, as SCALE."""
    return (
        b"\0\0"
        + (len(quote) << 2 | 1 if len(quote) < 1 << 14 else 0).to_bytes(2, "little")
        + (quote + b"\0")
    )


def dstack(quote: Quote, key: Key, log: list[dict[str, object]] | None = None) -> bytes:
    extensions = {ratls.OID_DSTACK_QUOTE: wrapped(quote(dstack_report(key)))}
    if log is not None:
        extensions[ratls.OID_DSTACK_LOG] = wrapped(packed(json.dumps(log).encode()))
    return certificate_of(key, extensions, signer=new_key(), issuer="dstack App CA")
