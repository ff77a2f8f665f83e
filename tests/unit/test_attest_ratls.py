"""RA-TLS: a certificate's key is bound by its evidence, for TLS alone; forms do not mix."""

import datetime as dt
import hashlib
from collections.abc import Mapping
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from tests.unit.attesting import LENIENT, ROOT

from phala.attest import (
    DEV,
    PRODUCTION,
    AttestationError,
    Evidence,
    Policy,
    TlsRules,
    TlsVerdict,
    Verdict,
    ratls,
    snp,
    verify_certificate,
)
from phala.attest.errors import (
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
    PlatformRefused,
)
from phala.attest.intel import verify_intel
from phala.attest.ratls import TlsForm, is_certificate
from phala.attest.verdict import PlatformCode
from phala.messages.registration import PURPOSE_REGISTER, report_data
from phala.primitives.types import BlockNumber, Hash, Moment
from phala.sdk.judge import RegistrationForged, verify_binding
from phala.tee.ratls import Binding, encode_evidence, make_tls_key
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.testing import amd_pki
from phala.testing import ratls as kit
from phala.testing.intel_pki import NOW, SimulatedIntel
from phala.testing.worker import WorkerKeys
from phala.testing.x509 import BEGIN, END

TDX, SGX = SimulatedIntel(), SimulatedIntel(tdx=False)
ITEMS = {True: TDX.collateral(), False: SGX.collateral()}
KEY = kit.new_key()
LEGACY = TlsRules(legacy=True)
SIMULATED_KEY = SimulatedKey(bytes(31) + b"\1", b"k" * 32)
SIMULATED = SimulatedPlatform(measurement=measure(b"code"), key=SIMULATED_KEY)
OWN = DEV.trusting(SIMULATED_KEY.public_root)


def quote(said: bytes) -> bytes:
    return TDX.quote(report_data=said)


def sgx_quote(said: bytes) -> bytes:
    return SGX.quote(report_data=said)


def judge(
    evidence: Evidence, policy: Policy, collateral: Mapping[str, bytes], now: Moment
) -> Verdict:
    """`verify`, of Intel's in this world."""
    kit_of = TDX if evidence.platform == PlatformCode.TDX else SGX
    return verify_intel(
        PlatformCode(evidence.platform), evidence.blob, policy, collateral, now,
        root=kit_of.root_der,
    )  # fmt: skip


def judged(data: bytes, rules: TlsRules | None = None, *, tdx: bool = True) -> TlsVerdict:
    return verify_certificate(data, LENIENT, ITEMS[tdx], NOW, rules, judge=judge)


def refused(data: bytes, check: int, rules: TlsRules | None = None, *, tdx: bool = True) -> str:
    with pytest.raises(AttestationError) as caught:
        judged(data, rules, tdx=tdx)
    assert caught.value.check == check, str(caught.value)
    assert caught.value.mend
    return str(caught.value)


# ---- what is accepted


def test_a_dice_certificate_of_ours_is_judged() -> None:
    data = kit.dice(quote, KEY)
    found = judged(data)

    assert (found.form, found.spki) == (TlsForm.DICE, kit.spki_of(KEY))
    assert found.key_hash == hashlib.sha256(found.spki).digest()
    assert found.binding == ratls.Binding(b"g" * 32, b"w" * 32, 7, b"b" * 32)
    assert (found.nonce, found.verdict.platform) == (b"n", PlatformCode.TDX)
    assert "no freshness" in found.fresh
    assert is_certificate(data)


def test_it_may_be_in_pem() -> None:
    pem = x509.load_der_x509_certificate(kit.dice(quote, KEY)).public_bytes(Encoding.PEM)

    assert judged(pem).spki == kit.spki_of(KEY)
    refused(pem + pem, 12)


def test_an_extension_that_must_be_known_and_is_not_is_refused() -> None:
    evidence = {ratls.OID_DICE: kit.dice_evidence(quote, kit.dice_claims(KEY))}
    purposes = bytes.fromhex("300a06082b06010505070301")  # of servers
    for oid, body in (("2.5.29.30", b"\x30\0"), ("1.2.3.4", b"\5\0"), ("2.5.29.36", b"\x30\0")):
        data = {**evidence, oid: body}
        assert judged(kit.certificate_of(KEY, data)).spki == kit.spki_of(KEY)
        found = refused(kit.certificate_of(KEY, data, critical=[oid]), 12)
        assert f"critical extension {oid}" in found
    data = {**evidence, "2.5.29.37": purposes}
    assert judged(kit.certificate_of(KEY, data, critical=[*data])).spki == kit.spki_of(KEY)


