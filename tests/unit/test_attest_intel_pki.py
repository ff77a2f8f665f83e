"""What no public Intel evidence shows: by a vendor shaped like Intel."""

import json
from dataclasses import replace
from typing import Any

import pytest

from phala.attest import PRODUCTION, PlatformCode, Policy, TcbStatus, Verdict
from phala.attest.errors import (
    AnchorRefused,
    AttestationError,
    DebugRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    MeasurementRefused,
    PlatformRefused,
    RevocationRefused,
    TcbRefused,
)
from phala.attest.eventlog import Event, replay, runtime_digest
from phala.attest.intel import verify_intel, verify_tdx
from phala.attest.verify import check_verdict
from phala.primitives.types import Moment
from phala.testing.intel_pki import EVALUATION_NUMBER, NOW, TD_PLAIN, SimulatedIntel, signed

TDX, SGX = SimulatedIntel(), SimulatedIntel(tdx=False)
OPEN = replace(
    PRODUCTION,
    name="open",
    tcb_statuses=tuple(each for each in TcbStatus if each is not TcbStatus.REVOKED),
    advisories=None,
)


def judged(
    vendor: SimulatedIntel = TDX,
    policy: Policy = PRODUCTION,
    quote: bytes | None = None,
    now: Moment = NOW,
    collateral: dict[str, bytes] | None = None,
) -> Verdict:
    platform = PlatformCode.TDX if vendor.tdx else PlatformCode.SGX
    blob = vendor.quote() if quote is None else quote
    given = vendor.collateral() if collateral is None else collateral
    verdict = verify_intel(platform, blob, policy, given, now, root=vendor.root_der)
    check_verdict(verdict, policy)
    return verdict


@pytest.mark.parametrize("vendor", [TDX, SGX])
def test_the_simulated_vendor_is_like_intel(vendor: SimulatedIntel) -> None:
    verdict = judged(vendor)
    assert (verdict.tcb_status, verdict.confidence) == (TcbStatus.UP_TO_DATE, 1)
    assert verdict.product == "ffffff000000"


def test_a_self_made_root_is_refused() -> None:
    with pytest.raises(EvidenceForged, match="check 6"):
        verify_tdx(TDX.quote(), PRODUCTION, TDX.collateral(), NOW)


STATUSES = [
    ("UpToDate", TcbStatus.UP_TO_DATE, 1),
    ("SWHardeningNeeded", TcbStatus.SW_HARDENING_NEEDED, 2),
    ("ConfigurationNeeded", TcbStatus.CONFIGURATION_NEEDED, 3),
    ("ConfigurationAndSWHardeningNeeded", TcbStatus.CONFIGURATION_AND_SW_HARDENING_NEEDED, 3),
    ("OutOfDate", TcbStatus.OUT_OF_DATE, 5),
    ("OutOfDateConfigurationNeeded", TcbStatus.OUT_OF_DATE_CONFIGURATION_NEEDED, 5),
]


@pytest.mark.parametrize(("word", "status", "confidence"), STATUSES)
@pytest.mark.parametrize("vendor", [TDX, SGX])
def test_each_status_reaches_the_policy(
    vendor: SimulatedIntel, word: str, status: TcbStatus, confidence: int
) -> None:
    collateral = vendor.collateral(levels=[(word, [])])
    verdict = judged(vendor, OPEN, collateral=collateral)

    assert (verdict.tcb_status, verdict.confidence) == (status, confidence)
    if status is not TcbStatus.UP_TO_DATE:
        with pytest.raises(TcbRefused, match="check 9"):
            judged(vendor, collateral=collateral)


@pytest.mark.parametrize("word", ["Revoked", "TDRelaunchAdvised", "Fine"])
def test_a_revoked_or_unknown_status_is_refused_by_every_policy(word: str) -> None:
    with pytest.raises(AttestationError):
        judged(policy=OPEN, collateral=TDX.collateral(levels=[(word, [])]))


@pytest.mark.parametrize("status", ["OutOfDate", "Revoked"])
def test_an_old_quoting_enclave_makes_the_platform_old(status: str) -> None:
    with pytest.raises(AttestationError):
        judged(collateral=TDX.collateral(qe_status=status))


