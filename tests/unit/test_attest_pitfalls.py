"""Each way in which a verifier of somebody's was fooled, by its name, tried on ours.

The findings are those of public reports, advisories and reviews; what belongs to the chain (used
evidence, ages, windows of height) or to the enclave is tested with those.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.unit.attesting import LENIENT, amd, index, intel, read

from phala.attest import (
    DEV,
    PRODUCTION,
    AttestationError,
    Evidence,
    PlatformCode,
    Policy,
    TcbStatus,
    nvidia,
    open_evidence,
    snp,
    verify,
)
from phala.attest.ecdsa import ORDER
from phala.attest.envelopes import ENVELOPE_BYTES_MAX
from phala.attest.errors import (
    AnchorRefused,
    DebugRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    MeasurementRefused,
    PlatformRefused,
    PolicyMalformed,
    RevocationRefused,
    TcbRefused,
)
from phala.attest.eventlog import (
    RUNTIME_EVENT,
    decode_ccel,
    decode_dstack,
    replay,
    runtime_digest,
)
from phala.attest.intel import verify_intel
from phala.attest.nitro import verify_document
from phala.attest.verify import check_verdict
from phala.primitives.types import Moment
from phala.tee.platform import ReportData
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.testing import amd_pki, intel_pki, p384_pki

INTEL = intel_pki.SimulatedIntel()
AMD = amd_pki.SimulatedAmd()


def judged(
    policy: Policy = PRODUCTION,
    quote: bytes | None = None,
    collateral: Mapping[str, bytes] | None = None,
    vendor: intel_pki.SimulatedIntel = INTEL,
) -> object:
    blob = vendor.quote() if quote is None else quote
    items = vendor.collateral() if collateral is None else collateral
    platform = PlatformCode.TDX if vendor.tdx else PlatformCode.SGX
    verdict = verify_intel(platform, blob, policy, items, intel_pki.NOW, root=vendor.root_der)
    check_verdict(verdict, policy)
    return verdict


def snp_judged(report: bytes, policy: Policy = PRODUCTION, **items: bytes) -> object:
    given = {**AMD.collateral(), **items}
    verdict = snp.verify_report(report, policy, given, amd_pki.NOW, roots=amd_pki.pinned())
    check_verdict(verdict, policy)
    return verdict


def test_wiretap_and_tee_fail_a_machine_whose_keys_were_taken_is_blocked_at_once() -> None:
    """Physical attacks (2025) take a machine's key: it signs what it likes, and validly."""
    judged()
    snp_judged(AMD.report())
    policy = replace(PRODUCTION, blocked=(amd_pki.CHIP, b"\x11" * 16))
    with pytest.raises(RevocationRefused, match="check 11"):
        judged(policy)
    with pytest.raises(RevocationRefused, match="check 11"):
        snp_judged(AMD.report(), policy)


def test_sgx_fail_raising_the_evaluation_number_ends_old_knowledge() -> None:
    """SGX.fail (2022): recovery took months while platforms judged by old collateral went on."""
    judged()
    raised = replace(PRODUCTION, evaluation_number_min=intel_pki.EVALUATION_NUMBER + 1)
    with pytest.raises(TcbRefused, match="check 5"):
        judged(raised)


def test_milan_seed_extraction_milan_is_off_by_default() -> None:
    """arXiv 2605.12990: the root of a Milan's keys was read out by software; floors do not help."""
    milan = amd_pki.SimulatedAmd("Milan")
    report, items = milan.report(), milan.collateral()
    verdict = snp.verify_report(report, PRODUCTION, items, amd_pki.NOW, roots=amd_pki.pinned())

    assert (verdict.product, verdict.confidence) == ("milan", 5)
    with pytest.raises(PlatformRefused, match="check 10"):
        check_verdict(verdict, PRODUCTION)
    check_verdict(verdict, replace(PRODUCTION, products_excluded=()))


def test_badram_a_report_without_the_alias_check_is_refused() -> None:
    """CVE-2024-21944."""
    with pytest.raises(TcbRefused, match=r"check 7.*BadRAM"):
        snp_judged(AMD.report(platform_info=0x05))
    snp_judged(AMD.report(platform_info=0x05), replace(PRODUCTION, alias_check=False))