def test_gramines_newer_certificate_is_judged_by_its_dice_extension() -> None:
    key = kit.new_key(ec.SECP384R1())
    claims = kit.dice_claims(key, binding=None)
    data = kit.certificate_of(
        key,
        {
            ratls.OID_DICE: kit.dice_evidence(sgx_quote, claims),
            ratls.OID_GRAMINE: kit.gramine_quote(sgx_quote, key),
        },
    )
    found = judged(data, tdx=False)

    assert (found.form, found.binding) == (TlsForm.DICE, None)
    assert "was not looked at" in found.notes[0]


def test_gramines_older_form_is_refused_but_by_an_explicit_rule() -> None:
    data = kit.certificate_of(KEY, {ratls.OID_GRAMINE: kit.gramine_quote(sgx_quote, KEY)})

    refused(data, 12, tdx=False)
    found = judged(data, LEGACY, tdx=False)
    assert found.form is TlsForm.GRAMINE
    assert "by an explicit rule" in found.notes[0]


def test_gramines_identifier_has_its_der_inside() -> None:
    """tee.md 5.2: not 1.2.840.113741.1337.6, whose bytes stand inside the one on the wire."""
    wire = bytes.fromhex("060b06092a864886f84d8a3906")
    body = kit.gramine_quote(sgx_quote, KEY)

    assert wire in kit.certificate_of(KEY, {ratls.OID_GRAMINE: body})
    meant = kit.certificate_of(KEY, {"1.2.840.113741.1337.6": body})
    assert wire not in meant
    assert not is_certificate(meant)
    refused(meant, 12, LEGACY, tdx=False)


def test_dstacks_certificate_is_judged_though_another_issued_it() -> None:
    found = judged(kit.dstack(quote, KEY))

    assert (found.form, found.verdict.report_data) == (TlsForm.DSTACK, kit.dstack_report(KEY))
    assert "who issued" in found.notes[0]


def test_dstacks_event_log_is_held_against_the_registers() -> None:
    event = {"imr": 3, "event_type": 0x08000001, "event": "app-id", "event_payload": "00"}

    assert "ends RTMR3" in refused(kit.dstack(quote, KEY, [event]), 7)


def test_dstacks_newer_attestation_is_judged_packed_or_not() -> None:
    body = kit.dstack_attestation(quote(kit.dstack_report(KEY)))
    for part in (body, kit.packed(body)):
        data = kit.certificate_of(KEY, {ratls.OID_DSTACK_ATTESTATION: kit.wrapped(part)})
        assert judged(data).form is TlsForm.DSTACK


def test_an_enclaves_own_certificate_is_accepted_by_its_networks_policy_and_by_no_other() -> None:
    begin = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    bound = Binding(b"g" * 32, b"w" * 32, 300, b"b" * 32)
    made = make_tls_key(SIMULATED, bound, begin, begin + dt.timedelta(days=60), nonce=b"mine")
    rules = TlsRules(nonce=b"mine", genesis=b"g" * 32, worker=b"w" * 32, height_min=250)
    found = verify_certificate(made.certificate, OWN, {}, NOW, rules)

    assert not found.verdict.hardware
    assert found.fresh.count(";") == 2
    assert "PRIVATE" not in repr(made)
    for policy in (PRODUCTION, DEV):
        with pytest.raises(AttestationError):
            verify_certificate(made.certificate, policy, {}, NOW, rules)


# ---- what is asked for


def test_rules_are_held() -> None:
    data = kit.dice(quote, KEY, nonce=b"mine")
    digest = hashlib.sha256(kit.spki_of(KEY)).digest()
    rules = TlsRules(nonce=b"mine", key_hash=digest, genesis=b"g" * 32, worker=b"w" * 32)

    assert "your nonce" in judged(data, rules).fresh
    for other in (
        TlsRules(nonce=b"yours"),
        TlsRules(key_hash=bytes(32)),
        TlsRules(genesis=bytes(32)),
        TlsRules(worker=bytes(32)),
        TlsRules(height_min=8),
    ):
        refused(data, 16, other)
    unbound = kit.dice(quote, KEY, binding=None)
    for other in (TlsRules(worker=bytes(32)), TlsRules(height_min=0)):
        refused(unbound, 16, other)


