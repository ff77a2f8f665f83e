"""Judges attestation documents of AWS Nitro Enclaves.

Source: AWS, "Verifying the root of trust", and RFC 9052. Checks, as numbered in `verify`:

4a. The document is one COSE_Sign1 message in its shortest form, signed by ES384 as its protected
    header says.
4b. Its payload has every field that AWS documents, of the sizes that AWS documents.
5.  The chain, the enclave's certificate and the bundle backwards, ends in AWS's root G1; each is
    signed by the next (P-384, SHA-384), may sign if it does, and is valid when the document was
    made.
6.  The enclave's certificate signed the message.
8.  Where PCR 0, 1 or 2 is zero, the enclave runs in debug mode: that is for the policy.
9.  The document is not older than the policy accepts, and not of the future.
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from phala.attest import cbor
from phala.attest.certs import (
    CHAIN_CERTIFICATES_MAX,
    Certificate,
    check_p384,
    decode_certificate,
    p384_point,
    verify_chain,
)
from phala.attest.ecdsa import SignatureMismatch, verify_p384
from phala.attest.errors import EvidenceExpired, EvidenceForged, EvidenceMalformed
from phala.attest.policy import Policy
from phala.attest.verdict import (
    CONFIDENCE_OPERATOR,
    CONFIDENCE_WORST,
    PlatformCode,
    TcbStatus,
    Verdict,
)
from phala.primitives.types import Hash, Moment

# SHA-256 of the SubjectPublicKeyInfo of AWS's Nitro Enclaves root G1, whose certificate has the
# published fingerprint 641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b.
ROOT_G1: Final = "f2caf5ecc6190b4a8399b78bc58a2bbcd0382375db8a1bfd78a82743874fd225"

_PROTECTED: Final = bytes.fromhex("a1013822")  # {1: -35}: ES384
# Nothing of these is signed but the header's content; an NSM writes them in this one form.
_TAG, _HEAD = b"\xd2", bytes.fromhex("8444a1013822a0")
_SIGNATURE_CONTEXT: Final = b"\x84\x6aSignature1"  # then header, no external data, payload
_FIELDS: Final = ("cabundle", "certificate", "digest", "module_id", "pcrs", "timestamp")
_OPTIONAL: Final = {"public_key": 1024, "user_data": 512, "nonce": 512}
_PCR_BYTES: Final = 48
_PCRS_MAX: Final = 32
_REPORT_DATA_BYTES: Final = 64
_ID_BYTES_MAX: Final = 64  # as the chain and the policy have it
_TIMESTAMP_MAX: Final = 2**48
_DRIFT_MS: Final = 60_000  # clocks of the two sides
_MEND: Final = "give the document as the enclave's NSM made it"


def verify_nitro(
    blob: bytes, policy: Policy, collateral: Mapping[str, bytes], now: Moment
) -> Verdict:
    """Checks 4 to 9 of `verify`, for a document; it takes no collateral."""
    return verify_document(blob, policy, collateral, now, root=ROOT_G1)


def verify_document(
    blob: bytes, policy: Policy, collateral: Mapping[str, bytes], now: Moment, *, root: str
) -> Verdict:
    """The same.

    Args:
        root: another pin than AWS's, for tests that need a vendor of their own.
    """
    if collateral:
        raise _malformed(f"{len(collateral)} collateral items come with it, it takes none")
    payload, signature = _message(blob)  # 4a
    fields = _payload(payload)  # 4b
    made = Moment(fields["timestamp"])
    leaf = _certified(fields, made, root)  # 5
    _check_signature(payload, signature, leaf)  # 6
    if not -_DRIFT_MS <= now - made <= policy.age_ms_max:  # 9
        raise EvidenceExpired(
            f"the document is of {made} ms, at {now} the policy {policy.name} accepts"
            f" {policy.age_ms_max} ms of age",
            check=9,
            mend="attest again",
        )
    return _verdict(payload, fields, made)


def _message(blob: bytes) -> tuple[bytes, bytes]:
    """4a. Payload and signature. The tag of COSE_Sign1 may stand before the message, or not."""
    items = cbor.decode(blob, tag=cbor.COSE_SIGN1)
    if not isinstance(items, list) or len(items) != 4:
        raise _malformed("the message is not of four parts")
    protected, unprotected, payload, signature = items
    if protected != _PROTECTED or unprotected != {}:
        raise _malformed("the headers are not those of ES384")
    if not isinstance(payload, bytes) or not isinstance(signature, bytes) or len(signature) != 96:
        raise _malformed("payload or signature")
    parts = map(cbor.encode_bytes, (payload, signature))
    if blob.removeprefix(_TAG) != _HEAD + b"".join(parts):
        raise _malformed("the message is written in another form than the shortest")
    return payload, signature


def _payload(payload: bytes) -> dict[str, Any]:
    """4b."""
    fields: Any = cbor.decode(payload)
    if not isinstance(fields, dict):
        raise _malformed("the payload is no map")
    names = [name for name in fields if name not in _OPTIONAL]
    if sorted(map(str, names)) != list(_FIELDS):
        raise _malformed(f"the payload has the fields {', '.join(map(str, fields))}")
    pcrs, bundle = fields["pcrs"], fields["cabundle"]
    if not isinstance(pcrs, dict) or not all(
        type(index) is int
        and 0 <= index < _PCRS_MAX
        and isinstance(value, bytes)
        and len(value) == _PCR_BYTES
        for index, value in pcrs.items()
    ):
        raise _malformed("the PCRs")
    if not all(index in pcrs for index in (0, 1, 2)):
        raise _malformed("PCR 0, 1 or 2 is missing")
    if not isinstance(bundle, list) or not 1 <= len(bundle) < CHAIN_CERTIFICATES_MAX:
        raise _malformed("the bundle of certificates")
    if not all(isinstance(each, bytes) for each in (*bundle, fields["certificate"])):
        raise _malformed("a certificate that is no bytes")
    time, module = fields["timestamp"], fields["module_id"]
    if type(time) is not int or not 0 < time < _TIMESTAMP_MAX or fields["digest"] != "SHA384":
        raise _malformed(f"the timestamp {time!r}, or the digest {fields['digest']!r}")
    if not isinstance(module, str) or not 0 < len(_machine(module)) <= _ID_BYTES_MAX:
        raise _malformed("the module's id")
    for name, size in _OPTIONAL.items():
        value = fields.get(name)
        if value is not None and (not isinstance(value, bytes) or len(value) > size):
            raise _malformed(f"{name}, of which {size} bytes are allowed")
    return fields


def _certified(fields: dict[str, Any], made: Moment, root: str) -> Certificate:
    """5. The bundle begins with the root."""
    chain = [decode_certificate(fields["certificate"])]
    chain += [decode_certificate(each) for each in reversed(fields["cabundle"])]
    return verify_chain(chain, check_p384, made, anchor=root, vendor="AWS Nitro")


def _check_signature(payload: bytes, signature: bytes, leaf: Certificate) -> None:
    """6."""
    signed = (
        _SIGNATURE_CONTEXT
        + cbor.encode_bytes(_PROTECTED)
        + cbor.encode_bytes(b"")
        + cbor.encode_bytes(payload)
    )
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    try:
        verify_p384(p384_point(leaf), signed, r, s)
    except SignatureMismatch:
        raise EvidenceForged(
            "the document is not signed by the enclave's certificate", check=6, mend=_MEND
        ) from None


def _verdict(payload: bytes, fields: dict[str, Any], made: Moment) -> Verdict:
    pcrs = {f"pcr{index}": fields["pcrs"][index] for index in sorted(fields["pcrs"])}
    debug = not all(any(pcrs[name]) for name in ("pcr0", "pcr1", "pcr2"))  # 8
    said = fields.get("user_data") or b""
    extra = {name: fields[name] for name in ("nonce", "public_key") if fields.get(name)}
    notes: tuple[str, ...] = ("AWS operates the machine and is trusted with its memory",)
    if len(said) > _REPORT_DATA_BYTES:
        notes += (f"user_data has {len(said)} bytes: report_data is its SHA-512",)
        said = hashlib.sha512(said).digest()
    code = b"".join(pcrs[name] for name in ("pcr0", "pcr1", "pcr2"))
    return Verdict(
        platform=PlatformCode.NITRO,
        hardware=True,
        anchor="AWS Nitro Enclaves Root G1",
        measurement=hashlib.sha384(code).digest(),
        measurements=MappingProxyType({**pcrs, **extra}),
        report_data=said.ljust(_REPORT_DATA_BYTES, b"\0"),
        debug=debug,
        tcb_status=TcbStatus.UP_TO_DATE,  # AWS updates all of its machines, and says no more
        advisories=(),
        confidence=CONFIDENCE_WORST if debug else CONFIDENCE_OPERATOR,
        platform_id=_machine(fields["module_id"]),
        signed_hash=Hash(hashlib.sha256(payload).digest()),
        notes=notes,
        product="nitro",
        issued=made,
    )


def _machine(module: str) -> bytes:
    """The virtual machine whose enclave it is: `i-0123456789abcdef0-enc0123456789abcdef`."""
    return module.partition("-enc")[0].encode()


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(f"no Nitro document: {what}", check=4, mend=_MEND)
