"""Collateral is judged by itself: the vendor's signatures, and nothing else, make it count."""

from random import Random

import pytest
from cryptography.hazmat.primitives import hashes
from tests.unit.attesting import ROOT, index, intel

from phala.attest import (
    AttestationError,
    PlatformCode,
    verify_amd_revocations,
    verify_intel_collateral,
)
from phala.attest.certs import decode_certificate, spki_hash
from phala.attest.errors import (
    AnchorRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    RevocationRefused,
)
from phala.primitives.types import Moment
from phala.testing import amd_pki
from phala.testing.intel_pki import NOW, SimulatedIntel
from phala.testing.x509 import name, revocation_list

INTEL = SimulatedIntel()


def pin(vendor: SimulatedIntel) -> str:
    return spki_hash(decode_certificate(vendor.root_der))


def judged(items: dict[str, bytes], now: Moment = NOW) -> object:
    return verify_intel_collateral(items, now, root=pin(INTEL))


def test_all_genuine_collateral_counts_in_its_time() -> None:
    cases = {case["collateral"]: case["now"] for case in index()["intel_dcap"] if case["ok"]}

    assert len(cases) >= 7
    for file, now in cases.items():
        found = verify_intel_collateral(intel(file), Moment(1000 * now))
        assert found.product == file.split("-")[1].lower()
        assert found.platform.word == file.split("/")[-1].split("-")[0]
        assert found.number in (17, 18)
        for late in (found.issued - 1, found.expires + 1):
            with pytest.raises(EvidenceExpired, match="check 5"):
                verify_intel_collateral(intel(file), Moment(late))


@pytest.mark.parametrize("tdx", [True, False])
def test_it_says_what_it_is_of(*, tdx: bool) -> None:
    vendor = SimulatedIntel(tdx=tdx)
    found = verify_intel_collateral(vendor.collateral(number=31), NOW, root=pin(vendor))

    assert found.platform is (PlatformCode.TDX if tdx else PlatformCode.SGX)
    assert (found.product, found.number) == ("ffffff000000", 31)


def test_anothers_is_refused() -> None:
    with pytest.raises(AnchorRefused, match="root is"):
        verify_intel_collateral(INTEL.collateral(), NOW)
    other = SimulatedIntel().collateral()
    for item in sorted(set(other) - {"tcb_info", "qe_identity"}):  # of one text in both
        with pytest.raises(AttestationError):
            judged({**INTEL.collateral(), item: other[item]})


def test_a_platforms_key_signs_no_tcb_info() -> None:
    forged = INTEL.collateral(tcb_signer=(INTEL.pck_key, (INTEL.pck,)))
    with pytest.raises(AttestationError):
        judged(forged)
    impostor = INTEL.collateral(tcb_signer=(INTEL.platform_ca_key, (INTEL.platform_ca,)))
    with pytest.raises(AnchorRefused, match="check 2"):
        judged(impostor)


def test_a_text_of_another_signature_is_refused() -> None:
    items, old = INTEL.collateral(), INTEL.collateral(number=1)
    with pytest.raises(EvidenceForged, match="check 3"):
        judged({**items, "tcb_info": old["tcb_info"]})
    with pytest.raises(EvidenceForged, match="check 3"):
        judged({**items, "qe_identity_signature": items["tcb_info_signature"]})


def test_parts_of_two_kinds_are_refused() -> None:
    sgx = SimulatedIntel(tdx=False, root_key=INTEL.root_key, tcb_key=INTEL.tcb_key)
    mixed = {**INTEL.collateral(), "tcb_info": sgx.collateral()["tcb_info"]}
    mixed["tcb_info_signature"] = sgx.collateral()["tcb_info_signature"]
    with pytest.raises(EvidenceMalformed, match="'SGX' and 'TD_QE'"):
        judged(mixed)


def test_a_revoked_signer_is_refused() -> None:
    for certificate in (INTEL.tcb, INTEL.platform_ca):
        listed = revocation_list(
            name("Simulated Root CA"),
            INTEL.root_key,
            [certificate.serial_number],
            algorithm=hashes.SHA256(),
        )
        with pytest.raises(RevocationRefused, match="check 4"):
            judged({**INTEL.collateral(), "root_ca_crl": listed.hex().encode()})


@pytest.mark.parametrize("change", [{"more": b""}, {"tcb_info": bytes(70_000)}, {"pck_crl": b"xy"}])
def test_other_forms_are_refused(change: dict[str, bytes]) -> None:
    with pytest.raises(EvidenceMalformed):
        judged({**INTEL.collateral(), **change})
    with pytest.raises(EvidenceMalformed, match="check 1"):
        judged({})


def test_every_item_counts() -> None:
    """300 bits flipped in each: refused, or read as the same; hex has two forms, PEM many."""
    random, items = Random("collateral"), INTEL.collateral()
    genuine = judged(items)
    for item, data in items.items():
        for _ in range(300):
            changed = bytearray(data)
            changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
            try:
                found = judged({**items, item: bytes(changed)})
            except AttestationError:
                continue
            assert found == genuine
            assert item not in ("tcb_info", "qe_identity")


# ---- AMD's list

AMD = amd_pki.SimulatedAmd()


def test_amds_list_says_what_is_revoked() -> None:
    listed = verify_amd_revocations(AMD.revoked([11, 12]), AMD.chain(), NOW, roots=amd_pki.pinned())
    assert (listed.line, listed.serials) == ("Genoa", (11, 12))


def test_another_list_or_root_is_refused() -> None:
    with pytest.raises(AnchorRefused):
        verify_amd_revocations(AMD.revoked(), AMD.chain(), NOW)
    with pytest.raises(EvidenceForged, match="another issuer"):
        verify_amd_revocations(
            amd_pki.SimulatedAmd("Turin").revoked(), AMD.chain(), NOW, roots=amd_pki.pinned()
        )
    with pytest.raises(EvidenceExpired):
        verify_amd_revocations(AMD.revoked(days=9), AMD.chain(), NOW, roots=amd_pki.pinned())
    with pytest.raises(AttestationError):
        verify_amd_revocations(
            AMD.revoked(), (ROOT / "vectors/tee/amd/ask_ark_genoa.pem").read_bytes(), NOW
        )
    changed = bytearray(AMD.revoked([11]))
    changed[80] ^= 1
    with pytest.raises(AttestationError):
        verify_amd_revocations(bytes(changed), AMD.chain(), NOW, roots=amd_pki.pinned())
