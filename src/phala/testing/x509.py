"""Certificates of vendors that do not exist."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

BEGIN: Final = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
END: Final = dt.datetime(2046, 1, 1, tzinfo=dt.UTC)

_Public = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
_Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def name(common: str) -> x509.Name:
    """A name that says that it is simulated."""
    return x509.Name(
        [
            x509.NameAttribute(x509.NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "Simulated"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, common),
        ]
    )


def certificate(
    subject: x509.Name,
    key: _Public,
    issuer: x509.Name,
    signer: _Private,
    *,
    ca: bool = False,
    extensions: Mapping[str, bytes] | None = None,
    begin: dt.datetime | None = None,
    end: dt.datetime | None = None,
    serial: int | None = None,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
    pss: padding.PSS | None = None,
) -> x509.Certificate:
    """A certificate of `key`, signed by `signer`."""
    public = signer.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(begin or BEGIN)
        .not_valid_after(end or END)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not ca,
                content_commitment=not ca,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=ca,
                crl_sign=ca,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(
            x509.CRLDistributionPoints(
                [
                    x509.DistributionPoint(
                        [x509.UniformResourceIdentifier("https://example.invalid/crl")],
                        None,
                        None,
                        None,
                    )
                ]
            ),
            critical=False,
        )
    )
    for oid, body in (extensions or {}).items():
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), body)
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, algorithm or hashes.SHA384(), rsa_padding=pss)


def revocation_list(
    issuer: x509.Name,
    signer: _Private,
    serials: Sequence[int] = (),
    *,
    days: int = 365 * 20,
    begin: dt.datetime = BEGIN,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
    pss: padding.PSS | None = None,
) -> bytes:
    """A list in DER, of `days` from `begin` on."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(begin)
        .next_update(begin + dt.timedelta(days=days))
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
    )
    for serial in serials:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(BEGIN).build()
        )
    signed = builder.sign(signer, algorithm or hashes.SHA384(), rsa_padding=pss)
    return signed.public_bytes(Encoding.DER)