def test_open_advisories_are_for_the_policy() -> None:
    collateral = TDX.collateral(levels=[("SWHardeningNeeded", ["INTEL-SA-00334"])])
    listed = replace(OPEN, advisories=("INTEL-SA-00334",))

    assert judged(policy=listed, collateral=collateral).advisories == ("INTEL-SA-00334",)
    with pytest.raises(TcbRefused, match="INTEL-SA-00334"):
        judged(policy=replace(OPEN, advisories=("INTEL-SA-00289",)), collateral=collateral)


def test_other_advisories_under_configuration_needed_cost_a_level() -> None:
    for advisory, confidence in (("INTEL-SA-00219", 3), ("INTEL-SA-00615", 4)):
        collateral = TDX.collateral(levels=[("ConfigurationNeeded", [advisory])])
        assert judged(policy=OPEN, collateral=collateral).confidence == confidence


@pytest.mark.parametrize("vendor", [TDX, SGX])
def test_a_revoked_platform_key_is_refused(vendor: SimulatedIntel) -> None:
    with pytest.raises(RevocationRefused, match=r"check 5.*[Rr]evoked"):
        judged(vendor, OPEN, collateral=vendor.collateral(revoked=[vendor.pck.serial_number]))


def test_tcb_info_signed_by_a_platforms_key_is_refused() -> None:
    forged = TDX.collateral(tcb_signer=(TDX.pck_key, (TDX.pck, TDX.platform_ca)))
    with pytest.raises(AnchorRefused, match=r"check 5.*PCK Certificate"):
        judged(policy=OPEN, collateral=forged)


def laid_out(
    vendor: SimulatedIntel, *, chain: bytes = b"", inside: bytes = b"", behind: bytes = b""
) -> bytes:
    """The vendor's quote with something more in its certification, all sizes counted again."""
    quote, end = vendor.quote(), 48 + (584 if vendor.tdx else 384)
    certified = quote[end + 4 + 128 + (6 if vendor.tdx else 0) :]
    at = 448 + 2 + int.from_bytes(certified[448:450], "little")
    said = chain or certified[at + 6 :]
    certified = certified[: at + 2] + len(said).to_bytes(4, "little") + said + inside
    auth = quote[end + 4 : end + 4 + 128]
    if vendor.tdx:
        auth += b"\6\0" + len(certified).to_bytes(4, "little")
    auth += certified + behind
    return quote[:end] + len(auth).to_bytes(4, "little") + auth


@pytest.mark.parametrize("vendor", [TDX, SGX])
def test_nothing_hides_behind_or_between_a_quotes_certificates(vendor: SimulatedIntel) -> None:
    size = len(laid_out(vendor)) - len(vendor.quote())
    chain = vendor.quote()[vendor.quote().index(b"-----BEGIN") :]
    assert size == 0
    for good in (
        laid_out(vendor, chain=chain + b"\0"),
        laid_out(vendor, chain=chain.replace(b"\n", b"\r\n")),
        laid_out(vendor, inside=bytes(9)),
        laid_out(vendor, behind=bytes(9)),
    ):
        assert judged(vendor, quote=good) == judged(vendor)
    first = chain.index(b"-----END")
    for bad in (
        laid_out(vendor, chain=b"x" + chain),
        laid_out(vendor, chain=chain + b"x"),
        laid_out(vendor, chain=chain + b"\0x"),
        laid_out(vendor, chain=chain[:first] + b"-" + chain[first:]),
        laid_out(vendor, inside=b"x"),
        laid_out(vendor, behind=b"x"),
        laid_out(vendor, chain=chain[:-1], inside=b"\n"),
    ):
        with pytest.raises(EvidenceMalformed, match="check 4"):
            judged(vendor, quote=bad)


@pytest.mark.parametrize(("at", "value"), [(128, 5), (130, 2**32 - 1), (130, 7), (130, 3000)])
def test_a_certification_of_another_type_or_size_is_refused(at: int, value: int) -> None:
    quote = TDX.quote()
    size = 2 if at == 128 else 4
    at += 48 + 584 + 4
    with pytest.raises(EvidenceMalformed, match="check 4"):
        judged(quote=quote[:at] + value.to_bytes(size, "little") + quote[at + size :])


def test_a_module_below_the_least_version_is_out_of_date() -> None:
    with pytest.raises(AttestationError):
        judged(collateral=TDX.collateral(module_svn=9))


