"""Vendors shaped like NVIDIA and Amazon: chains of P-384, a GPU's report with its manifests, and a
Nitro document.
"""

import base64
import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from phala.attest import xml
from phala.primitives.types import Moment
from phala.testing.x509 import certificate, name

NOW: Final = Moment(1_780_000_000_000)  # 2026-05-28
NONCE: Final = bytes(range(32))
FWID: Final = b"\x42" * 48

Cbor: TypeAlias = "int | bytes | str | list[Cbor] | dict[int | str, Cbor] | None"


@dataclass(frozen=True)
class Chain:
    """From a leaf to a root, and the leaf's key."""

    certificates: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey

    @property
    def root_hash(self) -> str:
        """What to judge by in place of the vendor's root."""
        spki = self.certificates[-1].public_key()
        encoded = spki.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(encoded).hexdigest()

    @property
    def pem(self) -> bytes:
        return b"".join(each.public_bytes(Encoding.PEM) for each in self.certificates)

    @property
    def der(self) -> list[bytes]:
        return [each.public_bytes(Encoding.DER) for each in self.certificates]

    def sign(self, message: bytes) -> bytes:
        """r and s, 48 bytes each, big-endian."""
        r, s = decode_dss_signature(self.key.sign(message, ec.ECDSA(hashes.SHA384())))
        return r.to_bytes(48, "big") + s.to_bytes(48, "big")


@functools.cache
def chain(length: int, *, lets_leaf_sign: bool = True) -> Chain:
    """One of that many certificates; without `lets_leaf_sign` no certificate but the root may."""
    keys = [ec.generate_private_key(ec.SECP384R1()) for _ in range(length)]
    names = [name(f"Simulated {index}") for index in range(length)]
    found = []
    for index, key in enumerate(keys):
        above = min(index + 1, length - 1)
        device = {"2.23.133.5.4.1": _firmware(FWID)} if index == 0 else None
        found.append(
            certificate(
                names[index],
                key.public_key(),
                names[above],
                keys[above],
                ca=index == length - 1 or (index > 0 and lets_leaf_sign),
                extensions=device,
            )
        )
    return Chain(tuple(found), keys[0])


def gpu_report(
    device: Chain,
    *,
    blocks: Mapping[int, bytes] | None = None,
    nonce: bytes = NONCE,
    fwid: bytes | None = FWID,
    driver: bytes = b"999.01\0",
    decoder: bytes | None = None,
) -> bytes:
    """A GPU's report, signed.

    Args:
        decoder: the state of the video decoder: 0x55 is off, 0xAA is on.
    """
    given = {index: bytes([index]) * 48 for index in range(1, 9)} if blocks is None else blocks
    record = b"".join(
        bytes([index, 1])
        + (len(value) + 3).to_bytes(2, "little")
        + b"\0"
        + len(value).to_bytes(2, "little")
        + value
        for index, value in given.items()
    )
    fields = {6: bytes.fromhex("005e009601000000"), **({3: driver} if driver else {})}
    if decoder is not None:
        fields[11] = decoder
    if fwid is not None:
        fields[20] = fwid
    opaque = b"".join(
        kind.to_bytes(2, "little") + len(value).to_bytes(2, "little") + value
        for kind, value in fields.items()
    )
    request = b"\x11\xe0\0\0" + nonce + b"\0"
    answer = b"\x11\x60\0\0" + bytes([len(given)]) + len(record).to_bytes(3, "little") + record
    signed = request + answer + bytes(32) + len(opaque).to_bytes(2, "little") + opaque
    return signed + device.sign(signed)


