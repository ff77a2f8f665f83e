"""Azure's virtual TPM on either processor: vendors shaped like AMD and Intel, and a TPM's key."""

import base64
import functools
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.unit.attesting import LENIENT

from phala.attest import AttestationError, PlatformCode, Verdict, azure, snp
from phala.attest.azure import verify_vtpm
from phala.attest.errors import EvidenceForged, EvidenceMalformed
from phala.attest.intel import verify_intel
from phala.testing import amd_pki, intel_pki

INTEL, AMD = intel_pki.SimulatedIntel(), amd_pki.SimulatedAmd()
KEY, OTHER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
PCRS = b"".join(hashlib.sha256(bytes([index])).digest() for index in range(24))
NONCE = b"nonce of the verifier's"
HEAD, SIGNER = bytes.fromhex("ff5443478018"), b"\0\4name"
JUDGES = {
    PlatformCode.AZURE_TDX: functools.partial(verify_intel, PlatformCode.TDX, root=INTEL.root_der),
    PlatformCode.AZURE_SNP: functools.partial(snp.verify_report, roots=amd_pki.pinned()),
}
BOTH = pytest.mark.parametrize("platform", JUDGES)


def number(value: int) -> str:
    data = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def told(key: rsa.RSAPrivateKey = KEY, **changes: Any) -> bytes:
    public = key.public_key().public_numbers()
    own = {"kid": "HCLAkPub", "kty": "RSA", "e": number(public.e), "n": number(public.n)}
    text = {"keys": [{**own, "kid": "HCLEkPub"}, own], "vm-configuration": {}, **changes}
    return json.dumps(text).encode()


def hcl(platform: PlatformCode, text: bytes, report: bytes = b"", **changes: int) -> bytes:
    """As in the TPM's index 0x01400001: padded to its size."""
    size = len(text)
    kind = 4 if platform is PlatformCode.AZURE_TDX else 2
    says = {"whole": 0x4D4 + size, "status": 0, "inner": 20 + size, "version": 1, "kind": kind}
    says |= {"hash": 1, "size": size, **changes}

    def words(*names: str) -> bytes:
        return b"".join(says[name].to_bytes(4, "little") for name in names)

    head = b"HCLA" + b"\2\0\0\0" + words("whole") + b"\2\0\0\0" + words("status") + bytes(12)
    tail = words("inner", "version", "kind", "hash", "size")
    return (head + report.ljust(0x4A0, b"\0") + tail + text).ljust(2600, b"\0")


def quote(
    pcrs: bytes = PCRS, *, nonce: bytes = NONCE, bank: int = 0x0B, mask: int = 0xFFFFFF,
    head: bytes = HEAD, banks: int = 1, tail: bytes = b"",
) -> bytes:  # fmt: skip
    digest = hashlib.sha256(pcrs).digest()
    return (
        head + SIGNER + len(nonce).to_bytes(2, "big") + nonce + bytes(17 + 8)
        + banks.to_bytes(4, "big") + bank.to_bytes(2, "big") + b"\3" + mask.to_bytes(3, "little")
        + b"\0\x20" + digest + tail
    )  # fmt: skip


def judged(
    platform: PlatformCode,
    *,
    text: bytes = told(),
    vouched: bytes | None = None,
    message: bytes = quote(),
    pcrs: bytes = PCRS,
    key: rsa.RSAPrivateKey = KEY,
    algorithm: hashes.HashAlgorithm | None = None,
    **header: int,
) -> Verdict:
    said = hashlib.sha256(text).digest().ljust(64, b"\0") if vouched is None else vouched
    signature = key.sign(message, padding.PKCS1v15(), algorithm or hashes.SHA256())
    items = {azure.QUOTE: message, azure.SIGNATURE: signature, azure.PCRS: pcrs}
    report = b""
    if platform is PlatformCode.AZURE_TDX:
        items |= {**INTEL.collateral(), azure.TD_QUOTE: INTEL.quote(report_data=said)}
        now = intel_pki.NOW
    else:
        report, now = AMD.report(report_data=said), amd_pki.NOW
        items |= AMD.collateral()
    blob = hcl(platform, text, report, **header)
    return verify_vtpm(platform, blob, LENIENT, items, now, judge=JUDGES[platform])