# ---- hostile


def test_a_swapped_key_is_refused() -> None:
    claims = kit.dice_claims(KEY)
    evidence = kit.dice_evidence(quote, claims)
    thief = kit.new_key()

    assert "another key" in refused(kit.certificate_of(thief, {ratls.OID_DICE: evidence}), 15)
    stolen = kit.certificate_of(thief, {ratls.OID_GRAMINE: kit.gramine_quote(sgx_quote, KEY)})
    refused(stolen, 15, LEGACY, tdx=False)
    for oid in (ratls.OID_DSTACK_QUOTE, ratls.OID_DSTACK_ATTESTATION):
        body = quote(kit.dstack_report(KEY))
        body = body if oid == ratls.OID_DSTACK_QUOTE else kit.dstack_attestation(body)
        refused(kit.certificate_of(thief, {oid: kit.wrapped(body)}), 15)


def test_edited_claims_are_refused() -> None:
    evidence = kit.dice_evidence(quote, kit.dice_claims(KEY))
    thief = kit.new_key()
    for key, claims in (
        (thief, kit.dice_claims(thief)),
        (KEY, kit.dice_claims(KEY, nonce=b"fresh")),
        (KEY, kit.dice_claims(KEY, binding=Binding(b"g" * 32, b"v" * 32, 7, b"b" * 32))),
    ):
        _, said = evidence.split(b"\x59", 1)
        size = int.from_bytes(said[:2], "big")
        edited = encode_evidence(said[2 : 2 + size], claims)
        refused(kit.certificate_of(key, {ratls.OID_DICE: edited}), 15)


def test_a_certificate_that_its_key_did_not_sign_is_refused() -> None:
    evidence = kit.dice_evidence(quote, kit.dice_claims(KEY))
    data = kit.certificate_of(KEY, {ratls.OID_DICE: evidence}, signer=kit.new_key())

    refused(data, 14)


def test_a_certificate_counts_in_its_time_alone() -> None:
    evidence = kit.dice_evidence(quote, kit.dice_claims(KEY))
    day = dt.datetime(2026, 2, 1, tzinfo=dt.UTC)
    for begin, end in ((BEGIN, day), (day + dt.timedelta(days=200), END)):
        data = kit.certificate_of(KEY, {ratls.OID_DICE: evidence}, begin=begin, end=end)
        refused(data, 13)
        with pytest.raises(EvidenceExpired):
            judged(data)


def test_two_kinds_of_evidence_are_refused() -> None:
    both = {
        ratls.OID_DICE: kit.dice_evidence(quote, kit.dice_claims(KEY)),
        ratls.OID_DSTACK_QUOTE: kit.wrapped(quote(kit.dstack_report(KEY))),
    }

    assert "2 forms" in refused(kit.certificate_of(KEY, both), 12)
    del both[ratls.OID_DICE]
    both[ratls.OID_DSTACK_ATTESTATION] = kit.wrapped(b"\0\0")
    refused(kit.certificate_of(KEY, both), 12)


def test_an_extension_that_stands_twice_is_refused() -> None:
    evidence = kit.dice_evidence(quote, kit.dice_claims(KEY))
    twin = "2.23.133.5.4.8"  # of one length in DER
    data = kit.certificate_of(KEY, {ratls.OID_DICE: evidence, twin: evidence})
    twice = data.replace(bytes.fromhex("0606678105050408"), bytes.fromhex("0606678105050409"))

    assert twice != data
    assert "two extensions" in refused(twice, 12)


def test_huge_extensions_are_refused_before_they_are_read() -> None:
    claims = kit.dice_claims(KEY)
    huge = kit.certificate_of(KEY, {ratls.OID_DICE: encode_evidence(bytes(70_000), claims)})
    assert "65536 are allowed" in refused(huge, 12)

    long = b"\xa1" + b"\x65nonce" + b"\x59\x20\x00" + bytes(8192)
    assert "claims of" in refused(
        kit.certificate_of(KEY, {ratls.OID_DICE: encode_evidence(quote(bytes(64)), long)}), 12
    )


