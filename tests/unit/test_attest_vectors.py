"""Genuine evidence of AMD, NVIDIA, AWS, Azure and dstack is judged as published.

The folder of vectors (`PHALA_VECTORS`) holds it; `test_attest_intel` judges Intel's.
"""

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.unit.attesting import ALL, LENIENT, ROOT, amd, gpu, index, intel, read

from phala.attest import (
    PRODUCTION,
    AttestationError,
    Evidence,
    Floor,
    PlatformCode,
    TcbStatus,
    nvidia,
    open_evidence,
    snp,
    verify,
    verify_rim,
)
from phala.attest.certs import (
    ROOTS_SEEN,
    check_p256,
    check_p384,
    check_pss,
    decode_certificate,
    decode_pem,
    verify_chain,
)
from phala.attest.errors import (
    DebugRefused,
    EvidenceExpired,
    EvidenceForged,
    MeasurementRefused,
    PlatformRefused,
    RevocationRefused,
    TcbRefused,
)
from phala.attest.eventlog import decode_ccel, decode_dstack, replay
from phala.primitives.types import Moment

COMMITTED = ROOT / "vectors" / "tee"
GPU_NOW = Moment(1_770_000_000_000)


def test_a_lone_clone_judges_a_genuine_report() -> None:
    report = (COMMITTED / "amd" / "genoa-v3-azure.bin").read_bytes()
    items = {
        snp.KEY: (COMMITTED / "amd" / "genoa-v3-azure.der").read_bytes(),
        snp.CHAIN: (COMMITTED / "amd" / "ask_ark_genoa.pem").read_bytes(),
    }
    # AMD's list of that day is not public, and today's floors are above that day's firmware.
    policy = replace(PRODUCTION, revocation_list=False, floors=GENOA_FLOORS)
    verdict = verify(Evidence(PlatformCode.SEV_SNP, report), policy, items, GENOA_NOW)

    assert (verdict.product, verdict.anchor) == ("genoa", "AMD ARK-Genoa")
    for now in (Moment(GENOA_NOW - 10**11), Moment(GENOA_NOW + 10**12)):
        with pytest.raises(EvidenceExpired, match="check 5"):
            verify(Evidence(PlatformCode.SEV_SNP, report), policy, items, now)


def test_a_lone_clone_judges_a_genuine_document() -> None:
    document = (COMMITTED / "nitro" / "dstack-nitro_attestation.cbor").read_bytes()
    evidence = Evidence(PlatformCode.NITRO, document)
    made = Moment(1_766_678_659_346)

    assert verify(evidence, PRODUCTION, {}, made).measurements["pcr0"].hex().startswith("eb7d0dab")
    with pytest.raises(EvidenceExpired, match="check 9"):
        verify(evidence, PRODUCTION, {}, Moment(made + 10**9))


def test_all_snp_reports_are_judged_as_published() -> None:
    cases = index()["amd_snp"]

    assert len(cases) >= 9
    for case in cases:
        if case["report"] is None:
            chain = decode_pem(read(case["chain"]))
            key = decode_certificate(read(case["key"]))
            root = snp.ROOTS[case["product"]]
            verify_chain((key, *chain), check_pss, key.not_before, anchor=root, vendor="AMD")
            continue
        evidence = Evidence(PlatformCode.SEV_SNP, read(case["report"]))
        collateral = amd(case["key"], case["chain"])
        now = Moment(1000 * case.get("now", 1_683_141_823))
        if case["ok"]:
            check_snp(evidence, collateral, now, case)
            continue
        with pytest.raises(AttestationError):
            verify(evidence, LENIENT, collateral, now)


def check_snp(
    evidence: Evidence, collateral: dict[str, bytes], now: Moment, case: dict[str, Any]
) -> None:
    verdict = verify(evidence, LENIENT, collateral, now)

    assert verdict.hardware
    assert verdict.product == case["product"].lower()
    assert verdict.debug == case["debug"]
    assert verdict.measurement.hex() == case["measurement"]
    assert verdict.report_data.hex() == case["report_data"]
    assert verdict.svn.items() >= case["reported_tcb"].items()
    assert (verdict.platform_id == b"") == case["chip_id_masked"]
    assert int.from_bytes(verdict.measurements["policy"], "little") == int(case["policy"], 16)


def test_reports_without_their_key_can_be_read() -> None:
    for version in (3, 5):
        report = snp.decode_report(read(f"amd/reports/parse-only-reportV{version}.bin"))
        assert report.version == version


