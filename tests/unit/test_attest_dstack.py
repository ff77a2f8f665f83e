"""dstack's attestations of version 1: MessagePack, for each platform, and in its certificates."""

import json
import struct
from typing import Any

import pytest
from tests.unit.attesting import LENIENT

from phala.attest import AttestationError, PlatformCode, intel, msgpack, open_evidence, ratls, snp
from phala.attest.dstack import read_dstack
from phala.attest.errors import EvidenceMalformed, MeasurementRefused
from phala.attest.eventlog import RUNTIME_EVENT, Event, decode_dstack, replay, runtime_digest
from phala.attest.intel import verify_intel
from phala.testing import amd_pki, p384_pki
from phala.testing import ratls as kit
from phala.testing.intel_pki import NOW, SimulatedIntel

INTEL, AMD = SimulatedIntel(), amd_pki.SimulatedAmd()
NITRO = p384_pki.nitro_document(p384_pki.chain(5))
NAMES = ("app-id", "system-ready")
BOOT = [
    Event(register, bytes([register + 7]) * 48, "", b"", computed=False) for register in range(3)
]
RUNTIME = [Event(3, runtime_digest(name, b"\1"), name, b"\1", computed=True) for name in NAMES]


def packed(value: Any) -> bytes:
    """MessagePack as dstack's library writes it: what is a Python list of numbers is an array."""
    match value:
        case bool():
            return b"\xc3" if value else b"\xc2"
        case None:
            return b"\xc0"
        case int():
            small = value.to_bytes(1, "big") if value < 0x80 else b"\xcc" + bytes([value & 0xFF])
            return small if value < 0x100 else b"\xce" + struct.pack(">I", value)
        case str():
            return b"\xd9" + bytes([len(value)]) + value.encode()
        case bytes():
            return b"\xc4" + bytes([len(value)]) + value
        case list():
            head = b"\xdc" + struct.pack(">H", len(value))
            return head + b"".join(packed(each) for each in value)
        case dict():
            parts = [packed(name) + packed(each) for name, each in value.items()]
            return bytes([0x80 | len(parts)]) + b"".join(parts)
        case _:
            raise TypeError(value)


def attestation(kind: str, **data: Any) -> bytes:
    stack = {"kind": "dstack", "data": {"report_data": [0] * 64, "config": "{}"}}
    platform = {"kind": kind, "data": data}
    whole = packed({"version": 1, "platform": platform, "stack": stack})
    return whole.replace(b"\xd9\x07version", b"\xa7version", 1)


def told(events: list[Event], *, version: int | None = None) -> list[dict[str, Any]]:
    return [
        {
            "imr": each.register,
            "event_type": RUNTIME_EVENT if each.computed else 10,
            "digest": b"" if each.computed else each.digest,
            "event": each.name,
            "event_payload": each.payload,
            **({} if version is None else {"version": version}),
        }
        for each in events
    ]


def tdx(events: list[dict[str, Any]], registers: tuple[bytes, ...], kind: str = "tdx") -> bytes:
    quote = INTEL.quote(registers=registers)
    return attestation(kind, quote=list(quote), event_log=events)


@pytest.mark.parametrize("kind", ["tdx", "gcp-tdx"])
def test_a_quote_and_its_log_are_judged(kind: str) -> None:
    events = BOOT + RUNTIME
    (opened,) = open_evidence(tdx(told(events), replay(events), kind))

    assert (opened.form, opened.evidence.platform) == ("dstack attestation", PlatformCode.TDX)
    items = {**INTEL.collateral(), **opened.collateral}
    verdict = verify_intel(
        PlatformCode.TDX, opened.evidence.blob, LENIENT, items, NOW, root=INTEL.root_der
    )
    assert verdict.measurements["app-id"] == b"\1"
    assert len(decode_dstack(opened.collateral[intel.EVENT_LOG])) == 5


def test_it_is_found_in_json_and_hex_too() -> None:
    data = tdx(told(RUNTIME), replay(RUNTIME))
    for given in (json.dumps({"attestation": data.hex()}).encode(), data.hex().encode()):
        assert open_evidence(given) == open_evidence(data)


def test_a_log_of_picked_boot_events_is_held_by_register_3_alone() -> None:
    """What a certificate carries: of register 0 a part, of 1 and 2 nothing."""
    registers = replay(BOOT + RUNTIME)
    for boot in (BOOT[:1], [BOOT[0], BOOT[2]], [Event(0, b"\2" * 48, "acpi-rsdp", b"", False)]):  # noqa: FBT003
        _, items = read_dstack(tdx(told(boot + RUNTIME), registers))
        assert [each.register for each in decode_dstack(items[intel.EVENT_LOG])] == [3, 3]


def test_a_lie_of_the_log_is_refused() -> None:
    lie = [{**each, "event_payload": b"\2"} for each in told(RUNTIME)]
    evidence, items = read_dstack(tdx(lie, replay(RUNTIME)))
    with pytest.raises(MeasurementRefused, match="RTMR3"):
        verify_intel(
            PlatformCode.TDX,
            evidence.blob,
            LENIENT,
            {**INTEL.collateral(), **items},
            NOW,
            root=INTEL.root_der,
        )


