"""The reader of DER and certificates, and of what tools hand around."""

import base64
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from phala.attest import AttestationError, PlatformCode, der, open_evidence, snp
from phala.attest.certs import (
    CHAIN_CERTIFICATES_MAX,
    decode_certificate,
    decode_pem,
    decode_revocation_list,
    encode_pem,
)
from phala.attest.envelopes import certificates
from phala.attest.errors import EvidenceMalformed
from phala.testing.amd_pki import SimulatedAmd
from phala.testing.p384_pki import chain, gpu_report, nitro_document

CHAIN = chain(5)
LEAF = CHAIN.der[0]


def test_a_certificate_is_read_as_the_library_reads_it() -> None:
    ours, theirs = decode_certificate(LEAF), x509.load_der_x509_certificate(LEAF)

    assert ours.tbs == theirs.tbs_certificate_bytes
    assert ours.signature == theirs.signature
    assert ours.serial == theirs.serial_number
    assert ours.not_before == 1000 * int(theirs.not_valid_before_utc.timestamp())
    assert ours.not_after == 1000 * int(theirs.not_valid_after_utc.timestamp())
    assert ours.common_name == "Simulated 0"
    assert list(ours.extensions) == [each.oid.dotted_string for each in theirs.extensions]
    assert [decode_certificate(each).is_ca for each in CHAIN.der] == [False, True, True, True, True]


def test_a_list_is_read_as_the_library_reads_it() -> None:
    data = SimulatedAmd().revoked([3, 500, 2**64])
    ours, theirs = decode_revocation_list(data), x509.load_der_x509_crl(data)

    assert ours.serials == (3, 500, 2**64)
    assert ours.tbs == theirs.tbs_certlist_bytes
    assert theirs.next_update_utc is not None
    assert ours.expires == 1000 * int(theirs.next_update_utc.timestamp())
    assert decode_revocation_list(SimulatedAmd().revoked()).serials == ()


@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4, 100, -1])
def test_cuts_of_a_certificate_are_refused(cut: int) -> None:
    for data in (LEAF[:cut], LEAF + bytes(1)):
        with pytest.raises(EvidenceMalformed, match="check 4"):
            decode_certificate(data)
    with pytest.raises(EvidenceMalformed):
        decode_revocation_list(SimulatedAmd().revoked()[:cut])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("020100", 0),
        ("02017f", 127),
        ("02020080", 128),
        ("0201ff", -1),
        ("0202ff7f", -129),
        ("0203010000", 65536),
    ],
)
def test_integers_have_one_form(text: str, value: int) -> None:
    assert der.integer(der.read(bytes.fromhex(text))) == value


@pytest.mark.parametrize("text", ["0200", "02020001", "0202ffff", "0201", "0401aa", "028101 01"])
def test_other_forms_of_integers_are_refused(text: str) -> None:
    with pytest.raises(EvidenceMalformed):
        der.integer(der.read(bytes.fromhex(text)))


@pytest.mark.parametrize(
    "text",
    ["", "30", "3080", "30810100", "30820001aa", "3084000000 01aa", "3f0100", "3001", "30ff"],
)
def test_other_forms_of_lengths_are_refused(text: str) -> None:
    with pytest.raises(EvidenceMalformed):
        der.read(bytes.fromhex(text))


@pytest.mark.parametrize(
    ("time", "moment"),
    [
        (b"\x17\x0d700101000000Z", 0),
        (b"\x17\x0d491231235959Z", 2_524_607_999_000),
        (b"\x18\x0f20000229120000Z", 951_825_600_000),
        (b"\x18\x0f99991231235959Z", 253_402_300_799_000),
    ],
)
def test_times_are_read(time: bytes, moment: int) -> None:
    assert der.moment(der.read(time)) == moment


