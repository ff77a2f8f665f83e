"""Evidence is judged alike; nothing but a verdict or a typed error leaves, whatever the bytes."""

import sys
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phala.attest import (
    DEV,
    PRODUCTION,
    AttestationError,
    Evidence,
    PlatformCode,
    Policy,
    TcbStatus,
    Verdict,
    verify,
)
from phala.attest.ecdsa import ORDER
from phala.attest.errors import (
    AnchorRefused,
    DebugRefused,
    EvidenceForged,
    EvidenceMalformed,
    PlatformRefused,
    PolicyMalformed,
    TcbRefused,
)
from phala.attest.policy import POLICY_BYTES_MAX, Floor
from phala.attest.quote import HEADER, QUOTE, QUOTE_BYTES, SIGNED_BYTES, TD_REPORT, Quote, TdReport
from phala.errors import Invalid, Refused
from phala.primitives.types import Moment
from phala.tee.platform import ReportData
from phala.tee.simulated import SimulatedPlatform, certify, measure, sign
from phala.tee.simulated_key import SimulatedKey

KEY = SimulatedKey(bytes(31) + b"\1", b"k" * 32)
POLICY = DEV.trusting(KEY.public_root)
SAID = ReportData(bytes(range(64)))
CODE = measure(b"code")
PLATFORM = SimulatedPlatform(measurement=CODE, key=KEY)
BLOB = PLATFORM.quote(SAID)
NOW = Moment(1_700_000_000_000)


def judged(blob: bytes, policy: Policy = POLICY, platform: int = PlatformCode.SIMULATED) -> Verdict:
    return verify(Evidence(platform, blob), policy, {}, NOW)


def test_a_simulated_quote_is_accepted_for_what_it_is() -> None:
    verdict = judged(BLOB)

    assert (verdict.platform, verdict.hardware) == (PlatformCode.SIMULATED, False)
    assert "no hardware protection" in verdict.anchor
    assert (verdict.measurement, verdict.report_data) == (CODE, SAID)
    assert (verdict.debug, verdict.tcb_status, verdict.confidence) == (True, TcbStatus.NONE, 5)
    assert verdict.measurements == PLATFORM.measurements


def test_a_quote_has_the_size_of_its_parts() -> None:
    assert len(BLOB) == QUOTE_BYTES


def test_the_same_report_signed_twice_is_one_piece_of_evidence() -> None:
    again = SimulatedPlatform(measurement=CODE, key=KEY).quote(SAID)

    assert again != BLOB
    assert judged(again).signed_hash == judged(BLOB).signed_hash


def test_production_refuses_simulated_evidence_three_times_over() -> None:
    with pytest.raises(PlatformRefused, match=r"check 2.*production"):
        judged(BLOB, PRODUCTION)
    with pytest.raises(AnchorRefused, match=r"check 5.*no simulated root"):
        judged(BLOB, DEV)
    with pytest.raises(DebugRefused, match="check 8"):
        judged(BLOB, replace(POLICY, debug=False))
    with pytest.raises(TcbRefused, match="check 9"):
        judged(BLOB, replace(POLICY, tcb_statuses=PRODUCTION.tcb_statuses))


def test_another_networks_root_is_refused() -> None:
    other = SimulatedKey.generate()

    with pytest.raises(AnchorRefused, match="did not certify"):
        judged(BLOB, DEV.trusting(other.public_root))


@pytest.mark.parametrize("platform", [1, 2])
def test_a_simulated_quote_never_passes_for_hardware(platform: int) -> None:
    with pytest.raises(EvidenceMalformed, match=r"check 4.*vendor id"):
        judged(BLOB, PRODUCTION, platform)


@pytest.mark.parametrize("platform", [8, 9, 255, -1])
def test_a_platform_that_cannot_be_judged_is_refused(platform: int) -> None:
    with pytest.raises(PlatformRefused, match="check 1"):
        judged(BLOB, PRODUCTION, platform)


def test_2000_alterations_are_all_refused() -> None:
    random = Random("alterations")
    for _ in range(2_000):
        blob = altered(BLOB, random)
        with pytest.raises(AttestationError):
            judged(blob)


def altered(blob: bytes, random: Random) -> bytes:
    """Another blob: a bit flipped, cut, grown, a stretch overwritten, or two swapped."""
    while True:
        data = bytearray(blob)
        place = random.randrange(len(data))
        match random.randrange(5):
            case 0:
                data[place] ^= 1 << random.randrange(8)
            case 1:
                del data[place:]
            case 2:
                data += random.randbytes(random.randrange(1, 64))
            case 3:
                data[place : place + 8] = random.randbytes(8)
            case _:
                del data[place]
        if data != blob:
            return bytes(data)


