"""Verifies NVIDIA's reference integrity manifests: what a driver or VBIOS should measure as.

Source: W3C XML Signature 1.1; TCG Reference Integrity Manifest. Checks, as numbered in `verify`:

4. The document is a manifest with one signature, directly in its root, made by the one list of
   algorithms: over the whole document without the signature, ECDSA and SHA-384.
5. The signer's chain ends in NVIDIA's manifest root, each signed by the next, all valid when the
   signer's certificate began: manifests bear no date, outlive their signers, and are as good as on
   their first day. Whether an expired signer's still counts is for the policy.
6. The signer signed the canonical form, and that is what is read.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from phala.attest import xml
from phala.attest.certs import (
    Certificate,
    check_p384,
    decode_certificate,
    p384_point,
    verify_chain,
)
from phala.attest.ecdsa import SignatureMismatch, verify_p384
from phala.attest.errors import EvidenceForged
from phala.primitives.types import Hash, Moment

# SHA-256 of the SubjectPublicKeyInfo of the "NVIDIA CoRIM signing Root CA".
RIM_ROOT: Final = "dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3"
MEASUREMENTS_MAX: Final = 256
ALTERNATIVES_MAX: Final = 32

_DS: Final = "http://www.w3.org/2000/09/xmldsig#"
_SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
_SHA384: Final = "http://www.w3.org/2001/04/xmlenc#sha384"
_C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
# What the signature says of itself, in the order of the document: all of it, and nothing else.
_SIGNED_INFO: Final[tuple[tuple[str, dict[str, str]], ...]] = (
    ("SignedInfo", {}),
    ("CanonicalizationMethod", {"Algorithm": _C14N}),
    ("SignatureMethod", {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"}),
    ("Reference", {"URI": ""}),
    ("Transforms", {}),
    ("Transform", {"Algorithm": _DS + "enveloped-signature"}),
    ("Transform", {"Algorithm": _C14N}),
    ("DigestMethod", {"Algorithm": "http://www.w3.org/2001/04/xmldsig-more#sha384"}),
    ("DigestValue", {}),
)
_DIGITS: Final = re.compile("[0-9]{1,3}")
_HASH: Final = re.compile("[0-9a-fA-F]{96}")
_MEND: Final = "fetch the manifest from NVIDIA again"


@dataclass(frozen=True, slots=True)
class Rim:
    """A manifest that NVIDIA signed. Index i is of the report's block i + 1."""

    edition: str  # "GPU", "SWITCH"
    version: str
    product: str
    measurements: Mapping[int, tuple[bytes, ...]]  # the active ones: each of these is good
    signer_begins: Moment
    signer_ends: Moment
    digest: Hash  # SHA-256 of the document: name it by this


def verify_rim(document: bytes, *, root: str = RIM_ROOT) -> Rim:
    """The manifest that the document is. About 5 ms: keep the result by the document's hash.

    Args:
        root: another pin than NVIDIA's, for tests that need a vendor of their own.
    """
    whole = xml.decode(document)  # 4
    signature = _signature(whole)
    signed_info, digest = _signed_info(signature)
    signer = _signer(signature, root)  # 5
    _check_signature(signature, signed_info, signer)  # 6
    content = xml.canonical(whole, without=signature)
    if hashlib.sha384(content).digest() != digest:
        raise _forged("the manifest is not the signed one: its digest differs", check=6)
    return _rim(xml.elements(content), signer, Hash(hashlib.sha256(document).digest()))


def _signature(whole: xml.Element) -> xml.Element:
    """4. The one signature."""
    name = f"{{{_DS}}}Signature"
    every = [each for each in whole.elements() if each.name == name]
    if len(every) != 1 or not any(each is every[0] for each in whole.children):
        raise xml.malformed(f"{len(every)} signatures, or not directly in the root")
    parts = [each.name for each in every[0].children if isinstance(each, xml.Element)]
    if parts != [f"{{{_DS}}}{each}" for each in ("SignedInfo", "SignatureValue", "KeyInfo")]:
        raise xml.malformed(f"a signature of the parts {parts}")
    return every[0]


