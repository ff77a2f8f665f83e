"""Judges Azure's confidential machines: a virtual TPM, whose key a processor's report vouches for.

The guest never speaks to the processor: Azure's paravisor got one report at boot, and its user data
is the hash of a text with the TPM's key. So identity and freshness are the TPM quote's. Checks, as
numbered in `verify`:

4a. The blob is an HCL report of the platform's kind, to the end of its text.
4b. The quote is one of PCRs in SHA-256, to its last byte.
5.  The hardware report, judged as its platform's own, vouches for the text: its user data begins
    with the text's hash, and the rest is zero. The text has one attestation key.
6.  That key signed the quote (RSA, PKCS #1, SHA-256), and the quote's digest is of these PCRs.
7 to 11. As of the hardware report's platform.
"""

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from phala.attest.errors import EvidenceForged, EvidenceMalformed
from phala.attest.intel import verify_tdx
from phala.attest.policy import Policy
from phala.attest.snp import REPORT_BYTES, verify_snp
from phala.attest.verdict import PlatformCode, Verdict
from phala.primitives.types import Hash, Moment

QUOTE, SIGNATURE, PCRS, TD_QUOTE = "tpm_quote", "tpm_signature", "tpm_pcrs", "td_quote"
TPM: Final = (PCRS, QUOTE, SIGNATURE)
TEXT_BYTES_MAX: Final = 8 * 1024

_MAGIC: Final = b"HCLA"
_REPORT_AT, _HEADER_AT, _TEXT_AT = 0x20, 0x4C0, 0x4D4
_KIND_SNP, _KIND_TDX = 2, 4
_HASH_SHA256: Final = 1
_QUOTE_HEAD: Final = bytes.fromhex("ff5443478018")  # TPM_GENERATED_VALUE, TPM_ST_ATTEST_QUOTE
_CLOCK_AND_FIRMWARE_BYTES: Final = 17 + 8
_SHA256: Final = 0x000B
_PCR_BYTES, _PCRS_MAX = 32, 24
_NONCE_BYTES_MAX: Final = 64
_CODE_PCRS: Final = 10  # 0 to 9: firmware, boot loader, kernel, its command line, initial files
_MEND: Final = "give HCL report, quote, signature and PCRs as the machine's TPM gave them"


Judge: TypeAlias = Callable[[bytes, Policy, Mapping[str, bytes], Moment], Verdict]


@dataclass(frozen=True, slots=True)
class TpmQuote:
    nonce: bytes
    chosen: tuple[int, ...]  # PCRs, ascending
    digest: bytes


def verify_azure_snp(
    blob: bytes, policy: Policy, collateral: Mapping[str, bytes], now: Moment
) -> Verdict:
    """Checks 4 to 9 of `verify`, for an HCL report; TPM quote and certificates are collateral."""
    return verify_vtpm(PlatformCode.AZURE_SNP, blob, policy, collateral, now, judge=verify_snp)


def verify_azure_tdx(
    blob: bytes, policy: Policy, collateral: Mapping[str, bytes], now: Moment
) -> Verdict:
    """The same on TDX: the quote that Azure made of the report is collateral."""
    return verify_vtpm(PlatformCode.AZURE_TDX, blob, policy, collateral, now, judge=verify_tdx)


def verify_vtpm(
    platform: PlatformCode,
    blob: bytes,
    policy: Policy,
    collateral: Mapping[str, bytes],
    now: Moment,
    *,
    judge: Judge,
) -> Verdict:
    """The same for either.

    Args:
        judge: of the hardware's report or quote: another one for tests that need a vendor of
            their own.
    """
    is_tdx = platform is PlatformCode.AZURE_TDX
    report, text = _hcl(blob, _KIND_TDX if is_tdx else _KIND_SNP)  # 4a
    own = (*TPM, TD_QUOTE) if is_tdx else TPM
    rest = {name: item for name, item in collateral.items() if name not in own}
    given = _item(collateral, TD_QUOTE) if is_tdx else report
    return _verify(platform, judge(given, policy, rest, now), text, collateral)


def _hcl(blob: bytes, kind: int) -> tuple[bytes, bytes]:
    """4a. The hardware report, and the text that it vouches for."""
    if blob[:4] != _MAGIC or len(blob) < _TEXT_AT:
        raise _malformed("it is no HCL report")
    whole, status = _u32(blob, 8), blob[0x10:0x20]
    inner, _, found, hashed, size = (_u32(blob, at) for at in range(_HEADER_AT, _TEXT_AT, 4))
    if found != kind or hashed != _HASH_SHA256 or size > TEXT_BYTES_MAX:
        raise _malformed(f"a report of the kind {found}, hash {hashed}, {size} bytes of text")
    if any(status) or whole != _TEXT_AT + size or inner != _TEXT_AT - _HEADER_AT + size:
        raise _malformed(f"a header of {whole} and {inner} bytes, with the status {status.hex()}")
    text = blob[_TEXT_AT : _TEXT_AT + size]
    if len(text) != size or any(blob[_TEXT_AT + size :]):
        raise _malformed(f"{size} bytes of text, or something after them")
    return blob[_REPORT_AT : _REPORT_AT + REPORT_BYTES], text