def test_each_byte_counts() -> None:
    for place in range(len(BLOB)):
        with pytest.raises(AttestationError):
            judged(BLOB[:place] + bytes([BLOB[place] ^ 0x80]) + BLOB[place + 1 :])


@given(st.binary(max_size=2_000))
def test_noise_is_refused_as_evidence(blob: bytes) -> None:
    with pytest.raises(EvidenceMalformed, match="check 4"):
        judged(blob)


def test_the_other_form_of_a_signature_is_refused() -> None:
    quote = QUOTE.decode(BLOB)
    certification = quote.certification
    for other in (
        replace(quote, signature=upper(quote.signature)),
        replace(
            quote,
            certification=replace(certification, signature=upper(certification.signature)),
        ),
    ):
        with pytest.raises(AttestationError):
            judged(QUOTE.encode(other))


def upper(signature: bytes) -> bytes:
    return signature[:32] + (ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")


def resigned(report: TdReport, platform: SimulatedPlatform = PLATFORM) -> bytes:
    """A quote of the genuine attestation key over a report that it never makes."""
    quote = QUOTE.decode(platform.quote(SAID))
    signed = HEADER.encode(quote.header) + TD_REPORT.encode(report)
    return QUOTE.encode(
        replace(quote, report=report, signature=sign(platform._attestation_key, signed))
    )


@pytest.mark.parametrize(
    "change",
    [{"td_attributes": 0}, {"td_attributes": 3}, {"xfam": 1}, {"rtmrs": b"\1" * 192}],
)
def test_attributes_of_another_platform_are_refused(change: dict[str, int | bytes]) -> None:
    report = replace(QUOTE.decode(BLOB).report, **change)  # type: ignore[arg-type]

    with pytest.raises(EvidenceMalformed, match="check 7"):
        judged(resigned(report))


def test_an_attestation_key_that_was_not_certified_is_refused() -> None:
    stranger = SimulatedPlatform(measurement=CODE, key=SimulatedKey.generate())
    quote = QUOTE.decode(stranger.quote(SAID))
    borrowed = replace(quote, certification=QUOTE.decode(BLOB).certification)

    with pytest.raises(EvidenceForged, match="check 5"):
        judged(QUOTE.encode(borrowed))


def test_a_certified_key_that_is_no_point_is_refused() -> None:
    key = b"\7" * 64
    quote: Quote = replace(QUOTE.decode(BLOB), key=key, certification=certify(key, KEY))

    with pytest.raises(EvidenceForged, match="check 6"):
        judged(QUOTE.encode(quote))


def test_what_is_too_large_is_refused_before_it_is_read() -> None:
    for blob, collateral in (
        (bytes(16_385), {}),
        (BLOB, {str(number): b"" for number in range(17)}),
        (BLOB, {"crl": bytes(512 * 1024)}),
    ):
        with pytest.raises(EvidenceMalformed, match="check 3"):
            verify(Evidence(0, blob), POLICY, collateral, NOW)


def test_collateral_for_simulated_evidence_is_refused() -> None:
    with pytest.raises(EvidenceMalformed, match=r"check 4.*takes none"):
        verify(Evidence(0, BLOB), POLICY, {"crl": b""}, NOW)


def test_a_readers_mistake_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_given: object) -> Verdict:
        raise IndexError

    module = sys.modules["phala.attest.verify"]  # the name in the room is the function
    monkeypatch.setattr(module, "VERIFIERS", {PlatformCode.SIMULATED: mistaken})
    with pytest.raises(EvidenceMalformed, match="not foreseen: IndexError"):
        judged(BLOB)


def test_errors_say_who_can_mend_them() -> None:
    assert issubclass(EvidenceForged, Invalid)
    assert issubclass(DebugRefused, Refused)
    with pytest.raises(AttestationError) as caught:
        judged(BLOB, PRODUCTION)
    assert (caught.value.check, caught.value.exit_code) == (2, Refused.exit_code)


# ---- policies


@pytest.mark.parametrize("policy", [DEV, PRODUCTION, POLICY])
def test_a_policy_is_one_text(policy: Policy) -> None:
    assert Policy.decode(policy.encode()) == policy


