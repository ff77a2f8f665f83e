"""Reports of devices and their manifests: by vendors shaped like NVIDIA."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace

import pytest

from phala.attest import (
    PRODUCTION,
    AttestationError,
    PlatformCode,
    TcbStatus,
    Verdict,
    nvidia,
    verify_rim,
)
from phala.attest.errors import (
    AnchorRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    MeasurementRefused,
    PlatformRefused,
)
from phala.attest.nvidia import CHAIN, DRIVER, VBIOS, verify_device
from phala.attest.rim import Rim
from phala.attest.verify import Evidence, verify
from phala.primitives.types import Moment
from phala.testing.p384_pki import FWID, NONCE, NOW, chain, gpu_report, manifest

DEVICE, SIGNER = chain(5), chain(4)
GOOD = {index: bytes([index]) * 48 for index in range(1, 9)}
DRIVER_XML = manifest(SIGNER, "999.01", {index - 1: GOOD[index] for index in range(1, 5)})
VBIOS_XML = manifest(SIGNER, "96.00.5E.00.01", {index - 1: GOOD[index] for index in range(5, 9)})
POLICY = replace(PRODUCTION, platforms=(PlatformCode.NVIDIA,))


def known(*documents: bytes) -> dict[bytes, Rim]:
    rims = [verify_rim(document, root=SIGNER.root_hash) for document in documents]
    return {bytes(rim.digest): rim for rim in rims}


RIMS = known(DRIVER_XML, VBIOS_XML)
ITEMS = {CHAIN: DEVICE.pem, DRIVER: DRIVER_XML, VBIOS: VBIOS_XML}


def judged(
    blob: bytes,
    items: Mapping[str, bytes] = ITEMS,
    now: Moment = NOW,
    rims: Mapping[bytes, Rim] = RIMS,
) -> Verdict:
    return verify_device(blob, POLICY, items, now, rims=rims, root=DEVICE.root_hash)


def test_a_device_whose_every_measurement_is_published_is_up_to_date() -> None:
    verdict = judged(gpu_report(DEVICE))

    assert (verdict.tcb_status, verdict.confidence) == (TcbStatus.UP_TO_DATE, 1)
    assert verdict.report_data == NONCE + bytes(32)
    assert verdict.measurements["driver"] == b"999.01"


def test_without_a_manifest_nobody_says_that_it_is() -> None:
    for missing in (DRIVER, VBIOS):
        items = {name: item for name, item in ITEMS.items() if name != missing}
        assert judged(gpu_report(DEVICE), items).tcb_status is TcbStatus.NONE


def test_a_switch_has_no_drivers_manifest() -> None:
    items = {CHAIN: DEVICE.pem}
    assert judged(gpu_report(DEVICE, driver=b""), items).product == "nvidia-switch"


def test_the_roots_are_pinned() -> None:
    evidence = Evidence(PlatformCode.NVIDIA, gpu_report(DEVICE))
    with pytest.raises(AnchorRefused, match="check 5"):
        verify(evidence, POLICY, {CHAIN: DEVICE.pem}, NOW)
    with pytest.raises(AnchorRefused, match="check 5"):
        verify_rim(DRIVER_XML)


def test_production_takes_no_device_for_a_worker() -> None:
    with pytest.raises(PlatformRefused, match="check 2"):
        verify(Evidence(PlatformCode.NVIDIA, gpu_report(DEVICE)), PRODUCTION, ITEMS, NOW)


def test_a_measurement_that_differs_is_refused() -> None:
    for index in GOOD:
        report = gpu_report(DEVICE, blocks={**GOOD, index: bytes(48)})
        with pytest.raises(MeasurementRefused, match=f"check 9: measurements {index - 1} differ"):
            judged(report)
    with pytest.raises(MeasurementRefused):
        judged(gpu_report(DEVICE, blocks={1: GOOD[1]}))


def test_the_measurement_of_a_decoder_that_is_off_is_left_out_and_said_so() -> None:
    driver = manifest(SIGNER, "999.01", {0: GOOD[1], 35: b"\x99" * 48})
    rims = known(driver, VBIOS_XML)
    items = {**ITEMS, DRIVER: driver}

    verdict = judged(gpu_report(DEVICE, decoder=b"\x55"), items, rims=rims)
    assert verdict.tcb_status is TcbStatus.UP_TO_DATE
    assert any("measurement 35 was not compared" in note for note in verdict.notes)
    for state in (b"\xaa", b"\x55\0", b"\0", b"", None):
        with pytest.raises(MeasurementRefused, match="measurements 35 differ"):
            judged(gpu_report(DEVICE, decoder=state), items, rims=rims)


def test_no_other_measurement_is_left_out_because_a_decoder_is_off() -> None:
    driver = manifest(SIGNER, "999.01", {0: GOOD[1], 34: b"\x99" * 48})
    with pytest.raises(MeasurementRefused, match="measurements 34 differ"):
        judged(
            gpu_report(DEVICE, decoder=b"\x55"),
            {**ITEMS, DRIVER: driver},
            rims=known(driver, VBIOS_XML),
        )


def test_a_manifest_is_verified_once_and_kept_by_its_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[bytes] = []

    def verified(document: bytes) -> Rim:
        asked.append(document)
        return RIMS[hashlib.sha256(document).digest()]

    monkeypatch.setattr(nvidia, "verify_rim", verified)
    nvidia._verified.cache_clear()
    try:
        for _ in range(3):
            assert judged(gpu_report(DEVICE), rims={}).tcb_status is TcbStatus.UP_TO_DATE
    finally:
        nvidia._verified.cache_clear()
    assert asked == [DRIVER_XML, VBIOS_XML]


def test_a_gpu_without_a_driver_is_no_switch_by_a_gpus_manifest() -> None:
    """A switch is up to date by one manifest alone; a GPU must not become one by leaving it out."""
    items = {CHAIN: DEVICE.pem, VBIOS: VBIOS_XML}
    with pytest.raises(MeasurementRefused, match="another kind of device"):
        judged(gpu_report(DEVICE, driver=b""), items)


def test_a_manifest_of_another_version_is_refused() -> None:
    with pytest.raises(MeasurementRefused, match=r"version 999.01, the report of 998"):
        judged(gpu_report(DEVICE, driver=b"998\0"))
    with pytest.raises(MeasurementRefused, match="version"):
        judged(gpu_report(DEVICE), {**ITEMS, DRIVER: VBIOS_XML, VBIOS: DRIVER_XML})


def test_an_expired_signers_manifest_is_for_the_policy() -> None:
    late = Moment(SIGNER_END + 1)
    lasting = {name: item for name, item in ITEMS.items() if name == CHAIN}
    with pytest.raises(EvidenceExpired):
        judged(gpu_report(DEVICE), lasting, late)
    old = known(DRIVER_XML)
    expired = {digest: replace(rim, signer_ends=Moment(NOW - 1)) for digest, rim in old.items()}
    items = {CHAIN: DEVICE.pem, DRIVER: DRIVER_XML}
    with pytest.raises(EvidenceExpired, match=r"check 7.*does not list"):
        judged(gpu_report(DEVICE), items, rims=expired)
    listed = replace(POLICY, rims=tuple(expired))
    blob = gpu_report(DEVICE)
    verdict = verify_device(blob, listed, items, NOW, rims=expired, root=DEVICE.root_hash)
    assert verdict.tcb_status is TcbStatus.NONE


SIGNER_END = 2_398_377_600_000  # of the kit's certificates


def test_the_firmwares_identity_is_the_certificates() -> None:
    with pytest.raises(EvidenceForged, match=r"check 5.*firmware"):
        judged(gpu_report(DEVICE, fwid=bytes(48)))
    with pytest.raises(EvidenceForged, match=r"check 5.*firmware"):
        judged(gpu_report(DEVICE, fwid=b""))
    with pytest.raises(EvidenceForged, match=r"check 5.*firmware"):
        judged(gpu_report(DEVICE, fwid=FWID[:-1]))
    assert judged(gpu_report(DEVICE, fwid=None)).hardware  # drivers before 550 do not tell it


def test_another_devices_signature_is_refused() -> None:
    other = chain.__wrapped__(5)
    with pytest.raises(EvidenceForged, match="check 6"):
        judged(gpu_report(other))


def test_a_chain_of_other_length_or_role_is_refused() -> None:
    short = chain(4)
    with pytest.raises(AnchorRefused, match="a device's has 5"):
        judged(gpu_report(short), {CHAIN: short.pem})
    flat = chain(5, lets_leaf_sign=False)
    with pytest.raises(EvidenceForged, match="may not sign"):
        verify_device(
            gpu_report(flat), POLICY, {CHAIN: flat.pem}, NOW, rims={}, root=flat.root_hash
        )


@pytest.mark.parametrize("size", [0, 36, 100, 181])
def test_cuts_of_a_report_are_refused(size: int) -> None:
    blob = gpu_report(DEVICE)
    for cut in (blob[:size], blob[:-1], blob + b"\0"):
        with pytest.raises(EvidenceMalformed, match="check 4"):
            judged(cut)


def test_a_block_told_twice_is_refused() -> None:
    blob = bytearray(gpu_report(DEVICE))
    at = 45 + 7 + 48  # the second block's index
    assert blob[at] == 2
    blob[at] = 1
    with pytest.raises(EvidenceMalformed, match="twice"):
        judged(bytes(blob))


# ---- manifests


def test_a_manifest_says_what_was_signed() -> None:
    rim = verify_rim(DRIVER_XML, root=SIGNER.root_hash)
    assert rim.version == "999.01"
    assert rim.measurements == {index - 1: (GOOD[index],) for index in range(1, 5)}


def test_what_the_canonical_form_leaves_out_changes_nothing() -> None:
    spaced = DRIVER_XML.replace(b"<n:Meta ", b"<n:Meta  ").replace(b"<d:KeyInfo>", b"<d:KeyInfo >")
    rim = verify_rim(b"<!-- so -->" + spaced, root=SIGNER.root_hash)
    assert rim.measurements == verify_rim(DRIVER_XML, root=SIGNER.root_hash).measurements


CHANGES = [
    (b"999.01", b"999.02"),
    (b'active="True"', b'active="False"'),
    (b'index="0"', b'index="7"'),
    (b"<n:Payload>", b"<n:Payload>text"),
    (b'URI=""', b'URI="#a"'),
    (b'<d:Reference URI="">', b"<d:Reference>"),
    (b"ecdsa-sha384", b"ecdsa-sha256"),
    (b"enveloped-signature", b"base64"),
    (b"more#sha384", b"more#sha224"),
    (b"<d:SignedInfo>", b"<d:SignedInfo><d:More/>"),
    (b"<d:KeyInfo>", b"<d:Object/><d:KeyInfo>"),
    (b"<d:X509Data>", b"<d:X509Data><d:X509Certificate>AA==</d:X509Certificate>"),
    (b"<n:SoftwareIdentity", b"<!DOCTYPE a [<!ENTITY b 'c'>]><n:SoftwareIdentity"),
    (b"<n:Meta ", b"<?a b?><n:Meta "),
    (b"<n:Meta ", b'<n:Meta xml:lang="en" '),
    (b"</n:SoftwareIdentity>", b"</n:SoftwareIdentity><a/>"),
    (b"<d:SignatureValue>", b"<d:SignatureValue>!"),
    (b"xmlns:n=", b'xmlns:xml="a" xmlns:n='),
    (b"xmlns:n=", b'xmlns:="a" xmlns:n='),
    (b"<n:Meta ", b'<n:Meta :a="b" '),
    (b"<n:Meta ", b'<n:Meta xmlns:m="http://www.w3.org/2001/04/xmlenc#sha384" h:a="" m:a="" '),
    (b"<n:Payload>", b"<n:Payload><:a/>"),
]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_a_manifest_that_was_changed_is_refused(old: bytes, new: bytes) -> None:
    assert old in DRIVER_XML
    with pytest.raises(AttestationError):
        verify_rim(DRIVER_XML.replace(old, new, 1), root=SIGNER.root_hash)


def test_a_wrapped_manifest_is_refused() -> None:
    """A second document around the signed one, or a second signature in it."""
    wrapped = b"<a>" + DRIVER_XML + b"</a>"
    twice = re.sub(rb"(<d:Signature .*</d:Signature>)", rb"\1\1", DRIVER_XML)
    inside = DRIVER_XML.replace(b"</n:Payload>", b"").replace(
        b"</n:SoftwareIdentity>", b"</n:Payload></n:SoftwareIdentity>"
    )
    for changed in (wrapped, twice, inside):
        with pytest.raises(AttestationError):
            verify_rim(changed, root=SIGNER.root_hash)


@pytest.mark.parametrize(
    "extra",
    [
        '<n:Resource type="Measurement" index="0" active="True" alternatives="1" h:Hash0="{}"/>',
        '<n:Resource type="Measurement" index="8" active="Yes" alternatives="1" h:Hash0="{}"/>',
        '<n:Resource type="Measurement" index="8" active="True" alternatives="2" h:Hash0="{}"/>',
        '<n:Resource type="Measurement" index="8" active="True" alternatives="99" h:Hash0="{}"/>',
        '<n:Resource type="Measurement" index="x" active="True" alternatives="1" h:Hash0="{}"/>',
        '<n:Resource type="Measurement" index="8" active="True" alternatives="1" h:Hash0="0"/>',
        "<n:Meta/>",
    ],
)
def test_a_signed_manifest_of_another_form_is_refused(extra: str) -> None:
    document = manifest(SIGNER, "1", {0: bytes(48)}, extra=extra.format("00" * 48))
    with pytest.raises(EvidenceMalformed):
        verify_rim(document, root=SIGNER.root_hash)


def test_parser_bombs_scopes_of_a_manifest_cannot_multiply() -> None:
    """Each element may declare a prefix, and then has all those of its parents in a scope."""
    prefixes = " ".join(f'xmlns:p{at}="u"' for at in range(5000))
    bomb = f"<a {prefixes}>" + '<b xmlns:z="u"/>' * 2000 + "</a>"
    with pytest.raises(EvidenceMalformed, match="prefixes"):
        verify_rim(bomb.encode())


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<a",
        b"<a/>",
        b"\xff<a/>",
        b"<a>" * 40,
        b"<a>" + b"<b/>" * 5000 + b"</a>",
        bytes(200_000),
    ],
)
def test_noise_is_no_manifest(document: bytes) -> None:
    with pytest.raises(EvidenceMalformed, match="check 4"):
        verify_rim(document)