def test_debug_accepted_no_debuggable_enclave_of_any_vendor_is() -> None:
    """taiko-mono 21824, base 4042: debug enclaves passed."""
    enclave = p384_pki.chain(5)
    document = verify_document(
        p384_pki.nitro_document(enclave, pcr0=bytes(48)),
        PRODUCTION,
        {},
        p384_pki.NOW,
        root=enclave.root_hash,
    )
    sgx = intel_pki.SimulatedIntel(tdx=False)
    with pytest.raises(DebugRefused):
        check_verdict(document, PRODUCTION)
    with pytest.raises(DebugRefused):
        snp_judged(AMD.report(policy=0xB0000))
    with pytest.raises(DebugRefused):
        judged(quote=INTEL.quote(attributes=1 << 28 | 1))
    with pytest.raises(DebugRefused):
        judged(vendor=sgx, quote=sgx.quote(attributes=7))
    with pytest.raises(EvidenceForged):
        judged(quote=INTEL.quote(qe_attributes=0x13))


def test_debug_accepted_genuine_debug_evidence_is_refused() -> None:
    """Three documents of Nitro (one of which its source calls valid), three quotes, one report."""
    documents = index()
    refused = 0
    for case in documents["nitro"]:
        if case["debug"]:
            with pytest.raises(DebugRefused):
                verify(
                    Evidence(PlatformCode.NITRO, read(case["doc"])),
                    PRODUCTION,
                    {},
                    Moment(case["time_ms"]),
                )
            refused += 1
    for case in documents["intel_dcap"]:
        if "debug" in case["quote"]:
            platform = PlatformCode.SGX if "sgx" in case["quote"] else PlatformCode.TDX
            evidence = Evidence(platform, read(case["quote"]))
            with pytest.raises(DebugRefused):
                verify(evidence, LENIENT, intel(case["collateral"]), Moment(1000 * case["now"]))
            refused += 1
    report = Evidence(PlatformCode.SEV_SNP, read("amd/reports/milan-v2-debug.bin"))
    items = amd("amd/keys/milan-v2-debug.der", "amd/chains/ask_ark_milan.pem")
    with pytest.raises(DebugRefused):
        verify(report, replace(LENIENT, debug=False), items, Moment(1_666_572_928_000))
    assert refused == 6


@pytest.mark.parametrize(
    "status",
    [
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "Revoked",
    ],
)
def test_status_dropped_each_status_but_up_to_date_is_refused(status: str) -> None:
    """bitrouter 566, automata 132 and 155: the status was not looked at, and Revoked passed."""
    with pytest.raises(AttestationError):
        judged(collateral=INTEL.collateral(levels=[(status, [])]))


def test_revoked_accepted_no_policy_can_accept_it() -> None:
    with pytest.raises(PolicyMalformed, match="revoked"):
        replace(PRODUCTION, tcb_statuses=(TcbStatus.UP_TO_DATE, TcbStatus.REVOKED))


def test_prover_chosen_collateral_it_is_held_against_policy_time_and_role() -> None:
    """dstack 615 (GHSA-m52x-2r7m-5p42): the prover named who gives collateral."""
    stale, old = INTEL.collateral(days=10), INTEL.collateral(number=3)
    forged = INTEL.collateral(tcb_signer=(INTEL.pck_key, (INTEL.pck, INTEL.platform_ca)))
    own = {**INTEL.collateral(), "pck_certificate_chain": b""}
    for collateral, error in (
        (stale, EvidenceExpired),
        (old, TcbRefused),
        (forged, AnchorRefused),
        (own, EvidenceMalformed),
        (intel_pki.SimulatedIntel().collateral(), EvidenceForged),  # another vendor's
    ):
        with pytest.raises(error):
            judged(collateral=collateral)


def test_prover_chosen_collateral_of_another_product_is_refused() -> None:
    quote = read("intel/quotes/tdx-v4-uptodate.bin")
    items = intel("intel/collateral/tdx-90C06F000000-2026-02.json")
    with pytest.raises(EvidenceForged, match=r"[Ff]mspc"):
        verify(Evidence(PlatformCode.TDX, quote), LENIENT, items, Moment(1_772_707_803_000))


def test_no_expiry_for_snp_keys_have_an_end_and_a_list() -> None:
    """dstack 1140: neither dates nor revocation were looked at."""
    late = Moment(2_500_000_000_000)
    with pytest.raises(EvidenceExpired):
        snp.verify_report(AMD.report(), PRODUCTION, AMD.collateral(), late, roots=amd_pki.pinned())
    with pytest.raises(RevocationRefused):
        snp_judged(AMD.report(), amd_crl=AMD.revoked([11]))


def test_vlek_for_vcek_kinds_of_keys_are_not_confused() -> None:
    """TEE-Attestation-Verification 142; and a VCEK that names no chip."""
    vlek = amd_pki.SimulatedAmd(signer="VLEK")
    with pytest.raises(EvidenceForged):
        snp_judged(vlek.report())
    with pytest.raises(EvidenceForged):
        snp_judged(AMD.report(), amd_key=amd_pki.SimulatedAmd(chip=None).key())


