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
    cas_below_max: int | None = None,
    may_sign: bool | None = None,
    extensions: Mapping[str, bytes] | None = None,
    critical: Mapping[str, bytes] | None = None,
    begin: dt.datetime | None = None,
    end: dt.datetime | None = None,
    serial: int | None = None,
    algorithm: hashes.SHA256 | hashes.SHA384 | None = None,
    pss: padding.PSS | None = None,
) -> x509.Certificate:
    """A certificate of `key`, signed by `signer`.

    Args:
        may_sign: what its key usage says, where that is not what `ca` does.
        critical: more extensions, which a reader must know.
    """
    usage = ca if may_sign is None else may_sign
    public = signer.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(begin or BEGIN)
        .not_valid_after(end or END)
        .add_extension(x509.BasicConstraints(ca, cas_below_max), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(public), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not usage,
                content_commitment=not usage,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=usage,
                crl_sign=usage,
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
    for marked, given in ((False, extensions or {}), (True, critical or {})):
        for oid, body in given.items():
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), body)
            builder = builder.add_extension(extension, critical=marked)
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
    more: x509.ExtensionType | None = None,
    critical: bool = True,
    entry: x509.ExtensionType | None = None,
) -> bytes:
    """A list in DER, of `days` from `begin` on.

    Args:
        more: another extension of the list, `critical` or not.
        entry: one of each of its entries, which a reader must know.
    """
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
    if more is not None:
        builder = builder.add_extension(more, critical=critical)
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(BEGIN)
        if entry is not None:
            revoked = revoked.add_extension(entry, critical=True)
        builder = builder.add_revoked_certificate(revoked.build())
    signed = builder.sign(signer, algorithm or hashes.SHA384(), rsa_padding=pss)
    return signed.public_bytes(Encoding.DER)