def manifest(
    signer: Chain, version: str, measurements: Mapping[int, bytes], *, extra: str = ""
) -> bytes:
    """A manifest in which these measurements are active, signed as NVIDIA signs."""
    resources = "".join(
        f'<n:Resource type="Measurement" index="{index}" active="True" alternatives="1"'
        f' h:Hash0="{value.hex()}" name="m" size="48"/>'
        for index, value in measurements.items()
    )
    content = (
        '<n:SoftwareIdentity xmlns:h="http://www.w3.org/2001/04/xmlenc#sha384"'
        ' xmlns:n="http://standards.iso.org/iso/19770/-2/2015/schema.xsd">'
        f'<n:Meta colloquialVersion="{version}" edition="GPU" product="S"></n:Meta>'
        f"<n:Payload>{resources}</n:Payload>{extra}</n:SoftwareIdentity>"
    )
    digest = hashlib.sha384(xml.canonical(xml.decode(content.encode()))).digest()
    info = _SIGNED_INFO.format(digest=base64.b64encode(digest).decode())
    scope = ' xmlns:d="http://www.w3.org/2000/09/xmldsig#"'
    outside = (
        ' xmlns:h="http://www.w3.org/2001/04/xmlenc#sha384"'
        ' xmlns:n="http://standards.iso.org/iso/19770/-2/2015/schema.xsd"'
    )
    apex = info.replace("<d:SignedInfo", f"<d:SignedInfo{scope}{outside}", 1)
    value = signer.sign(xml.canonical(xml.decode(apex.encode())))
    certificates = "".join(
        f"<d:X509Certificate>{base64.b64encode(each).decode()}</d:X509Certificate>"
        for each in signer.der
    )
    signature = (
        f"<d:Signature{scope}>{info}"
        f"<d:SignatureValue>{base64.b64encode(value).decode()}</d:SignatureValue>"
        f"<d:KeyInfo><d:X509Data>{certificates}</d:X509Data></d:KeyInfo></d:Signature>"
    )
    return content.replace("</n:SoftwareIdentity>", f"{signature}</n:SoftwareIdentity>").encode()


def nitro_document(
    enclave: Chain,
    *,
    made: Moment = NOW,
    pcr0: bytes = b"\5" * 48,
    changes: Mapping[int | str, Cbor] | None = None,
    protected: bytes = bytes.fromhex("a1013822"),
) -> bytes:
    """An attestation document, signed."""
    pcrs: dict[int | str, Cbor] = {index: bytes(48) for index in range(16)}
    pcrs |= {0: pcr0, 1: b"\6" * 48, 2: b"\7" * 48}
    leaf, *above = enclave.der
    fields: dict[int | str, Cbor] = {
        "module_id": "i-0-enc1",
        "digest": "SHA384",
        "timestamp": made,
        "pcrs": pcrs,
        "certificate": leaf,
        "cabundle": list(reversed(above)),
        "public_key": None,
        "user_data": b"said",
        "nonce": None,
    }
    payload = encode_cbor({**fields, **(changes or {})})
    signed = encode_cbor(["Signature1", protected, b"", payload])
    return encode_cbor([protected, {}, payload, enclave.sign(signed)])


def encode_cbor(value: Cbor) -> bytes:
    """RFC 8949, as much as documents need."""
    match value:
        case None:
            return b"\xf6"
        case int():
            return _head(0, value) if value >= 0 else _head(1, -1 - value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case list():
            return _head(4, len(value)) + b"".join(map(encode_cbor, value))
        case dict():
            pairs = (encode_cbor(key) + encode_cbor(item) for key, item in value.items())
            return _head(5, len(value)) + b"".join(pairs)


def _head(kind: int, value: int) -> bytes:
    if value < 24:
        return bytes([kind << 5 | value])
    size = next(power for power in range(4) if value < 1 << (8 << power))
    return bytes([kind << 5 | 24 + size]) + value.to_bytes(1 << size, "big")


def _firmware(digest: bytes) -> bytes:
    """TCG's composite device id, as much as is read: a version, then algorithm and digest."""
    algorithm = bytes.fromhex("0609608648016503040202")
    pair = algorithm + b"\x04\x30" + digest
    body = b"\x02\x01\x01\x30" + bytes([len(pair)]) + pair
    return b"\x30" + bytes([len(body)]) + body


_SIGNED_INFO: Final = (
    "<d:SignedInfo>"
    '<d:CanonicalizationMethod Algorithm="http://www.w3.org/2006/12/xml-c14n11"/>'
    '<d:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"/>'
    '<d:Reference URI=""><d:Transforms>'
    '<d:Transform Algorithm="http://www.w3.org/2000/09/xmldsig#enveloped-signature"/>'
    '<d:Transform Algorithm="http://www.w3.org/2006/12/xml-c14n11"/></d:Transforms>'
    '<d:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"/>'
    "<d:DigestValue>{digest}</d:DigestValue></d:Reference></d:SignedInfo>"
)