@pytest.mark.parametrize(
    "time",
    [
        b"\x17\x0d700101000000z",
        b"\x17\x0b7001010000Z",
        b"\x17\x0d701301000000Z",
        b"\x17\x0d700132000000Z",
        b"\x17\x0d700100000000Z",
        b"\x17\x0d700101240000Z",
        b"\x17\x0d700101006000Z",
        b"\x17\x0d700101000060Z",
        b"\x17\x0d 00101000000Z",
        b"\x17\x0d500101000000Z",  # 1950
        b"\x18\x0f21000229000000Z",
        b"\x18\x0f1969123123595aZ",
        b"\x16\x0d700101000000Z",
    ],
)
def test_other_times_are_refused(time: bytes) -> None:
    with pytest.raises(EvidenceMalformed):
        der.moment(der.read(time))


@pytest.mark.parametrize(
    "subject", ["3000", "30023100", "300431023000", "3009310730050603550403", "30023000", "0500"]
)
def test_a_name_of_another_form_is_no_name(subject: str) -> None:
    certificate = replace(decode_certificate(LEAF), subject=bytes.fromhex(subject))
    with suppress(EvidenceMalformed):
        assert certificate.common_name == ""


def test_identifiers_are_read() -> None:
    assert der.oid(der.read(bytes.fromhex("06082a8648ce3d040303"))) == "1.2.840.10045.4.3.3"
    assert der.oid(der.read(bytes.fromhex("06056781050501"))) == "2.23.133.5.1"
    for text in ("0600", "060180", "06028001", "060281"):
        with pytest.raises(EvidenceMalformed):
            der.oid(der.read(bytes.fromhex(text)))


@given(st.binary(max_size=300))
def test_noise_is_refused_with_a_typed_error(data: bytes) -> None:
    for decode in (decode_certificate, decode_revocation_list, decode_pem):
        with pytest.raises(AttestationError):
            decode(data)
    with suppress(AttestationError):
        open_evidence(data)  # what it takes for evidence is judged elsewhere


def test_a_chain_in_pem_has_nothing_beside_its_certificates() -> None:
    assert [each.der for each in decode_pem(b"\n" + CHAIN.pem + b"\n\0")] == CHAIN.der
    assert certificates(CHAIN.pem) == tuple(CHAIN.der)
    assert certificates(LEAF) == (LEAF,)
    for other in (
        b"",
        b"words" + CHAIN.pem,
        CHAIN.pem + b"words",
        CHAIN.pem.replace(b"CERTIFICATE", b"PUBLIC KEY"),
        CHAIN.pem.replace(b"M", b"!", 1),
        CHAIN.pem * CHAIN_CERTIFICATES_MAX,
    ):
        with pytest.raises(EvidenceMalformed):
            decode_pem(other)


# ---- envelopes

AMD = SimulatedAmd()
VCEK = bytes.fromhex("63da758de6644564adc5f4b93be8accd")
VLEK = bytes.fromhex("a8074bc2a25a483eaae639c045a0b8a1")
ASK = bytes.fromhex("4ab7b379bbac4fe4a02f05aef327c782")
ARK = bytes.fromhex("c0b406a4a803495297433fb6014cd0ae")


def table(entries: dict[bytes, bytes], *, swapped: bool) -> bytes:
    at = 24 * (len(entries) + 1)
    head, body = b"", b""
    for uuid, item in entries.items():
        name = uuid[3::-1] + uuid[5:3:-1] + uuid[7:5:-1] + uuid[8:] if swapped else uuid
        head += name + (at + len(body)).to_bytes(4, "little") + len(item).to_bytes(4, "little")
        body += item
    return head + bytes(24) + body


@pytest.mark.parametrize("swapped", [False, True])
def test_an_extended_report_brings_its_certificates(*, swapped: bool) -> None:
    above = [each.der for each in decode_pem(AMD.chain())]
    items = {VCEK: AMD.key(), ASK: above[0], ARK: above[1], bytes(15) + b"\1": b"more"}
    (opened,) = open_evidence(AMD.report() + table(items, swapped=swapped))

    assert opened.evidence.blob == opened.evidence.blob[: snp.REPORT_BYTES]
    assert opened.collateral[snp.KEY] == items[VCEK]
    assert [each.der for each in decode_pem(opened.collateral[snp.CHAIN])] == above


