"""What no public SEV-SNP evidence shows: by a vendor shaped like AMD."""

import datetime as dt
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from phala.attest import PRODUCTION, AttestationError, Floor, Policy, TcbStatus, Verdict, snp
from phala.attest.errors import (
    AnchorRefused,
    DebugRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    PlatformRefused,
    RevocationRefused,
    TcbRefused,
)
from phala.attest.verify import check_verdict
from phala.primitives.types import Moment
from phala.testing.amd_pki import CHIP, LEVELS, NOW, SimulatedAmd, pinned

AMD = SimulatedAmd()


def judged(
    report: bytes | None = None,
    vendor: SimulatedAmd = AMD,
    policy: Policy = PRODUCTION,
    now: Moment = NOW,
    **changes: bytes | None,
) -> Verdict:
    given = {**vendor.collateral(), **changes}
    collateral = {name: item for name, item in given.items() if item is not None}
    report = vendor.report() if report is None else report
    verdict = snp.verify_report(report, policy, collateral, now, roots=pinned())
    check_verdict(verdict, policy)
    return verdict


@pytest.mark.parametrize("product", ["Genoa", "Turin"])
@pytest.mark.parametrize("signer", ["VCEK", "VLEK"])
@pytest.mark.parametrize("version", [2, 3, 4, 5])
def test_each_version_product_and_kind_of_key_is_judged(
    product: str, signer: str, version: int
) -> None:
    vendor = SimulatedAmd(product, signer)
    verdict = judged(vendor.report(version=version), vendor)

    assert (verdict.product, verdict.tcb_status) == (product.lower(), TcbStatus.UP_TO_DATE)
    assert verdict.platform_id[:8] == CHIP[:8]
    assert verdict.report_data == b"\x07" * 64


def test_bergamo_is_of_genoas_root_and_has_floors_of_its_own() -> None:
    report = AMD.report(cpuid=(0x19, 0xA0, 2))
    assert judged(report).product == "bergamo"


def test_stacked_cache_has_floors_of_its_own() -> None:
    """A Genoa-X is stepping 2, and counts its microcode from another number."""
    today = {**LEVELS, "ucode": 0x51}
    vendor = SimulatedAmd(certified=today)
    report = vendor.report(reported=today, committed=today, cpuid=(0x19, 0x11, 2))
    verdict = judged(report, vendor)
    assert (verdict.product, verdict.tcb_status) == ("genoa-x", TcbStatus.UP_TO_DATE)

    plain = vendor.report(reported=today, committed=today, cpuid=(0x19, 0x11, 1))
    with pytest.raises(TcbRefused, match="reported ucode 81"):
        judged(plain, vendor)
    old = {**LEVELS, "ucode": 0x50}
    vendor = SimulatedAmd(certified=old)
    with pytest.raises(TcbRefused, match=r"check 9.*81 of genoa-x"):
        judged(vendor.report(reported=old, committed=old, cpuid=(0x19, 0x11, 2)), vendor)


def test_who_excludes_a_line_excludes_all_of_its_products() -> None:
    """One root certifies them: a Milan-X must not pass for what is no Milan."""
    milan = SimulatedAmd("Milan")
    floors = (*PRODUCTION.floors[:3], Floor("milan"), Floor("milan-x"))
    lenient = replace(PRODUCTION, floors=floors)
    for stepping, product in ((1, "milan"), (2, "milan-x")):
        report = milan.report(cpuid=(0x19, 1, stepping))
        with pytest.raises(PlatformRefused, match=f"check 10.*{product}"):
            judged(report, milan, lenient)
    without = replace(PRODUCTION, products_excluded=("genoa",))
    for cpuid in ((0x19, 0x11, 1), (0x19, 0x11, 2), (0x19, 0xA0, 2)):
        with pytest.raises(PlatformRefused, match="check 10"):
            judged(AMD.report(cpuid=cpuid), policy=without)


def test_the_root_is_pinned() -> None:
    with pytest.raises(AnchorRefused, match="check 5"):
        snp.verify_snp(AMD.report(), PRODUCTION, AMD.collateral(), NOW)


def test_an_expired_vcek_is_refused() -> None:
    past = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
    with pytest.raises(EvidenceExpired, match="check 5"):
        judged(amd_key=AMD.key(end=past))
    future = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
    with pytest.raises(EvidenceExpired, match="check 5"):
        judged(amd_key=AMD.key(begin=future))


def test_vcek_and_vlek_are_not_confused() -> None:
    vlek = SimulatedAmd(signer="VLEK")
    with pytest.raises(EvidenceForged, match="signed by a VLEK"):
        judged(vlek.report())
    with pytest.raises(EvidenceForged, match="signed by a VCEK"):
        judged(vendor=AMD, amd_key=vlek.key(), amd_chain=vlek.chain())
    with pytest.raises(EvidenceForged, match="signed by a VCEK"):
        judged(amd_chain=vlek.chain())


def test_a_vcek_without_its_chips_id_is_refused() -> None:
    with pytest.raises(EvidenceForged, match="its key of none"):
        judged(amd_key=SimulatedAmd(chip=None).key())
    with pytest.raises(EvidenceForged, match="of the chip"):
        judged(amd_key=SimulatedAmd(chip=bytes(64)).key())
    with pytest.raises(PlatformRefused, match=r"check 5.*masked"):
        judged(AMD.report(chip=bytes(64)))