def test_signature_unchecked_what_signs_itself_is_refused() -> None:
    """worldcoin 698, cyntrisec 14, cmcp 384."""
    with pytest.raises(EvidenceForged):
        verify(Evidence(PlatformCode.TDX, INTEL.quote()), PRODUCTION, INTEL.collateral(), NOW)
    body = bytearray(INTEL.quote())
    for place in (48 + 136, 48 + 328, 48 + 520):  # MRTD, a register, report data
        body[place] ^= 1
        with pytest.raises(EvidenceForged):
            judged(quote=bytes(body))
        body[place] ^= 1
    judged(quote=bytes(body))


NOW = intel_pki.NOW


def test_stale_replay_a_malleated_copy_is_the_same_evidence() -> None:
    """aptos 20103: what was used is known by what was signed, never by the file."""
    quote = INTEL.quote()
    place = 632 + 4 + 32
    s = int.from_bytes(quote[place : place + 32], "big")
    copies = (
        quote[:place] + (ORDER - s).to_bytes(32, "big") + quote[place + 32 :],
        quote + bytes(40),
    )
    identity = judged(quote=quote)
    for copy in copies:
        assert copy != quote
        assert judged(quote=copy) == identity


def test_stale_replay_an_old_document_of_nitro_is_refused() -> None:
    enclave = p384_pki.chain(5)
    document = p384_pki.nitro_document(enclave)
    for late in (PRODUCTION.age_ms_max + 1, -120_000):
        with pytest.raises(EvidenceExpired, match="check 9"):
            verify_document(
                document,
                PRODUCTION,
                {},
                Moment(p384_pki.NOW + late),
                root=enclave.root_hash,
            )


def test_attestation_bypass_no_flag_makes_production_take_simulated_evidence() -> None:
    """dstack 609 (GHSA-8v4c-4j4w-gwgv) and 563: a setting skipped attestation."""
    key = SimulatedKey(bytes(31) + b"\1", b"k" * 32)
    blob = SimulatedPlatform(measurement=measure(b"code"), key=key).quote(ReportData(bytes(64)))
    for platform in PlatformCode:
        with pytest.raises(AttestationError):
            verify(Evidence(platform, blob), LENIENT, {}, NOW)
        with pytest.raises(AttestationError):
            verify(Evidence(platform, blob), PRODUCTION, INTEL.collateral(), NOW)
    with pytest.raises(PolicyMalformed, match="one pool"):
        replace(PRODUCTION, platforms=(PlatformCode.SIMULATED, *PRODUCTION.platforms))
    with pytest.raises(PolicyMalformed, match="simulated root"):
        PRODUCTION.trusting(key.public_root)
    assert not verify(Evidence(0, blob), DEV.trusting(key.public_root), {}, NOW).hardware


def test_zero_configuration_one_is_asked_for() -> None:
    """dstack 618 and 559: a configuration that was not measured."""
    with pytest.raises(EvidenceMalformed, match="MRCONFIGID"):
        judged(replace(PRODUCTION, config_id=True))


BOMBS = [
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"9" * 10_000,
    json.dumps([{}] * 5000).encode(),
    bytes(262_144),
    b"\xff" * 262_144,
    b"\x9f" * 10_000,
    b"\x30\x80" * 5_000,
    b"\xbf" * 100,
]


@pytest.mark.parametrize("bomb", BOMBS, ids=range(len(BOMBS)))
def test_parser_bombs_are_typed_errors(bomb: bytes) -> None:
    """dstack 566 and 567."""
    for decode in (open_evidence, decode_dstack, decode_ccel):
        with pytest.raises(AttestationError):
            decode(bomb)
    device = p384_pki.chain(5)
    for platform in PlatformCode:
        for name in ("amd_key", "amd_chain", "amd_crl", "event_log", nvidia.CHAIN, "tcb_info"):
            with pytest.raises(AttestationError):
                verify(Evidence(platform, bomb[:16_384]), LENIENT, {name: bomb}, NOW)
    for name in nvidia.COLLATERAL:
        with pytest.raises(AttestationError):
            nvidia.verify_device(
                p384_pki.gpu_report(device),
                LENIENT,
                {nvidia.CHAIN: device.pem, nvidia.VBIOS: bomb, name: bomb},
                NOW,
                rims={},
                root=device.root_hash,
            )


def test_parser_bombs_sizes_are_checked_first() -> None:
    with pytest.raises(AttestationError, match=f"at most {ENVELOPE_BYTES_MAX}"):
        open_evidence(bytes(ENVELOPE_BYTES_MAX + 1))
    for platform in PlatformCode:
        if platform is not PlatformCode.SIMULATED:
            with pytest.raises(EvidenceMalformed, match="check 3"):
                verify(Evidence(platform, bytes(16_385)), LENIENT, {}, NOW)