def test_a_vcek_altered_by_hand_is_refused() -> None:
    key = decode_certificate(read("amd/keys/invalid-vcek-legacy.der"))
    chain = decode_pem(read("amd/chains/ask_ark_milan.pem"))
    with pytest.raises(EvidenceForged, match="not signed by its issuer"):
        verify_chain(
            (key, *chain), check_pss, key.not_before, anchor=snp.ROOTS["Milan"], vendor="AMD"
        )


def test_each_chain_of_amd_ends_in_the_pinned_root_of_its_product() -> None:
    index()
    for path in sorted((ALL / "amd" / "chains").iterdir()):
        chain = decode_pem(path.read_bytes())
        line = chain[1].common_name.removeprefix("ARK-")
        now = chain[0].not_before
        verify_chain(chain, check_pss, now, anchor=snp.ROOTS[line], vendor="AMD")


def test_each_root_signs_itself() -> None:
    index()
    roots = [
        *(decode_pem(path.read_bytes())[-1] for path in (ALL / "amd" / "chains").iterdir()),
        decode_pem(read("nvidia/device_root.pem"))[0],
        decode_pem(read("nvidia/rim_root.pem"))[0],
        decode_pem(read("nitro/root_g1.pem"))[0],
        decode_certificate(read("intel/intel_sgx_root_ca.der")),
    ]
    for root in roots:
        scheme = {"ARK": check_pss, "Int": check_p256}.get(root.common_name[:3], check_p384)
        scheme(root, root, root.common_name)
    assert {hashlib.sha256(root.der).hexdigest() for root in roots} == set(ROOTS_SEEN)


def test_all_nvidia_evidence_is_judged_as_published() -> None:
    for case in index()["nvidia"]:
        if "rim" in case and "ok" in case:
            check_rim(case)
        elif "rim" in case:
            check_match(case)
        else:
            blob, collateral = gpu(case)
            verdict = verify(Evidence(PlatformCode.NVIDIA, blob), LENIENT, collateral, GPU_NOW)
            assert verdict.report_data == bytes.fromhex(case["nonce"]) + bytes(32)
            assert verdict.tcb_status is TcbStatus.NONE  # no manifest, no word of the vendor's
            if "driver" in case:
                assert verdict.measurements["driver"].decode() == case["driver"]


def check_rim(case: dict[str, Any]) -> None:
    if not case["ok"]:
        check, what = (6, "signed by its certificate") if "sig" in case["error"] else (6, "digest")
        with pytest.raises(EvidenceForged, match=what) as caught:
            verify_rim(read(case["rim"]))
        assert caught.value.check == check
        return
    rim = verify_rim(read(case["rim"]))
    assert (rim.version, len(rim.measurements)) == (case["version"], case["active"])


def check_match(case: dict[str, Any]) -> None:
    blob, collateral = gpu(case)
    rim = verify_rim(read(case["rim"]))
    good, bad = nvidia.compare(nvidia.decode_report(blob), rim)
    assert (len(good), list(bad)) == (case["matched"], case["mismatched"])

    listed = replace(LENIENT, rims=(bytes(rim.digest),))  # their signers expired
    given = {**collateral, nvidia.VBIOS: read(case["rim"])}
    evidence = Evidence(PlatformCode.NVIDIA, blob)
    if bad:
        with pytest.raises(MeasurementRefused, match="check 9"):
            verify(evidence, listed, given, GPU_NOW)
        return
    verdict = verify(evidence, listed, given, GPU_NOW, rims={bytes(rim.digest): rim})
    switch = verdict.product == "nvidia-switch"
    assert verdict.tcb_status is (TcbStatus.UP_TO_DATE if switch else TcbStatus.NONE)


def test_all_nitro_documents_are_judged_as_published() -> None:
    for case in index()["nitro"]:
        evidence = Evidence(PlatformCode.NITRO, read(case["doc"]))
        now = Moment(case["time_ms"])
        verdict = verify(evidence, LENIENT, {}, now)
        assert verdict.debug == case["debug"]
        assert verdict.measurements["pcr0"].hex() == case["pcr0"]
        assert verdict.measurements.get("nonce", b"").hex() == case["nonce"]
        assert verdict.issued == now
        said = bytes.fromhex(case["user_data"])
        assert len(said) > 64 or verdict.report_data == said.ljust(64, b"\0")
        if case["debug"]:
            with pytest.raises(DebugRefused, match="check 8"):
                verify(evidence, PRODUCTION, {}, now)
        else:
            assert verify(evidence, PRODUCTION, {}, now) == verdict