def test_a_gzip_bomb_is_refused() -> None:
    """tee.md 10: dstack#566. 64 MiB of zeros in 64 KiB."""
    bomb = kit.wrapped(kit.packed(bytes(48 << 20)))
    extensions = {ratls.OID_DSTACK_QUOTE: kit.wrapped(quote(kit.dstack_report(KEY)))}
    data = kit.certificate_of(KEY, {**extensions, ratls.OID_DSTACK_LOG: bomb})

    assert len(data) < ratls.CERTIFICATE_BYTES_MAX
    assert "unpacked" in refused(data, 12)
    for body in (b"ELGZv1", b"ELGZv1" + b"\x1f\x8b", kit.packed(b"[]") + b"x"):
        broken = {**extensions, ratls.OID_DSTACK_LOG: kit.wrapped(body)}
        refused(kit.certificate_of(KEY, broken), 12)


def test_claims_of_another_shape_are_refused() -> None:
    digest = hashlib.sha256(kit.spki_of(KEY)).digest()
    entry = b"\x82\x01\x58\x20" + digest
    good = b"\xa1\x6bpubkey-hash\x58" + bytes([len(entry)]) + entry
    data = kit.certificate_of(KEY, {ratls.OID_DICE: kit.dice_evidence(quote, good)})
    assert judged(data).nonce is None

    for claims in (
        b"",
        b"\x80",
        b"\xa0",
        b"\xa1\x6bpubkey-hash\x01",
        b"\xa1\x6bpubkey-hash\x43\x82\x01\x40",
        good.replace(b"\x82\x01", b"\x82\x02"),  # sha-256-128 of IANA's registry
        good.replace(b"\x82\x01\x58", b"\x82\xf5\x58"),  # true is no 1
        b"\xa2" + good[1:] + b"\x65nonce\x01",
        b"\xa2" + good[1:] + b"\x67purpose\x66ra-tls",
        kit.spki_of(KEY),
    ):
        data = kit.certificate_of(KEY, {ratls.OID_DICE: kit.dice_evidence(quote, claims)})
        with pytest.raises(AttestationError) as caught:
            judged(data)
        assert caught.value.check in (12, 15)


def test_claims_for_another_purpose_are_refused() -> None:
    claims = kit.dice_claims(KEY).replace(b"\x66ra-tls", b"\x66ra-sig")

    data = kit.certificate_of(KEY, {ratls.OID_DICE: kit.dice_evidence(quote, claims)})
    assert "for 'ra-sig'" in refused(data, 15)


def test_evidence_of_a_gpu_makes_no_certificate() -> None:
    claims = kit.dice_claims(KEY)
    for blob in (b"\x11\xe0" + bytes(400), b"HCLA" + bytes(2000), b"", bytes(64)):
        data = kit.certificate_of(KEY, {ratls.OID_DICE: encode_evidence(blob, claims)})
        refused(data, 12)


# ---- purposes


def registered() -> tuple[bytes, WorkerKeys]:
    """What a registration's evidence says."""
    keys = WorkerKeys(b"s" * 32, Hash(b"g" * 32), SIMULATED, 0, Hash(bytes(32)))
    said = report_data(PURPOSE_REGISTER, keys.manifest(), Hash(b"b" * 32), BlockNumber(7))
    return said, keys


def test_a_registrations_evidence_makes_no_certificate() -> None:
    said, _ = registered()
    body = quote(said)
    for extensions in (
        {ratls.OID_DICE: encode_evidence(body, kit.dice_claims(KEY))},
        {ratls.OID_GRAMINE: body},
        {ratls.OID_DSTACK_QUOTE: kit.wrapped(body)},
    ):
        assert "another purpose" in refused(kit.certificate_of(KEY, extensions), 15, LEGACY)


@pytest.mark.parametrize("purpose", [b"user", b"key-release", b"ra-tls"])
def test_evidence_of_every_purpose_of_ours_makes_no_certificate(purpose: bytes) -> None:
    _, keys = registered()
    said = report_data(purpose, keys.manifest(), Hash(b"b" * 32), BlockNumber(7))
    data = kit.certificate_of(
        KEY, {ratls.OID_DICE: encode_evidence(quote(said), kit.dice_claims(KEY))}
    )

    refused(data, 15)