def test_unbound_gpu_the_nonce_is_what_binds_it() -> None:
    """dstack 751 and 778: evidence of somebody else's GPU. Its nonce is the verdict's report data,
    which the caller compares with the CPU enclave's.
    """
    device = p384_pki.chain(5)
    reports = [p384_pki.gpu_report(device, nonce=bytes([each]) * 32) for each in (1, 2)]
    said = [
        nvidia.verify_device(
            report, LENIENT, {nvidia.CHAIN: device.pem}, NOW, rims={}, root=device.root_hash
        ).report_data
        for report in reports
    ]
    assert said == [b"\1" * 32 + bytes(32), b"\2" * 32 + bytes(32)]
    moved = reports[0][:4] + b"\2" * 32 + reports[0][36:]
    with pytest.raises(EvidenceForged, match="check 6"):
        nvidia.verify_device(
            moved, LENIENT, {nvidia.CHAIN: device.pem}, NOW, rims={}, root=device.root_hash
        )


def test_azures_fleet_below_the_lowest_level_stays_refused() -> None:
    """flashbots overrides the status to let it in; in consensus nothing does."""
    refused = 0
    for case in index()["intel_dcap"]:
        if "azure" in case["quote"]:
            with pytest.raises(EvidenceForged, match="SEPT_VE_DISABLE"):
                verify(
                    Evidence(PlatformCode.TDX, read(case["quote"])),
                    LENIENT,
                    intel(case["collateral"]),
                    Moment(1000 * case["now"]),
                )
            refused += 1
    assert refused == 2


def test_the_library_alone_accepts_what_we_refuse() -> None:
    """Why there is a wrapper: each of these is `UpToDate` by the library."""
    import dcap_qvl  # noqa: PLC0415

    forged = INTEL.collateral(tcb_signer=(INTEL.pck_key, (INTEL.pck, INTEL.platform_ca)))
    perfmon = INTEL.quote(attributes=1 << 28 | 1 << 63)
    junk = INTEL.quote() + b"junk"
    for quote, collateral in (
        (INTEL.quote(), forged),
        (perfmon, INTEL.collateral()),
        (junk, INTEL.collateral()),
    ):
        text = json.dumps({name: item.decode() for name, item in collateral.items()})
        given = dcap_qvl.QuoteCollateralV3.from_json(text)
        seconds = NOW // 1000
        assert dcap_qvl.verify_with_root_ca(quote, given, INTEL.root_der, seconds).status
        with pytest.raises(AttestationError):
            judged(quote=quote, collateral=collateral)


# ---- event logs: dstack 557, 706 and 1320, and the first version's border

SAID = (("app-id", b"\xa1" * 20), ("key-provider", b'{"name":"kms"}'), ("system-ready", b""))


def entry(name: str, payload: bytes) -> dict[str, object]:
    return {
        "imr": 3,
        "event_type": RUNTIME_EVENT,
        "digest": runtime_digest(name, payload).hex(),
        "event": name,
        "event_payload": payload.hex(),
    }


def told(log: list[dict[str, object]]) -> object:
    """The verdict on a quote whose register 3 was extended by what is `SAID`."""
    extended = decode_dstack(json.dumps([entry(*each) for each in SAID]).encode())
    items = {**INTEL.collateral(), "event_log": json.dumps(log).encode()}
    return judged(quote=INTEL.quote(registers=replay(extended)), collateral=items)


def test_writable_log_another_payload_under_the_old_digest_is_refused() -> None:
    """The published client replays the digests that a log gives, and believes the words."""
    log = [entry(*each) for each in SAID]
    told(log)
    log[0] = {**log[0], "event_payload": "00" * 20}
    with pytest.raises(MeasurementRefused, match="not of its payload"):
        told(log)


def test_double_extend_an_event_told_twice_or_not_at_all_is_refused() -> None:
    log = [entry(*each) for each in SAID]
    for changed in ([log[0], *log], log[1:], [log[1], log[0], log[2]], log[:2]):
        with pytest.raises(MeasurementRefused):
            told(changed)


def test_v1_ambiguity_an_event_cannot_be_called_otherwise() -> None:
    log = [entry(*each) for each in SAID]
    log[1] = {**log[1], "event": 'key-provider:{"name"', "event_payload": b'"kms"}'.hex()}
    assert runtime_digest('key-provider:{"name"', b'"kms"}').hex() == log[1]["digest"]
    with pytest.raises(EvidenceMalformed, match="runtime event"):
        told(log)


def test_relabelled_log_a_runtime_event_cannot_hide_as_another() -> None:
    log = [entry(*each) for each in SAID]
    log[0] = {**log[0], "event_type": 13}
    with pytest.raises(EvidenceMalformed, match="cannot be computed"):
        told(log)