@BOTH
def test_a_machines_identity_is_its_registers_and_its_freshness_the_tpms(
    platform: PlatformCode,
) -> None:
    verdict = judged(platform)

    assert (verdict.platform, verdict.hardware) == (platform, True)
    assert verdict.report_data == NONCE.ljust(64, b"\0")
    assert verdict.measurements["pcr23"] == PCRS[-32:]
    assert verdict.signed_hash == hashlib.sha256(quote()).digest()
    assert "Microsoft" in verdict.anchor
    other = bytes(32) + PCRS[32:]
    assert judged(platform, message=quote(other), pcrs=other).measurement != verdict.measurement


@BOTH
def test_some_registers_are_enough_when_all_of_the_code_is_among_them(
    platform: PlatformCode,
) -> None:
    first = PCRS[: 10 * 32]
    assert judged(platform, message=quote(first, mask=0x3FF), pcrs=first).measurement
    for mask in (0x1FF, 0xFFFFFE, 0):
        chosen = b"".join(PCRS[32 * at : 32 * at + 32] for at in range(24) if mask >> at & 1)
        with pytest.raises(EvidenceMalformed, match="are needed"):
            judged(platform, message=quote(chosen, mask=mask), pcrs=chosen)


@BOTH
def test_another_keys_or_another_texts_quote_is_refused(platform: PlatformCode) -> None:
    for forged in (
        {"key": OTHER},
        {"text": told(OTHER)},
        {"vouched": hashlib.sha256(told(OTHER)).digest().ljust(64, b"\0")},
        {"vouched": hashlib.sha256(told()).digest() + b"\1" * 32},
        {"vouched": bytes(64)},
        {"algorithm": hashes.SHA1()},
        {"algorithm": hashes.SHA384()},
        {"pcrs": bytes(32) + PCRS[32:]},
        {"pcrs": PCRS[:-32]},
        {"pcrs": PCRS + bytes(32)},
        {"pcrs": b""},
    ):
        with pytest.raises(EvidenceForged):
            judged(platform, **forged)


@BOTH
def test_a_quote_of_another_form_is_refused(platform: PlatformCode) -> None:
    for message in (
        quote(bank=4),
        quote(banks=2),
        quote(head=bytes.fromhex("ff5443478017")),
        quote(head=bytes.fromhex("005443478018")),
        quote(nonce=bytes(65)),
        quote(tail=b"\0"),
        quote()[:-1],
        quote()[:30],
        b"",
    ):
        with pytest.raises(EvidenceMalformed, match="check 4"):
            judged(platform, message=message)


@BOTH
def test_a_report_of_another_form_is_refused(platform: PlatformCode) -> None:
    kinds = {"kind": 2 if platform is PlatformCode.AZURE_TDX else 4}
    for header in ({"whole": 5}, {"status": 1}, {"inner": 0}, kinds, {"kind": 0}, {"hash": 2},
                   {"size": 2**32 - 1}, {"size": 8}):  # fmt: skip
        with pytest.raises(EvidenceMalformed, match="check 4"):
            judged(platform, **header)  # type: ignore[arg-type]


@BOTH
def test_a_text_without_one_plain_key_is_refused(platform: PlatformCode) -> None:
    key = json.loads(told())["keys"][1]
    small = {**key, "n": number((1 << 1023) | 1)}
    keys: tuple[Any, ...] = (
        [], [key, key], [{**key, "e": "Aw"}], [small], [{**key, "n": 7}], [{**key, "n": "*"}],
        [{"kid": "HCLAkPub"}], [7], {"kid": "HCLAkPub"}, None,
    )  # fmt: skip
    for each in keys:
        with pytest.raises(EvidenceMalformed, match="key"):
            judged(platform, text=told(keys=each))
    for text in (b"[]", b"{", b"\xff", b"[" * 2000):
        with pytest.raises(EvidenceMalformed, match="names no attestation key"):
            judged(platform, text=text)


def test_one_processors_report_is_not_the_others() -> None:
    with pytest.raises(AttestationError, match="td_quote"):
        verify_vtpm(
            PlatformCode.AZURE_TDX,
            hcl(PlatformCode.AZURE_TDX, told(), AMD.report()),
            LENIENT,
            AMD.collateral(),
            amd_pki.NOW,
            judge=JUDGES[PlatformCode.AZURE_TDX],
        )