def test_a_masked_chip_is_told_under_a_vlek_and_nobody_can_block_it() -> None:
    """AWS's reports are like this."""
    vlek = SimulatedAmd(signer="VLEK")
    verdict = judged(vlek.report(chip=bytes(64)), vlek)

    assert verdict.platform_id == b""
    assert any("no list can block it" in note for note in verdict.notes)
    assert any("you believe the cloud" in note for note in verdict.notes)


@pytest.mark.parametrize("part", ["bl", "tee", "snp", "ucode"])
def test_a_key_for_other_firmware_is_refused(part: str) -> None:
    other = {**LEVELS, part: LEVELS[part] + 1}
    with pytest.raises(EvidenceForged, match=f"firmware {part}"):
        judged(amd_key=SimulatedAmd(certified=other).key())


@pytest.mark.parametrize("which", ["reported", "committed"])
@pytest.mark.parametrize("part", ["bl", "snp", "ucode"])
def test_firmware_below_the_floor_is_refused(which: str, part: str) -> None:
    low = {**LEVELS, part: 1}
    vendor = SimulatedAmd(certified=low if which == "reported" else LEVELS)
    report = vendor.report(**{which: low})  # type: ignore[arg-type]
    with pytest.raises(TcbRefused, match=f"check 9.*{which} {part} 1"):
        judged(report, vendor)


def test_a_product_without_a_floor_has_no_status() -> None:
    with pytest.raises(TcbRefused, match=r"check 9.*is none"):
        judged(policy=replace(PRODUCTION, floors=(Floor("turin"),)))


def test_a_revoked_intermediate_is_refused() -> None:
    with pytest.raises(RevocationRefused, match="revoked SEV-Genoa, number 11"):
        judged(amd_crl=AMD.revoked([3, 11]))
    with pytest.raises(RevocationRefused, match="ARK"):
        judged(amd_crl=AMD.revoked([10]))
    assert judged(amd_crl=AMD.revoked([9, 12])).hardware


def test_a_list_that_is_old_or_anothers_is_refused() -> None:
    with pytest.raises(EvidenceExpired, match="revocation list"):
        judged(amd_crl=AMD.revoked(days=30))
    with pytest.raises(EvidenceForged, match="another issuer"):
        judged(amd_crl=SimulatedAmd("Turin").revoked())
    with pytest.raises(RevocationRefused, match="no amd_crl"):
        judged(amd_crl=None)
    item = AMD.revoked([11])
    for place in range(0, len(item), 7):
        changed = item[:place] + bytes([item[place] ^ 1]) + item[place + 1 :]
        with pytest.raises(AttestationError):
            judged(amd_crl=changed)


def test_bits_of_the_guests_policy_count() -> None:
    with pytest.raises(DebugRefused, match="check 8"):
        judged(AMD.report(policy=0x30000 | 1 << 19))
    debug = judged(AMD.report(policy=0x30000 | 1 << 19), policy=replace(PRODUCTION, debug=True))
    assert (debug.debug, debug.confidence) == (True, 5)
    with pytest.raises(EvidenceMalformed, match=r"check 7.*migration"):
        judged(AMD.report(policy=0x30000 | 1 << 18))
    with pytest.raises(EvidenceMalformed, match="check 4"):
        judged(AMD.report(policy=0x10000))


def test_the_level_that_asked_counts() -> None:
    with pytest.raises(PlatformRefused, match=r"check 7.*VMPL 1"):
        judged(AMD.report(vmpl=1))
    assert judged(AMD.report(vmpl=1), policy=replace(PRODUCTION, vmpl_max=1)).hardware


def test_a_report_of_another_processor_than_its_key_is_refused() -> None:
    with pytest.raises(EvidenceForged, match="of a Milan processor"):
        judged(AMD.report(cpuid=(0x19, 1, 1)))
    with pytest.raises(PlatformRefused, match="unknown"):
        judged(AMD.report(cpuid=(0x1B, 1, 1)))


def test_another_keys_signature_is_refused() -> None:
    with pytest.raises(EvidenceForged, match="check 6"):
        judged(AMD.report(signing=ec.generate_private_key(ec.SECP384R1())))


@pytest.mark.parametrize("change", [{}, {"amd_key": b""}, {"amd_chain": b"noise"}, {"other": b""}])
def test_other_collateral_is_refused(change: dict[str, bytes]) -> None:
    collateral = {**AMD.collateral(), **change} if change else {}
    with pytest.raises(EvidenceMalformed, match="check 4"):
        snp.verify_report(AMD.report(), PRODUCTION, collateral, NOW, roots=pinned())


@pytest.mark.parametrize("place", [0, 0x34, 0x49, 0x330, 0x49F])
def test_other_forms_of_report_are_refused(place: int) -> None:
    report = bytearray(AMD.report())
    report[place] ^= 0x80
    with pytest.raises(EvidenceMalformed, match="check 4"):
        judged(bytes(report))
    with pytest.raises(EvidenceMalformed, match="check 4"):
        judged(AMD.report()[:-1])