def azure() -> tuple[Evidence, dict[str, bytes], Moment]:
    (opened,) = open_evidence(read("azure/snp-milan-v3.json"))
    collateral = {**opened.collateral, snp.CHAIN: read("amd/chains/ask_ark_milan.pem")}
    begin = decode_certificate(collateral[snp.KEY]).not_before
    return opened.evidence, collateral, Moment(begin + 86_400_000)


def test_azure_evidence_is_judged_as_published() -> None:
    evidence, collateral, now = azure()
    verdict = verify(evidence, LENIENT, collateral, now)

    assert verdict.platform is PlatformCode.AZURE_SNP
    assert verdict.report_data.hex().startswith("982f5c6e45df0ed3")
    assert verdict.measurements["pcr0"].hex().startswith("84275b2f4312cd4f")
    assert "Microsoft" in verdict.anchor


def test_a_boot_log_of_google_ends_in_the_registers() -> None:
    (case, _) = index()["rtmr_replay"]
    collateral = intel("intel/collateral/tdx-00806F050000-2025-10.json")
    collateral["ccel"] = read(case["ccel"])

    verdict = verify(
        Evidence(PlatformCode.TDX, read(case["quote"])),
        PRODUCTION,
        collateral,
        Moment(1_761_920_231_000),
    )

    events = decode_ccel(read(case["ccel"]))
    assert len(events) == case["events"]
    assert replay(events) == tuple(verdict.measurements[f"rtmr{number}"] for number in range(4))
    assert any("43 events" in note for note in verdict.notes)


def test_a_boot_log_may_end_with_its_last_event() -> None:
    """What the table has behind that is padding, which tools cut; the last may be of no action."""
    whole = read("ccel/ccel_data.dat")
    cut, events = whole.rstrip(b"\xff"), decode_ccel(whole)
    nothing = bytes(4) + b"\3\0\0\0" + b"\1\0\0\0" + b"\x0c\0" + bytes(48) + b"\1\0\0\0x"

    assert decode_ccel(cut) == decode_ccel(cut + nothing) == events
    with pytest.raises(AttestationError, match="ends outside"):
        decode_ccel(cut[:-1])


def test_a_dstack_quote_says_which_application_runs() -> None:
    (_, case) = index()["rtmr_replay"]
    (opened,) = open_evidence(read(case["json"]))
    collateral = intel("intel/collateral/tdx-90C06F000000-2026-02.json")

    verdict = verify(
        opened.evidence,
        PRODUCTION,
        {**collateral, **opened.collateral},
        Moment(1_772_707_803_000),
    )

    assert len(decode_dstack(opened.collateral["event_log"])) == case["events"]
    assert verdict.measurements["app-id"].hex().startswith("3763bc34552cf3a2")
    assert "LIUM_MINER_HOTKEY" not in verdict.measurements


def test_dstack_attestations_are_taken_apart() -> None:
    (sgx,) = open_evidence(read("dstack/attestation.bin"))
    (lite,) = open_evidence(read("dstack/tdx-lite-attestation.json"))
    (sev,) = open_evidence(read("dstack/sev-snp-attestation.json"))

    assert len(decode_dstack(sgx.collateral["event_log"])) == 33
    assert len(decode_dstack(lite.collateral["event_log"])) == 9  # register 3 alone
    assert sev.evidence.blob == read("amd/reports/milan-v3-dstack.bin")
    assert decode_certificate(sev.collateral[snp.KEY]).common_name == "SEV-VCEK"


def test_every_file_of_evidence_is_found_out() -> None:
    index()
    folders = ("intel/quotes", "amd/reports", "nitro")
    for folder in folders:
        for path in sorted((ALL / folder).iterdir()):
            if path.suffix != ".pem":
                (opened,) = open_evidence(path.read_bytes())
                assert opened.evidence.blob == path.read_bytes()
    assert len(open_evidence(read("nvidia/multi_gpu_hopper.json"))) == 4


def test_anything_else_is_a_clear_error() -> None:
    index()
    for name in ("MANIFEST.md", "index.json", "nvidia/rim_root.pem", "ccel/ccel_data.dat"):
        with pytest.raises(AttestationError, match="no evidence of a known form"):
            open_evidence(read(name))