def test_a_certificates_evidence_registers_nobody() -> None:
    _, keys = registered()
    begin = dt.datetime(2026, 5, 1, tzinfo=dt.UTC)
    made = make_tls_key(SIMULATED, None, begin, begin + dt.timedelta(days=60))
    found = verify_certificate(made.certificate, OWN, {}, NOW)

    class Bound:
        manifest, block_hash, height = keys.manifest(), Hash(b"b" * 32), BlockNumber(7)
        devices = ()

    with pytest.raises(RegistrationForged):
        verify_binding(Bound(), found.verdict)  # type: ignore[arg-type]


def test_the_forms_evidence_is_not_each_others() -> None:
    """A quote of one form, put into each other."""
    said = {
        ratls.OID_DICE: hashlib.sha256(kit.dice_claims(KEY)).digest() + bytes(32),
        ratls.OID_GRAMINE: hashlib.sha256(kit.spki_of(KEY)).digest() + bytes(32),
        ratls.OID_DSTACK_QUOTE: kit.dstack_report(KEY),
    }
    for mine, report in said.items():
        body = quote(report)
        for oid in said:
            extension = {
                ratls.OID_DICE: encode_evidence(body, kit.dice_claims(KEY)),
                ratls.OID_GRAMINE: body,
                ratls.OID_DSTACK_QUOTE: kit.wrapped(body),
            }[oid]
            data = kit.certificate_of(KEY, {oid: extension})
            if oid == mine:
                assert judged(data, LEGACY).verdict.report_data == report
            else:
                refused(data, 15, LEGACY)


def test_a_quote_whose_other_half_says_something_is_refused() -> None:
    claims = kit.dice_claims(KEY)
    body = quote(hashlib.sha256(claims).digest() + b"\1" * 32)

    refused(kit.certificate_of(KEY, {ratls.OID_DICE: encode_evidence(body, claims)}), 15)


# ---- any bytes


def test_what_is_no_such_certificate_is_said_to_be_none() -> None:
    plain = kit.certificate_of(KEY, {})
    for data in (b"", b"\0", b"\x30\x80", b"-----BEGIN CERTIFICATE-----", plain, bytes(70_000)):
        assert not is_certificate(data)
        with pytest.raises(EvidenceMalformed):
            judged(data)


def test_altered_certificates_are_refused_or_the_same() -> None:
    random = Random(11)
    older = kit.certificate_of(KEY, {ratls.OID_GRAMINE: kit.gramine_quote(quote, KEY)})
    seeds = [
        (data, judged(data, LEGACY))
        for data in (kit.dice(quote, KEY), kit.dstack(quote, KEY), older)
    ]
    accepted = 0
    for turn in range(1500):
        data, before = seeds[turn % 3]
        other = bytearray(data)
        other[random.randrange(len(other))] ^= 1 << random.randrange(8)
        if turn % 10 == 0:
            del other[random.randrange(len(other)) :]
        try:
            found = judged(bytes(other), LEGACY)
        except AttestationError:
            continue
        accepted += 1
        assert (found.form, found.spki) == (before.form, before.spki)
        assert found.verdict == before.verdict
    # What dstack's authority signed beside key and evidence is open: nobody here knows that one.
    assert accepted < 300


def test_an_snp_report_with_its_hosts_table_makes_a_certificate() -> None:
    """The key's certificate comes in the table; chain and list are the verifier's."""
    vendor = amd_pki.SimulatedAmd()
    der = vendor.key()
    entry = bytes.fromhex("63da758de6644564adc5f4b93be8accd")  # VCEK, Linux's sev-guest.rst
    table = entry + (48).to_bytes(4, "little") + len(der).to_bytes(4, "little") + bytes(24) + der
    items = {name: item for name, item in vendor.collateral().items() if name != snp.KEY}

    def judge_snp(
        evidence: Evidence, policy: Policy, collateral: Mapping[str, bytes], now: Moment
    ) -> Verdict:
        return snp.verify_report(evidence.blob, policy, collateral, now, roots=amd_pki.pinned())

    data = kit.dice(lambda said: vendor.report(report_data=said) + table, KEY)
    found = verify_certificate(data, LENIENT, items, NOW, judge=judge_snp)
    assert found.verdict.platform is PlatformCode.SEV_SNP


def test_the_modules_numbers_are_those_of_its_list() -> None:
    text = (ROOT / "src" / "phala" / "attest" / "ratls.py").read_text()
    for number in range(12, 17):
        assert f"    {number}. " in text
    assert {EvidenceForged, PlatformRefused} <= set(AttestationError.__subclasses__())