def test_an_unknown_module_is_refused() -> None:
    with pytest.raises(EvidenceForged):
        judged(policy=OPEN, quote=TDX.quote(module_version=7))


def test_a_platform_below_intels_lowest_level_is_refused_as_such() -> None:
    collateral = TDX.collateral()
    info = json.loads(collateral["tcb_info"])
    info["tcbLevels"][0]["tcb"]["pcesvn"] += 1
    text = json.dumps(info, separators=(",", ":")).encode()
    signature = signed(TDX.tcb_key, text).hex().encode()
    with pytest.raises(TcbRefused, match=r"check 9.*No matching TCB level"):
        judged(
            policy=OPEN,
            collateral={**collateral, "tcb_info": text, "tcb_info_signature": signature},
        )


def test_expired_collateral_is_refused() -> None:
    with pytest.raises(EvidenceExpired, match=r"check 5.*expired"):
        judged(collateral=TDX.collateral(days=30))


def test_an_evaluation_number_below_the_policys_is_refused() -> None:
    number = EVALUATION_NUMBER + 1
    with pytest.raises(TcbRefused, match="check 5"):
        judged(policy=replace(PRODUCTION, evaluation_number_min=number))
    policy = replace(PRODUCTION, evaluation_number_min=number)
    assert judged(policy=policy, collateral=TDX.collateral(number=number)).hardware


def test_a_debuggable_quoting_enclave_is_refused() -> None:
    with pytest.raises(EvidenceForged):
        judged(policy=OPEN, quote=TDX.quote(qe_attributes=0x13))


@pytest.mark.parametrize("bit", [0, 29, 30, 31, 63])
def test_a_td_with_unusual_attributes_is_refused(bit: int) -> None:
    with pytest.raises((DebugRefused, EvidenceMalformed)):
        judged(policy=OPEN, quote=TDX.quote(attributes=TD_PLAIN | 1 << bit))


@pytest.mark.parametrize("features", [0, 1, 2, 0x602E7 | 1 << 3, 0x602E7 | 1 << 19, 1 << 63 | 3])
def test_a_td_with_unknown_features_is_refused(features: int) -> None:
    with pytest.raises(EvidenceMalformed, match=r"check 7.*features"):
        judged(policy=OPEN, quote=TDX.quote(features=features))
    known = judged(policy=OPEN, quote=TDX.quote(features=0x6DBE7))
    assert known.measurements["xfam"] == bytes.fromhex("e7db060000000000")


@pytest.mark.parametrize("flags", [1, 4, 5 | 2, 5 | 16, 5 | 32])
def test_an_enclave_with_unusual_attributes_is_refused(flags: int) -> None:
    with pytest.raises((DebugRefused, EvidenceMalformed)):
        judged(SGX, OPEN, SGX.quote(attributes=flags))


def test_a_zero_configuration_is_refused_where_one_is_asked_for() -> None:
    policy = replace(PRODUCTION, config_id=True)
    with pytest.raises(EvidenceMalformed, match=r"check 7.*MRCONFIGID"):
        judged(policy=policy)
    assert judged(policy=policy, quote=TDX.quote(config_id=b"\1" * 48)).hardware


def test_a_product_and_a_platform_can_be_refused() -> None:
    with pytest.raises(PlatformRefused, match="check 10"):
        judged(policy=replace(PRODUCTION, products_excluded=("ffffff000000",)))
    with pytest.raises(RevocationRefused, match="check 11"):
        judged(policy=replace(PRODUCTION, blocked=(b"\x11" * 16,)))


def test_a_panic_of_the_library_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        """As PyO3 calls it."""

    def panic(*_given: object) -> None:
        raise PanicException("index out of bounds")

    monkeypatch.setattr("dcap_qvl.verify_with_root_ca", panic)
    with pytest.raises(EvidenceForged, match=r"check 6.*out of bounds"):
        judged()


# ---- event logs

APP, COMPOSE = b"\xa1" * 20, b"\xc0" * 32


def entry(name: str, payload: bytes, **changes: Any) -> dict[str, Any]:
    given = {
        "imr": 3,
        "event_type": 0x08000001,
        "digest": runtime_digest(name, payload).hex(),
        "event": name,
        "event_payload": payload.hex(),
    }
    return {**given, **changes}