# ---- what production thinks of them

GENOA = ("amd/keys/genoa-v3-azure.der", "amd/chains/ask_ark_genoa.pem")
GENOA_NOW = Moment(1_740_277_308_000)
GENOA_FLOORS = (Floor("genoa", bl=9, snp=23, ucode=84),)  # AMD-SB-3019, of that month


def test_todays_floors_refuse_the_firmware_of_early_2025() -> None:
    evidence = Evidence(PlatformCode.SEV_SNP, read("amd/reports/genoa-v3-azure.bin"))
    with pytest.raises(TcbRefused, match=r"check 9.*snp 23.*asks for 27"):
        verify(evidence, replace(PRODUCTION, revocation_list=False), amd(*GENOA), GENOA_NOW)


def test_production_asks_for_the_revocation_list() -> None:
    evidence = Evidence(PlatformCode.SEV_SNP, read("amd/reports/genoa-v3-azure.bin"))
    with pytest.raises(RevocationRefused, match=r"check 5.*amd_crl"):
        verify(evidence, PRODUCTION, amd(*GENOA), GENOA_NOW)

    policy = replace(PRODUCTION, revocation_list=False, floors=GENOA_FLOORS)
    verdict = verify(evidence, policy, amd(*GENOA), GENOA_NOW)
    assert (verdict.tcb_status, verdict.confidence) == (TcbStatus.UP_TO_DATE, 1)


def test_production_excludes_milan() -> None:
    evidence = Evidence(PlatformCode.SEV_SNP, read("amd/reports/milan-v3-dstack.bin"))
    collateral = amd("amd/keys/milan-v3-dstack.der", "amd/chains/ask_ark_milan.pem")
    now = Moment(1_784_250_304_000)
    floors = (Floor("milan", bl=4, snp=23, ucode=213),)
    policy = replace(PRODUCTION, revocation_list=False, floors=floors)

    with pytest.raises(PlatformRefused, match=r"check 10.*milan"):
        verify(evidence, policy, collateral, now)
    verdict = verify(evidence, replace(policy, products_excluded=()), collateral, now)
    assert verdict.confidence == 5  # by opt-in alone, and never better


def test_a_floor_is_held_against_genuine_firmware() -> None:
    evidence = Evidence(PlatformCode.SEV_SNP, read("amd/reports/genoa-v3-azure.bin"))
    policy = replace(PRODUCTION, revocation_list=False, floors=(Floor("genoa", ucode=85),))
    with pytest.raises(TcbRefused, match=r"check 9.*ucode 84"):
        verify(evidence, policy, amd(*GENOA), GENOA_NOW)


def test_a_platform_is_blocked_by_its_id() -> None:
    evidence = Evidence(PlatformCode.SEV_SNP, read("amd/reports/genoa-v3-azure.bin"))
    chip = verify(evidence, LENIENT, amd(*GENOA), GENOA_NOW).platform_id
    with pytest.raises(RevocationRefused, match="check 11"):
        verify(evidence, replace(LENIENT, blocked=(chip,)), amd(*GENOA), GENOA_NOW)


def test_a_tpm_quote_of_another_time_or_machine_is_refused() -> None:
    evidence, collateral, now = azure()
    for name in ("tpm_quote", "tpm_signature", "tpm_pcrs"):
        item = collateral[name]
        for changed in (item[:-1], item + b"\0", item[:-1] + bytes([item[-1] ^ 1]), b""):
            with pytest.raises(AttestationError):
                verify(evidence, LENIENT, {**collateral, name: changed}, now)
    text = bytearray(evidence.blob)
    text[0x4D4 + 200] ^= 1
    with pytest.raises(EvidenceForged, match="does not vouch"):
        verify(Evidence(PlatformCode.AZURE_SNP, bytes(text)), LENIENT, collateral, now)


def test_json_of_dstack_may_lie_of_its_log() -> None:
    (opened,) = open_evidence(read("dstack/quote-report.json"))
    collateral = intel("intel/collateral/tdx-90C06F000000-2026-02.json")
    log = json.loads(opened.collateral["event_log"])
    log[21]["event_payload"] = "00" * 20

    with pytest.raises(MeasurementRefused, match="app-id"):
        verify(
            opened.evidence,
            PRODUCTION,
            {**collateral, "event_log": json.dumps(log).encode()},
            Moment(1_772_707_803_000),
        )