def test_of_two_keys_in_a_table_the_one_that_signed_is_taken() -> None:
    above = [each.der for each in decode_pem(AMD.chain())]
    vlek = SimulatedAmd(signer="VLEK")
    items = {VCEK: AMD.key(), VLEK: vlek.key(), ASK: above[0], ARK: above[1]}
    for kit, name in ((AMD, VCEK), (vlek, VLEK)):
        (opened,) = open_evidence(kit.report() + table(items, swapped=False))
        assert opened.collateral[snp.KEY] == items[name]


def test_certificates_of_a_table_may_be_in_pem() -> None:
    chain = decode_pem(AMD.chain())
    items = {VCEK: AMD.key(), ASK: chain[0].der, ARK: chain[1].der}
    text = {name: encode_pem([decode_certificate(item)]) for name, item in items.items()}
    report = AMD.report()
    plain, opened = (
        open_evidence(report + table(each, swapped=False))[0] for each in (items, text)
    )
    assert plain == opened
    broken = {**text, VCEK: b"-----BEGIN CERTIFICATE-----"}
    with pytest.raises(EvidenceMalformed):
        open_evidence(AMD.report() + table(broken, swapped=False))


def test_evidence_is_found_in_hex_and_base64() -> None:
    for blob, platform in (
        (AMD.report(), PlatformCode.SEV_SNP),
        (nitro_document(CHAIN), PlatformCode.NITRO),
        (gpu_report(CHAIN), PlatformCode.NVIDIA),
    ):
        base = base64.b64encode(blob).decode()
        plain = base64.urlsafe_b64encode(blob).decode().rstrip("=")
        hexes = (blob.hex(), f"0x{blob.hex()}\n", f"\n{blob.hex().upper()}")
        for text in (*hexes, base, f"{base[:64]}\n{base[64:]}\n", plain):
            (opened,) = open_evidence(text.encode())
            assert (opened.evidence.platform, opened.evidence.blob) == (platform, blob)


def test_azures_evidence_may_be_lists_of_numbers() -> None:
    document = {
        "hcl_report": [72, 67, 76, 65],
        "tpm_quote": {"message": [1], "signature": "02", "pcrs": [[3, 4], "05"]},
        "td_quote": "Bg",
    }
    (opened,) = open_evidence(json.dumps(document).encode())
    assert opened.evidence.blob == b"HCLA"
    assert opened.collateral["tpm_pcrs"] == b"\3\4\5"
    assert opened.collateral["td_quote"] == b"\6"


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        [7],
        [{}],
        [{"evidence": "AA=="}],
        [{"evidence": "!", "certificate": "AA=="}],
        [{"evidence": "AA==", "certificate": "AA=="}] * 33,
        {"quote": 7},
        {"quote": "zz"},
        {"quote": "00", "event_log": []},
        {"quote": "00", "event_log": "\ud800"},
        {"quote": "\ud800"},
        {"evidence": "\ud800", "certificate": ""},
        {"hcl_report": "AA", "tpm_quote": {"pcrs": ["\ud800"]}},
        {"attestation": "00"},
        {"attestation": "0007" + "00" * 300},
        {"attestation": "0003" + "ff" * 300},
        {"hcl_report": "AA"},
        {"hcl_report": [256], "tpm_quote": {}},
        {"hcl_report": [True], "tpm_quote": {}},
        {"hcl_report": "AA", "tpm_quote": []},
        {"hcl_report": "AA", "tpm_quote": {"pcrs": [1]}},
    ],
)
def test_other_json_is_a_clear_error(document: Any) -> None:
    with pytest.raises(AttestationError, match="check 4"):
        open_evidence(json.dumps(document).encode())


def test_parser_bombs_a_list_of_nothings_is_not_read_to_its_end() -> None:
    """Half a megabyte of empty parts would be a quarter of a million values."""
    nothings = b"\x30\x00" * (1 << 18)
    bomb = b"\x30\x83" + len(nothings).to_bytes(3, "big") + nothings
    with pytest.raises(EvidenceMalformed, match="more than 64 parts"):
        decode_revocation_list(bomb)
    assert len(der.sequence(der.read(b"\x30\x81\x80" + nothings[:128]))) == 64
