"""Nitro documents, by a vendor shaped like AWS; and the reader of CBOR under them."""

from dataclasses import replace
from typing import Any

import pytest

from phala.attest import PRODUCTION, AttestationError, Evidence, PlatformCode, Policy, Verdict, cbor
from phala.attest.errors import (
    AnchorRefused,
    DebugRefused,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
)
from phala.attest.nitro import verify_document
from phala.attest.verify import check_verdict, verify
from phala.primitives.types import Moment
from phala.testing.p384_pki import NOW, chain, encode_cbor, nitro_document

ENCLAVE = chain(5)


def judged(blob: bytes, policy: Policy = PRODUCTION, now: Moment = NOW) -> Verdict:
    verdict = verify_document(blob, policy, {}, now, root=ENCLAVE.root_hash)
    check_verdict(verdict, policy)
    return verdict


def test_a_document_says_what_runs() -> None:
    verdict = judged(nitro_document(ENCLAVE))
    assert verdict.report_data == b"said".ljust(64, b"\0")
    assert (verdict.issued, verdict.platform_id, verdict.confidence) == (NOW, b"i-0", 3)


def test_the_tag_before_the_message_is_optional() -> None:
    blob = nitro_document(ENCLAVE)
    assert judged(b"\xd2" + blob) == judged(blob)
    for tagged in (b"\xd2\xd2" + blob, b"\xd1" + blob):
        with pytest.raises(EvidenceMalformed):
            judged(tagged)


def test_the_root_is_pinned() -> None:
    with pytest.raises(AnchorRefused, match="check 5"):
        verify(Evidence(PlatformCode.NITRO, nitro_document(ENCLAVE)), PRODUCTION, {}, NOW)


def test_debug_mode_is_refused() -> None:
    pcrs: dict[int | str, Any] = {index: bytes([index + 1]) * 48 for index in range(16)}
    assert not judged(nitro_document(ENCLAVE, changes={"pcrs": pcrs})).debug
    for zero in (0, 1, 2):
        with pytest.raises(DebugRefused, match="check 8"):
            judged(nitro_document(ENCLAVE, changes={"pcrs": {**pcrs, zero: bytes(48)}}))


@pytest.mark.parametrize("late_ms", [300_001, 10**10, -60_001, -(10**10)])
def test_a_document_of_another_time_is_refused(late_ms: int) -> None:
    with pytest.raises(EvidenceExpired, match="check 9"):
        judged(nitro_document(ENCLAVE), now=Moment(NOW + late_ms))


def test_a_long_statement_is_hashed() -> None:
    long = judged(nitro_document(ENCLAVE, changes={"user_data": b"x" * 65}))
    assert any("SHA-512" in note for note in long.notes)


CHANGES: list[dict[int | str, Any]] = [
    {"digest": "SHA256"},
    {"timestamp": 0},
    {"timestamp": "1"},
    {"timestamp": 2**63},
    {"module_id": ""},
    {"module_id": b"i"},
    {"pcrs": {}},
    {"pcrs": {0: bytes(48), 1: bytes(48), 2: bytes(32)}},
    {"pcrs": {0: bytes(48), 1: bytes(48), 40: bytes(48), 2: bytes(48)}},
    {"pcrs": [bytes(48)] * 3},
    {"cabundle": []},
    {"cabundle": [1]},
    {"cabundle": b""},
    {"certificate": b"noise"},
    {"certificate": None},
    {"user_data": b"x" * 513},
    {"nonce": 7},
    {"more": 1},
    {1: 2},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_a_signed_document_of_another_form_is_refused(changes: dict[int | str, Any]) -> None:
    with pytest.raises(EvidenceMalformed, match="check 4"):
        judged(nitro_document(ENCLAVE, changes=changes))


def test_another_algorithm_is_refused() -> None:
    with pytest.raises(EvidenceMalformed, match="ES384"):
        judged(nitro_document(ENCLAVE, protected=bytes.fromhex("a1013823")))


def test_the_same_message_in_other_lengths_is_refused() -> None:
    """No signature covers how the four parts are laid out."""
    blob = nitro_document(ENCLAVE)
    head, payload = blob[:7], blob[10:-98]
    assert blob == head + b"\x59" + len(payload).to_bytes(2, "big") + payload + blob[-98:]
    longer = b"\x5a" + len(payload).to_bytes(4, "big") + payload
    for other in (
        head + longer + blob[-98:],
        blob[:-98] + b"\x59\0\x60" + blob[-96:],
        b"\x9f" + blob[1:] + b"\xff",
        b"\x98\4" + blob[1:],
        blob[:1] + b"\x58\4" + blob[2:],
        blob[:6] + b"\xbf\xff" + blob[7:],
        blob[:6] + b"\xb8\0" + blob[7:],
    ):
        with pytest.raises(EvidenceMalformed, match="another form than the shortest"):
            judged(other)


def test_another_enclaves_signature_is_refused() -> None:
    other = chain.__wrapped__(5)
    blob = nitro_document(ENCLAVE)
    forged = blob[:-96] + other.sign(b"something")
    with pytest.raises(EvidenceForged, match="check 6"):
        judged(forged)


def test_it_takes_no_collateral() -> None:
    with pytest.raises(EvidenceMalformed, match="takes none"):
        verify_document(
            nitro_document(ENCLAVE), PRODUCTION, {"a": b""}, NOW, root=ENCLAVE.root_hash
        )


def test_an_old_document_is_accepted_where_the_policy_says_so() -> None:
    patient = replace(PRODUCTION, age_ms_max=10**11)
    assert judged(nitro_document(ENCLAVE), patient, Moment(NOW + 10**10)).issued == NOW


# ---- CBOR


@pytest.mark.parametrize(
    "value",
    [0, 23, 24, 255, 256, 2**32, -1, -35, b"", b"x" * 300, "text", None, [1, [2]], {1: "a"}],
)
def test_items_are_read_as_written(value: Any) -> None:
    assert cbor.decode(encode_cbor(value)) == value


def test_items_without_a_count_are_read() -> None:
    assert cbor.decode(bytes.fromhex("bf0102ff")) == {1: 2}
    assert cbor.decode(bytes.fromhex("9f0102ff")) == [1, 2]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "18",
        "1c",
        "1f",
        "41",
        "5f4100ff",  # a string in pieces
        "61ff",  # no UTF-8
        "81",
        "9f01",
        "a101",
        "a2010101 02",  # a key twice
        "a1f401",  # a boolean for a key
        "a14001",
        "bf01ff",
        "818181818181",  # deep
        "c000",  # a date
        "f97e00",  # a float
        "f818",
        "ff",
        "0000",
        "9a7fffffff",
        "5bffffffffffffffff",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(AttestationError, match="check 4"):
        cbor.decode(bytes.fromhex(text))


def test_a_long_array_is_refused() -> None:
    with pytest.raises(AttestationError, match="more than"):
        cbor.decode(b"\x9f" + bytes(400) + b"\xff")