def _signed_info(signature: xml.Element) -> tuple[bytes, bytes]:
    """4. Its canonical bytes, and the digest in them."""
    content = xml.canonical(_child(signature, "SignedInfo"))
    found = list(xml.decode(content).elements())
    said = [(each.name, each.attributes) for each in found]
    wanted = [(f"{{{_DS}}}{name}", attributes) for name, attributes in _SIGNED_INFO]
    if said != wanted:
        raise xml.malformed(f"a signature by other algorithms, or over other parts: {said}")
    return content, _base64(found[-1])


def _signer(signature: xml.Element, root: str) -> Certificate:
    """5. The chain in the signature, whose last is the root."""
    name = f"{{{_DS}}}X509Certificate"
    chain = [
        decode_certificate(_base64(each))
        for each in _child(signature, "KeyInfo").elements()
        if each.name == name
    ]
    if not chain:
        raise xml.malformed("a signature without a certificate")
    return verify_chain(
        chain, check_p384, chain[0].not_before, anchor=root, vendor="NVIDIA's manifests"
    )


def _check_signature(signature: xml.Element, content: bytes, signer: Certificate) -> None:
    """6."""
    value = _base64(_child(signature, "SignatureValue"))
    r, s = int.from_bytes(value[:48], "big"), int.from_bytes(value[48:], "big")
    if len(value) != 96:
        raise xml.malformed(f"a signature of {len(value)} bytes")
    try:
        verify_p384(p384_point(signer), content, r, s)
    except SignatureMismatch:
        raise _forged("the manifest is not signed by its certificate", check=6) from None


def _rim(elements: list[tuple[str, dict[str, str]]], signer: Certificate, digest: Hash) -> Rim:
    """What the signed bytes say."""
    metas = [said for name, said in elements if name == f"{_SWID}}}Meta"]
    if elements[0][0] != f"{_SWID}}}SoftwareIdentity" or len(metas) != 1:
        raise xml.malformed("no software identity with its metadata")
    active: dict[int, tuple[bytes, ...]] = {}
    seen: dict[int, bool] = {}
    for name, said in elements:
        if name != f"{_SWID}}}Resource" or said.get("type") != "Measurement":
            continue
        index, count = _number(said.get("index", "")), _number(said.get("alternatives", ""))
        if index in seen or index >= MEASUREMENTS_MAX or not 0 < count <= ALTERNATIVES_MAX:
            raise xml.malformed(f"the measurement {index} twice, or out of bounds")
        if said.get("active") not in ("True", "False"):
            raise xml.malformed(f"the measurement {index} is neither active nor not")
        seen[index] = said["active"] == "True"
        if seen[index]:
            active[index] = tuple(_hash(said, number) for number in range(count))
    return Rim(
        edition=metas[0].get("edition", ""),
        version=metas[0].get("colloquialVersion", ""),
        product=metas[0].get("product", ""),
        measurements=MappingProxyType(active),
        signer_begins=signer.not_before,
        signer_ends=signer.not_after,
        digest=digest,
    )


def _hash(said: Mapping[str, str], number: int) -> bytes:
    text = said.get(f"{_SHA384}}}Hash{number}", "")
    if not _HASH.fullmatch(text):
        raise xml.malformed(f"the hash {text!r}")
    return bytes.fromhex(text)


def _number(text: str) -> int:
    if not _DIGITS.fullmatch(text):
        raise xml.malformed(f"the number {text!r}")
    return int(text)


def _child(element: xml.Element, name: str) -> xml.Element:
    found = [
        each
        for each in element.children
        if isinstance(each, xml.Element) and each.name == f"{{{_DS}}}{name}"
    ]
    if len(found) != 1:
        raise xml.malformed(f"{len(found)} of {name}")
    return found[0]


def _base64(element: xml.Element) -> bytes:
    try:
        return base64.b64decode(re.sub(r"\s", "", element.text), validate=True)
    except (binascii.Error, ValueError):
        raise xml.malformed(f"{element.written} is not base64") from None


def _forged(what: str, *, check: int) -> EvidenceForged:
    return EvidenceForged(what, check=check, mend=_MEND)