def _verify(
    platform: PlatformCode, hardware: Verdict, text: bytes, collateral: Mapping[str, bytes]
) -> Verdict:
    """5, 6."""
    if hardware.report_data != hashlib.sha256(text).digest() + bytes(32):  # 5
        raise EvidenceForged(
            "the hardware report does not vouch for the text with the TPM's key",
            check=5,
            mend=_MEND,
        )
    message, pcrs = _item(collateral, QUOTE), _item(collateral, PCRS)
    quote = _quote(message)  # 4b
    _check_signature(_key(text), message, _item(collateral, SIGNATURE))  # 6
    if len(pcrs) != _PCR_BYTES * len(quote.chosen) or quote.digest != hashlib.sha256(pcrs).digest():
        raise EvidenceForged("the quote is of other PCRs", check=6, mend=_MEND)
    values = {
        f"pcr{index}": pcrs[_PCR_BYTES * place : _PCR_BYTES * (place + 1)]
        for place, index in enumerate(quote.chosen)
    }
    code = b"".join(values.get(f"pcr{index}", b"") for index in range(_CODE_PCRS))
    return replace(
        hardware,
        platform=platform,
        anchor=f"{hardware.anchor}, and Microsoft's paravisor",
        measurement=hashlib.sha384(hardware.measurement + code).digest(),
        measurements=MappingProxyType({**hardware.measurements, **values}),
        report_data=quote.nonce.ljust(_NONCE_BYTES_MAX, b"\0"),
        signed_hash=Hash(hashlib.sha256(message).digest()),
        notes=(*hardware.notes, "the TPM is software of Microsoft's, inside the measured guest"),
    )


def _quote(message: bytes) -> TpmQuote:
    """4b. TPMS_ATTEST, TPM 2.0 Library part 2, section 10.12.8."""
    if message[:6] != _QUOTE_HEAD:
        raise _malformed("it is no quote of a TPM")
    _, at = _sized(message, 6)
    nonce, at = _sized(message, at)
    at += _CLOCK_AND_FIRMWARE_BYTES
    selection = message[at : at + 4 + 2 + 1 + 3]
    if len(selection) != 10 or selection[:7] != bytes((0, 0, 0, 1, 0, _SHA256, 3)):
        raise _malformed("a quote of other PCRs than those of SHA-256")
    mask = int.from_bytes(selection[7:], "little")
    digest, at = _sized(message, at + 10)
    if at != len(message) or len(nonce) > _NONCE_BYTES_MAX:
        raise _malformed("something follows the quote, or its nonce is too long")
    chosen = tuple(index for index in range(_PCRS_MAX) if mask >> index & 1)
    if any(index not in chosen for index in range(_CODE_PCRS)):
        raise _malformed(f"a quote of the PCRs {chosen}: 0 to {_CODE_PCRS - 1} are needed")
    return TpmQuote(nonce, chosen, digest)


def _key(text: bytes) -> rsa.RSAPublicKey:
    """5. The text is JSON, and was hashed as it is."""
    try:
        keys = json.loads(text)["keys"]
        found = [key for key in keys if key["kid"] == "HCLAkPub"]
        (key,) = found
        exponent, modulus = (int.from_bytes(_base64(key[name]), "big") for name in ("e", "n"))
        public = rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise _malformed("the text names no attestation key of the TPM") from None
    if not 2048 <= public.key_size <= 4096 or exponent != 65537:
        raise _malformed(f"an attestation key of {public.key_size} bits")
    return public


def _check_signature(key: rsa.RSAPublicKey, message: bytes, signature: bytes) -> None:
    """6."""
    try:
        key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        raise EvidenceForged(
            "the quote is not signed by the TPM's key", check=6, mend=_MEND
        ) from None


def _u32(blob: bytes, at: int) -> int:
    return int.from_bytes(blob[at : at + 4], "little")


def _sized(message: bytes, at: int) -> tuple[bytes, int]:
    size = int.from_bytes(message[at : at + 2], "big")
    end = at + 2 + size
    if end > len(message):
        raise _malformed("the quote ends early")
    return message[at + 2 : end], end


def _base64(text: Any) -> bytes:
    if not isinstance(text, str):
        raise TypeError
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError from None


def _item(collateral: Mapping[str, bytes], name: str) -> bytes:
    if name not in collateral:
        raise _malformed(f"the collateral has no {name}")
    return collateral[name]


def _malformed(what: str) -> EvidenceMalformed:
    return EvidenceMalformed(f"no Azure evidence: {what}", check=4, mend=_MEND)