LOG = [
    entry("system-preparing", b""),
    entry("app-id", APP),
    entry("compose-hash", COMPOSE),
    entry("key-provider", b'{"name":"kms"}'),
    entry("system-ready", b""),
    entry("app-id", b"an application says so"),
]


def with_log(
    log: list[dict[str, Any]], *, signed: list[dict[str, Any]] | None = None, config: bytes = b""
) -> Verdict:
    """A quote over the log `signed`, judged with the log that is given."""
    said = [
        Event(
            register=3,
            digest=runtime_digest(each["event"], bytes.fromhex(each["event_payload"])),
            name="",
            payload=b"",
            computed=True,
        )
        for each in (log if signed is None else signed)
    ]
    quote = TDX.quote(registers=replay(said), config_id=config.ljust(48, b"\0"))
    collateral = {**TDX.collateral(), "event_log": json.dumps(log).encode()}
    return judged(quote=quote, collateral=collateral)


def test_identity_is_read_before_the_system_is_ready() -> None:
    verdict = with_log(LOG, config=b"\1" + COMPOSE)
    assert verdict.measurements["app-id"] == APP
    assert verdict.measurements["compose-hash"] == COMPOSE


def test_a_log_without_a_ready_system_tells_no_identity() -> None:
    assert "app-id" not in with_log(LOG[:4]).measurements


def test_a_configuration_of_another_application_is_refused() -> None:
    with pytest.raises(MeasurementRefused, match="compose hash"):
        with_log(LOG, config=b"\1" + bytes(31) + b"\1")


@pytest.mark.parametrize(
    "changed",
    [
        [LOG[0], LOG[2], LOG[1], *LOG[3:]],  # another order
        LOG[:-1],
        LOG[1:],
        [*LOG, entry("more", b"")],
        [],
    ],
    ids=["order", "tail", "head", "more", "empty"],
)
def test_a_log_that_ends_elsewhere_is_refused(changed: list[dict[str, Any]]) -> None:
    if not changed:
        assert "app-id" not in with_log(changed, signed=LOG).measurements
        return
    with pytest.raises(MeasurementRefused, match=r"check 7.*RTMR3"):
        with_log(changed, signed=LOG)


def test_a_payload_under_anothers_digest_is_refused() -> None:
    lie = {**LOG[1], "event_payload": "00" * 20}
    with pytest.raises(MeasurementRefused, match="not of its payload"):
        with_log([LOG[0], lie, *LOG[2:]], signed=LOG)
    with pytest.raises(MeasurementRefused, match="RTMR3"):
        with_log([LOG[0], {**lie, "digest": ""}, *LOG[2:]], signed=LOG)


def test_the_border_of_name_and_payload_cannot_be_shifted() -> None:
    shifted = {**LOG[3], "event": 'key-provider:{"name"', "event_payload": b'"kms"}'.hex()}
    assert runtime_digest(shifted["event"], b'"kms"}').hex() == LOG[3]["digest"]
    with pytest.raises(EvidenceMalformed, match="runtime event"):
        with_log([*LOG[:3], shifted, *LOG[4:]], signed=LOG)


def test_identity_told_twice_is_refused() -> None:
    with pytest.raises(MeasurementRefused, match="app-id twice"):
        with_log([*LOG[:4], LOG[1], *LOG[4:]])


@pytest.mark.parametrize(
    "change",
    [
        {"imr": 4},
        {"imr": -1},
        {"imr": True},
        {"imr": 2},
        {"event_type": 5},
        {"event_type": None},
        {"event": 7},
        {"event": "a" * 65},
        {"event": ""},
        {"digest": "zz"},
        {"digest": 7},
        {"event_payload": "0"},
        {"version": 3},
        {"version": True},
    ],
)
def test_events_of_another_form_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(AttestationError):
        with_log([{**LOG[0], **change}, *LOG[1:]], signed=LOG)


def test_events_of_the_second_version_are_computed_as_such() -> None:
    payload = b"\1\2"
    second = entry("app-id", payload, version=2, digest="")
    digest = runtime_digest("app-id", payload, version=2)
    quote = TDX.quote(registers=replay([Event(3, digest, "", b"", computed=True)]))
    collateral = {**TDX.collateral(), "event_log": json.dumps([second]).encode()}
    assert judged(quote=quote, collateral=collateral).hardware