def test_an_event_in_register_3_that_no_name_explains_is_not_dropped() -> None:
    odd = [*told(RUNTIME), {**told(BOOT)[0], "imr": 3, "event": "x"}]
    _, items = read_dstack(tdx(odd, replay(RUNTIME)))
    with pytest.raises(EvidenceMalformed, match="RTMR3"):
        decode_dstack(items[intel.EVENT_LOG])


def test_the_second_version_of_events_is_computed_as_such() -> None:
    events = [
        Event(3, runtime_digest(name, b"\1", version=2), name, b"\1", computed=True)
        for name in NAMES
    ]
    _, items = read_dstack(tdx(told(events, version=2), replay(events)))
    assert decode_dstack(items[intel.EVENT_LOG]) == tuple(events)


def test_other_platforms_are_taken_apart() -> None:
    (nitro,) = open_evidence(attestation("nitro-enclave", nsm_quote=list(NITRO)))
    assert (nitro.evidence.platform, nitro.evidence.blob) == (PlatformCode.NITRO, NITRO)

    chain = [list(AMD.key()), list(AMD.chain())]
    report = AMD.report()
    for given in (chain, chain[::-1]):
        data = attestation("sev-snp", report=list(report), cert_chain=given, mr_config="{}")
        (sev,) = open_evidence(data)
        items = {**sev.collateral, snp.REVOKED: AMD.revoked()}
        roots = amd_pki.pinned()
        found = snp.verify_report(sev.evidence.blob, LENIENT, items, amd_pki.NOW, roots=roots)
        assert found.hardware


def test_a_certificate_of_version_1_is_judged() -> None:
    key = kit.new_key()
    quote = INTEL.quote(report_data=kit.dstack_report(key), registers=replay(RUNTIME))
    body = attestation("tdx", quote=list(quote), event_log=told(RUNTIME))

    def judge(*given: Any) -> Any:
        evidence, policy, items, now = given
        return verify_intel(
            PlatformCode.TDX, evidence.blob, policy, items, now, root=INTEL.root_der
        )

    for data in (body, kit.packed(body)):
        certificate = kit.certificate_of(key, {ratls.OID_DSTACK_ATTESTATION: kit.wrapped(data)})
        found = ratls.verify_certificate(certificate, LENIENT, INTEL.collateral(), NOW, judge=judge)
        assert found.verdict.measurements["app-id"] == b"\1"
    other = kit.certificate_of(kit.new_key(), {ratls.OID_DSTACK_ATTESTATION: kit.wrapped(body)})
    with pytest.raises(AttestationError, match="check 15"):
        ratls.verify_certificate(other, LENIENT, INTEL.collateral(), NOW, judge=judge)


BAD: list[bytes] = [
    attestation("aws-nitro-tpm", attestation_doc=[1]),
    attestation("tdx", quote=[], event_log=[]),
    attestation("tdx", quote=[256], event_log=[]),
    attestation("tdx", quote=[1, True], event_log=[]),
    attestation("tdx", quote="x", event_log=[]),
    attestation("tdx", quote=[1], event_log={}),
    attestation("tdx", quote=[1], event_log=[1]),
    attestation("tdx", quote=[1], event_log=[{"imr": {"a": 1}}]),
    attestation("tdx", quote=[1], event_log=[{"digest": ["x"]}]),
    attestation("tdx", quote=[1], event_log=[{}] * 1025),
    attestation("sev-snp", report=[1], cert_chain=[[1]] * 9),
    attestation("sev-snp", report=[1], cert_chain=[[1]]),
    attestation("nitro-enclave", nsm_quote=None),
    attestation("tdx") + b"\0",
    attestation("tdx")[:-1],
    attestation("tdx").replace(b"version\1", b"version\2"),
    b"\x83\xa7version\1\xa7version\1",
    b"\x83\xa7version\1\x01\x01",
    b"\x83\xa7version\1\xa1\xff\1",
    b"\x83\xa7version\1\xa1a\xc1",
    b"\x83\xa7version\1\xa1a" + b"\x91" * 100,
    b"\x83\xa7version\1\xa1a\xdd\xff\xff\xff\xff",
    b"\x83\xa7version\1\xa1a\xc6\xff\xff\xff\xff",
    b"\x83\xa7version\1\xa1a\xdf\xff\xff\xff\xff",
]


@pytest.mark.parametrize("data", BAD)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(AttestationError):
        open_evidence(data)


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (7, b"\7"),
        (300, b"\xcd\1\x2c"),
        (2**40, b"\xcf" + (2**40).to_bytes(8, "big")),
        ("a", b"\xda\0\1a"),
        (b"a", b"\xc5\0\1a"),
        ([None, True, False], b"\x93\xc0\xc3\xc2"),
        ({"a": []}, b"\xde\0\1\xa1a\x90"),
    ],
)
def test_values_are_read_as_written(value: msgpack.Value, data: bytes) -> None:
    assert msgpack.decode(data) == value


def test_cut_or_altered_attestations_never_trace() -> None:
    data = tdx(told(BOOT + RUNTIME), replay(BOOT + RUNTIME))
    for at in range(0, len(data), 23):
        for altered in (
            data[:at],
            data[:at] + b"\xc1" + data[at + 1 :],
            data[:at] + data[at + 1 :],
        ):
            try:
                open_evidence(altered)
            except AttestationError:
                continue
