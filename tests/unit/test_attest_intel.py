"""Genuine Intel evidence is judged as published, and nothing near it is accepted.

A lone clone holds some of the evidence; a folder of vectors (`PHALA_VECTORS`) holds all of it.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

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
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    PlatformRefused,
    TcbRefused,
)
from phala.attest.intel import COLLATERAL, verify_intel
from phala.primitives.types import Moment

COMMITTED = Path(__file__).parents[2] / "vectors" / "tee"
ALL = Path(os.environ.get("PHALA_VECTORS") or COMMITTED.parents[2] / "shared" / "vectors") / "tee"
LENIENT = replace(
    PRODUCTION,
    name="lenient",
    tcb_statuses=tuple(each for each in TcbStatus if each is not TcbStatus.REVOKED),
    evaluation_number_min=0,
    advisories=None,
)
GENUINE = {
    "quote": "intel/quotes/tdx-v4-uptodate.bin",
    "collateral": "intel/collateral/tdx-B0C06F000000-2025-06.json",
    "now": 1751624191,
}


def loaded(case: dict[str, Any], folder: Path) -> tuple[Evidence, dict[str, bytes], Moment]:
    name = case["quote"]
    platform = PlatformCode.SGX if "/sgx-" in name else PlatformCode.TDX
    collateral = {}
    if case["collateral"]:
        document = json.loads((folder / case["collateral"]).read_text())
        collateral = {field: text.encode() for field, text in document.items()}
    now = Moment(1000 * case.get("now", 0))
    return Evidence(platform, (folder / name).read_bytes()), collateral, now


EVIDENCE, ITEMS, NOW = loaded(GENUINE, COMMITTED)


def judged(
    blob: bytes = EVIDENCE.blob,
    items: dict[str, bytes] = ITEMS,
    policy: Policy = PRODUCTION,
    now: Moment = NOW,
) -> Verdict:
    return verify(Evidence(PlatformCode.TDX, blob), policy, items, now)


def check_case(case: dict[str, Any], folder: Path) -> None:
    """The published verdict; where the library said yes to more than we do, our refusal."""
    evidence, collateral, now = loaded(case, folder)
    if not case["ok"]:
        with pytest.raises(AttestationError):
            verify(evidence, LENIENT, collateral, now)
        return
    verdict = verify(evidence, LENIENT, collateral, now)
    status = case["status"].replace("SW", "Sw").replace("And", "")
    assert verdict.tcb_status.name.replace("_", "").replace("AND", "") == status.upper()
    assert list(verdict.advisories) == sorted(case["advisories"])
    assert verdict.hardware
    if verdict.tcb_status is TcbStatus.UP_TO_DATE:
        assert verdict.confidence == 1
        assert verify(evidence, PRODUCTION, collateral, now) == verdict
    else:
        with pytest.raises(TcbRefused, match="check 9"):
            verify(evidence, PRODUCTION, collateral, now)


@pytest.mark.vectors("tee/intel.json")
def test_genuine_evidence_is_judged_as_published(case: dict[str, Any]) -> None:
    check_case(case, COMMITTED)


def test_all_genuine_evidence_is_judged_as_published() -> None:
    if not (ALL / "index.json").exists():
        assert "PHALA_VECTORS" not in os.environ, f"{ALL} holds no index.json"
        pytest.skip("PHALA_VECTORS is not set, and ../shared/vectors is absent")
    cases = json.loads((ALL / "index.json").read_text())["intel_dcap"]

    assert len(cases) >= 30
    for case in cases:
        check_case(case, ALL)


def test_a_genuine_quote_says_what_runs_where() -> None:
    verdict = judged()

    assert (verdict.platform, verdict.anchor) == (PlatformCode.TDX, "Intel SGX Root CA")
    assert verdict.measurements["mrtd"].hex().startswith("91eb2b44d141d4ec")
    assert verdict.report_data.hex().startswith("9a9d48e7f6799642")
    assert verdict.platform_id.hex() == "811dca2a26b952e85bb6448b097ba4fd"
    assert (len(verdict.measurement), verdict.debug) == (48, False)


def test_dev_accepts_no_hardware() -> None:
    with pytest.raises(PlatformRefused, match="check 2"):
        judged(policy=DEV)


def test_2000_alterations_change_nothing_that_is_signed() -> None:
    """Accepted are flips in the unsigned rest alone: newlines and the third certificate of the PEM
    chain, which the pinned root stands in for, and the outer type of that chain."""
    random, genuine = Random("intel"), judged()
    first_pem = EVIDENCE.blob.index(b"-----BEGIN")
    for _ in range(2_000):
        place = random.randrange(len(EVIDENCE.blob))
        blob = bytearray(EVIDENCE.blob)
        blob[place] ^= 1 << random.randrange(8)
        try:
            verdict = judged(bytes(blob))
        except AttestationError:
            continue
        assert place >= first_pem - 6, f"byte {place} counts"
        assert verdict == genuine


def test_cuts_are_refused() -> None:
    whole = 636 + int.from_bytes(EVIDENCE.blob[632:636], "little")
    for size in (0, 1, 47, 48, 631, 632, 635, 636, whole - 1):
        with pytest.raises(EvidenceMalformed, match="check 4"):
            judged(EVIDENCE.blob[:size])


def test_zeros_may_follow_a_quote_and_nothing_else() -> None:
    assert judged(EVIDENCE.blob + bytes(100)) == judged()
    with pytest.raises(EvidenceMalformed, match="something follows"):
        judged(EVIDENCE.blob + b"\0\1")


def test_another_form_of_the_signature_is_the_same_evidence() -> None:
    place = 632 + 4 + 32
    s = int.from_bytes(EVIDENCE.blob[place : place + 32], "big")
    other = EVIDENCE.blob[:place] + (ORDER - s).to_bytes(32, "big") + EVIDENCE.blob[place + 32 :]

    assert judged(other).signed_hash == judged().signed_hash


@pytest.mark.parametrize(
    "name",
    [name for name in COLLATERAL if name != "pck_crl_issuer_chain"],  # taken from the quote
)
def test_collateral_with_a_changed_byte_is_refused(name: str) -> None:
    item = bytearray(ITEMS[name])
    for place in range(40, len(item), len(item) // 7):
        changed = bytes(item[:place]) + bytes([item[place] ^ 1]) + bytes(item[place + 1 :])
        try:
            verdict = judged(items={**ITEMS, name: changed})
        except AttestationError:
            continue
        assert name.endswith("chain"), f"byte {place} of {name} counts"
        assert verdict == judged()


@pytest.mark.parametrize(
    "items",
    [
        {},
        {name: item for name, item in ITEMS.items() if name != "pck_crl"},
        {**ITEMS, "pck_certificate_chain": b""},
        {**ITEMS, "tcb_info": b"\xff"},
        {**ITEMS, "tcb_info": b"{}"},
        {**ITEMS, "tcb_info": b"[" * 10_000},
        {**ITEMS, "tcb_info_issuer_chain": b"noise"},
        {**ITEMS, "tcb_info_issuer_chain": b""},
    ],
)
def test_collateral_of_another_form_is_refused(items: dict[str, bytes]) -> None:
    with pytest.raises(EvidenceMalformed, match="check 5"):
        judged(items=items)


@pytest.mark.parametrize("name", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_a_platform_key_signs_no_tcb_info(name: str) -> None:
    start = EVIDENCE.blob.index(b"-----BEGIN")
    chain = EVIDENCE.blob[start : EVIDENCE.blob.rindex(b"-----END") + 25]

    with pytest.raises(AnchorRefused, match="PCK Certificate"):
        judged(items={**ITEMS, name: chain})


def test_collateral_below_the_evaluation_number_is_refused() -> None:
    with pytest.raises(TcbRefused, match="evaluation number 17"):
        judged(policy=replace(PRODUCTION, evaluation_number_min=18))


@pytest.mark.parametrize("now", [0, 1_500_000_000_000, 1_900_000_000_000, 2**64 - 1])
def test_evidence_outside_its_time_is_refused(now: int) -> None:
    with pytest.raises(EvidenceExpired, match="check 5"):
        judged(now=Moment(now))


def test_evidence_under_another_root_is_refused() -> None:
    with pytest.raises(EvidenceForged):
        verify_intel(PlatformCode.TDX, EVIDENCE.blob, PRODUCTION, ITEMS, NOW, root=b"noise")


def with_attributes(flags: int) -> bytes:
    place = 48 + 120
    return EVIDENCE.blob[:place] + flags.to_bytes(8, "little") + EVIDENCE.blob[place + 8 :]


def test_a_debuggable_td_is_refused() -> None:
    with pytest.raises(DebugRefused, match="check 8"):
        judged(with_attributes(1 | 1 << 28))


@pytest.mark.parametrize("bit", [1, 29, 30, 31, 63])
def test_unusual_attributes_are_refused(bit: int) -> None:
    with pytest.raises(EvidenceMalformed, match="check 7"):
        judged(with_attributes(1 << 28 | 1 << bit))


def test_an_sgx_quote_is_no_tdx_quote() -> None:
    with pytest.raises(EvidenceMalformed, match="check 4"):
        verify(Evidence(PlatformCode.SGX, EVIDENCE.blob), PRODUCTION, ITEMS, NOW)