def test_a_policy_is_read_by_people() -> None:
    policy = replace(
        DEV,
        advisories=("INTEL-SA-00289",),
        floors=(Floor("genoa", bl=9, snp=21, ucode=84),),
        blocked=(b"\1\2",),
    )

    assert policy.encode().decode() == (
        "{\n"
        '  "advisories": [\n    "INTEL-SA-00289"\n  ],\n'
        '  "ageMsMax": 300000,\n'
        '  "aliasCheck": true,\n'
        '  "blocked": [\n    "0102"\n  ],\n'
        '  "configId": false,\n'
        '  "debug": true,\n'
        '  "evaluationNumberMin": 0,\n'
        '  "floors": {\n'
        '    "genoa": {\n'
        '      "bl": 9,\n      "fmc": 0,\n      "snp": 21,\n      "tee": 0,\n      "ucode": 84\n'
        "    }\n"
        "  },\n"
        '  "name": "dev",\n'
        '  "platforms": [\n    "simulated"\n  ],\n'
        '  "productsExcluded": [],\n'
        '  "revocationList": true,\n'
        '  "rims": [],\n'
        '  "simulatedRoot": null,\n'
        '  "tcbStatuses": [\n    "none"\n  ],\n'
        '  "version": 2,\n'
        '  "vmplMax": 0\n'
        "}\n"
    )
    assert Policy.decode(policy.encode()) == policy


TEXT = POLICY.encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"[" * 4_000,
        b" " * (POLICY_BYTES_MAX + 1),
        b"\xff",
        TEXT.rstrip(),
        TEXT.replace(b'"version": 2', b'"version": 1'),
        TEXT.replace(b'"version": 2', b'"version": true'),
        TEXT.replace(b'"version": 2', b'"version": 2.0'),
        TEXT.replace(b"true", b"1"),
        TEXT.replace(b'"dev"', b"7"),
        TEXT.replace(b'"dev"', b'""'),
        TEXT.replace(b'"simulated"', b'"imaginary"'),
        TEXT.replace(b'"simulated"', b"[]"),
        TEXT.replace(b'"simulated"', b'"simulated",\n    "sgx"'),
        TEXT.replace(b'"simulated"', b'"tdx"'),
        TEXT.replace(b'\n    "simulated"\n  ', b""),
        TEXT.replace(b'"02', b'"06').replace(b'"03', b'"06'),
        TEXT.replace(b'"02', b'"zz').replace(b'"03', b'"zz'),
        TEXT.replace(b'"02', b'"').replace(b'"03', b'"'),
        PRODUCTION.encode().replace(b'"tdx",\n    ', b'"sgx",\n    '),
        PRODUCTION.encode().replace(b"up-to-date", b"revoked"),
        PRODUCTION.encode().replace(b"up-to-date", b"fine"),
        PRODUCTION.encode().replace(b"17", b"-1"),
        PRODUCTION.encode().replace(b"17", b"1.5"),
        PRODUCTION.encode().replace(b"17", b"4294967296"),
        TEXT.replace(b"300000", b"0"),
        TEXT.replace(b"300000", b"true"),
        TEXT.replace(b'"vmplMax": 0', b'"vmplMax": 4'),
        TEXT.replace(b'"advisories": []', b'"advisories": 7'),
        TEXT.replace(b'"advisories": []', b'"advisories": [\n    "SA-1"\n  ]'),
        TEXT.replace(b'"blocked": []', b'"blocked": [\n    ""\n  ]'),
        TEXT.replace(b'"blocked": []', b'"blocked": [\n    "0Z"\n  ]'),
        TEXT.replace(b'"blocked": []', b'"blocked": [\n    "02",\n    "01"\n  ]'),
        TEXT.replace(b'"rims": []', b'"rims": [\n    "01"\n  ]'),
        TEXT.replace(b'"floors": {}', b'"floors": []'),
        TEXT.replace(b'"floors": {}', b'"floors": {\n    "genoa": {}\n  }'),
        PRODUCTION.encode().replace(b'"ucode": 86', b'"ucode": 256'),
        PRODUCTION.encode().replace(b'"ucode": 86', b'"ucode": true'),
        PRODUCTION.encode().replace(b'"genoa"', b'"Genoa"'),
    ],
)
def test_a_policy_that_is_not_canonical_is_refused(text: bytes) -> None:
    with pytest.raises(Invalid):
        Policy.decode(text)


def test_a_policy_never_mixes_simulated_and_hardware() -> None:
    with pytest.raises(PolicyMalformed, match="one pool"):
        replace(DEV, platforms=(PlatformCode.SIMULATED, PlatformCode.TDX))


@given(st.binary(max_size=200))
def test_noise_is_refused_as_policy(text: bytes) -> None:
    with pytest.raises(Invalid):
        Policy.decode(text)


def test_the_signed_part_is_header_and_report() -> None:
    quote = QUOTE.decode(BLOB)

    assert BLOB[:SIGNED_BYTES] == HEADER.encode(quote.header) + TD_REPORT.encode(quote.report)
