"""Chains and lists as RFC 5280 wants them read: what a vendor's signature alone does not say."""

import datetime as dt
import hashlib
from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from phala.attest.certs import (
    Certificate,
    check_p384,
    decode_certificate,
    decode_revocation_list,
    verify_chain,
)
from phala.attest.collateral import verify_amd_revocations
from phala.attest.errors import (
    AttestationError,
    EvidenceExpired,
    EvidenceForged,
    EvidenceMalformed,
)
from phala.primitives.types import Moment
from phala.testing import amd_pki
from phala.testing.x509 import BEGIN, END, certificate, name, revocation_list

KEY = ec.generate_private_key(ec.SECP384R1())
NOW = amd_pki.NOW
NAMES = ("Root", "Upper CA", "Lower CA", "Leaf")
NAME_CONSTRAINTS = "2.5.29.30"


def made(place: int, **changes: object) -> Certificate:
    """One of four, all of one key: 0 is the root, 3 the leaf."""
    given = {"ca": place < 3, **changes}
    made = certificate(name(NAMES[place]), KEY.public_key(), name(NAMES[max(0, place - 1)]), KEY,
                       **given)  # type: ignore[arg-type]  # fmt: skip
    return decode_certificate(made.public_bytes(Encoding.DER))


def judged(changed: int = 3, now: Moment = NOW, **changes: object) -> Certificate:
    chain = [made(place, **(changes if place == changed else {})) for place in (3, 2, 1, 0)]
    anchor = hashlib.sha256(chain[-1].spki).hexdigest()
    return verify_chain(chain, check_p384, now, anchor=anchor, vendor="nobody")


def test_a_plain_chain_is_accepted() -> None:
    assert judged().common_name == "Leaf"


@pytest.mark.parametrize("place", range(4))
def test_an_unknown_critical_extension_is_refused_wherever_it_stands(place: int) -> None:
    """Name constraints, say: who cannot hold them must not go on as if they were not there."""
    with pytest.raises(EvidenceMalformed, match=NAME_CONSTRAINTS):
        judged(place, critical={NAME_CONSTRAINTS: b"\x30\0"})
    assert judged(place, extensions={NAME_CONSTRAINTS: b"\x30\0"}).common_name == "Leaf"


def test_what_a_device_says_of_itself_may_be_critical() -> None:
    """TCG lets DICE's extensions be so; a purpose that is not DICE's is another's key."""
    attests, server = "060767810505046409", "06082b06010505070301"
    body = bytes.fromhex
    assert judged(1, critical={"2.23.133.5.4.1": b"\x30\0"}).common_name == "Leaf"
    assert judged(3, critical={"2.5.29.37": b"\x30\x09" + body(attests)}).common_name == "Leaf"
    for purposes in ("", server, attests + server):
        value = body(purposes)
        with pytest.raises(EvidenceMalformed, match=r"2\.5\.29\.37"):
            judged(3, critical={"2.5.29.37": bytes([0x30, len(value)]) + value})


@pytest.mark.parametrize(("place", "fewest"), [(0, 2), (1, 1), (2, 0)])
def test_a_path_longer_than_a_ca_allows_is_refused(place: int, fewest: int) -> None:
    assert judged(place, cas_below_max=fewest).common_name == "Leaf"
    if fewest:
        with pytest.raises(EvidenceForged, match=f"may not have {fewest} CAs below"):
            judged(place, cas_below_max=fewest - 1)


def test_a_key_that_may_not_sign_certificates_signs_none() -> None:
    for place in (1, 2):
        with pytest.raises(EvidenceForged, match="may not sign certificates"):
            judged(place, may_sign=False)
        with pytest.raises(EvidenceForged, match="may not sign certificates"):
            judged(place, ca=False, may_sign=True)


def test_times_count_to_their_last_second_and_no_longer() -> None:
    begin, end = (Moment(int(each.timestamp() * 1000)) for each in (BEGIN, END))
    for now in (begin, end):
        assert judged(now=now).common_name == "Leaf"
    for now in (Moment(begin - 1), Moment(end + 1)):
        with pytest.raises(EvidenceExpired):
            judged(now=now)


def test_a_time_after_2049_is_read() -> None:
    late = dt.datetime(2100, 2, 28, 23, 59, 59, tzinfo=dt.UTC)
    assert judged(3, end=late).not_after == int(late.timestamp()) * 1000


def replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert data.count(old) == 1
    assert len(old) == len(new)
    return data.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0603551d130101ff", "0603551d130102ff"),  # an integer where critical's boolean belongs
        ("0603551d130101ff", "0603551d13010101"),  # a boolean of neither value
        ("0603551d0e", "0603551d13"),  # basic constraints twice
    ],
)
def test_extensions_of_another_form_are_refused(old: str, new: str) -> None:
    leaf = made(3).der
    with pytest.raises(EvidenceMalformed):
        decode_certificate(replaced(leaf, bytes.fromhex(old), bytes.fromhex(new)))


def test_what_stands_behind_the_key_is_extensions_alone() -> None:
    """A unique id, which nobody has used since 1996, could hide what a reader skips."""
    leaf = made(3)
    at = leaf.der.index(b"\xa3\x81")
    with pytest.raises(EvidenceMalformed, match="other parts than extensions"):
        decode_certificate(leaf.der[:at] + b"\xa1" + leaf.der[at + 1 :])


def test_negative_and_huge_serial_numbers_are_numbers() -> None:
    """AMD's are 0; a reader must neither fail at another's nor take it for one that it is not."""
    huge = made(3, serial=(1 << 158) + 5)
    assert huge.serial == (1 << 158) + 5
    body = huge.der.index(huge.serial.to_bytes(20, "big"))
    negative = bytearray(huge.der)
    negative[body] |= 0x80
    assert decode_certificate(bytes(negative)).serial == (1 << 158) + 5 - (1 << 159)


# ---- lists

REASON = x509.CertificateIssuer([x509.DirectoryName(name("Another"))])
WHOLE_OF_OTHERS = x509.IssuingDistributionPoint(
    full_name=None,
    relative_name=None,
    only_contains_user_certs=True,
    only_contains_ca_certs=False,
    only_some_reasons=None,
    indirect_crl=False,
    only_contains_attribute_certs=False,
)


@pytest.mark.parametrize("critical", [True, False])
@pytest.mark.parametrize("more", [x509.DeltaCRLIndicator(1), WHOLE_OF_OTHERS])
def test_a_list_of_changes_or_of_some_certificates_is_no_list(
    more: x509.ExtensionType, *, critical: bool
) -> None:
    """It is signed by the right key, and names nothing: as if nothing were revoked."""
    listed = revocation_list(name("Root"), KEY, more=more, critical=critical)
    with pytest.raises(EvidenceMalformed, match="not whole"):
        decode_revocation_list(listed)


def test_a_list_that_must_be_read_otherwise_is_refused() -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\0")
    with pytest.raises(EvidenceMalformed, match=r"1\.2\.3\.4"):
        decode_revocation_list(revocation_list(name("Root"), KEY, more=unknown))
    noted = revocation_list(name("Root"), KEY, (7,), more=unknown, critical=False)
    assert decode_revocation_list(noted).serials == (7,)
    with pytest.raises(EvidenceMalformed, match="cannot be left unread"):
        decode_revocation_list(revocation_list(name("Root"), KEY, (1, 2), entry=REASON))
    plain = revocation_list(name("Root"), KEY, (1, 2), entry=None)
    assert decode_revocation_list(plain).serials == (1, 2)


def amd_list(begin: dt.datetime, days: int) -> Callable[[Moment], object]:
    kit = amd_pki.SimulatedAmd()
    given, chain = kit.revoked(begin=begin, days=days), kit.chain()
    return lambda now: verify_amd_revocations(given, chain, now, roots=amd_pki.pinned())


def test_a_list_of_the_future_or_the_past_is_refused() -> None:
    day = 24 * 3600 * 1000
    begin = Moment(int(BEGIN.timestamp() * 1000))
    judge = amd_list(BEGIN, 10)
    for now in (begin, begin + 10 * day):
        judge(Moment(now))
    for now in (begin - 1, begin + 10 * day + 1):
        with pytest.raises(AttestationError):
            judge(Moment(now))


def test_a_list_that_its_issuers_key_may_not_sign_is_refused() -> None:
    kit = amd_pki.SimulatedAmd()
    root = name("ARK-Genoa")
    key = amd_pki.rsa_key()
    above = kit.chain().split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
    barred = certificate(root, key.public_key(), root, key, ca=True, may_sign=False, serial=10,
                         pss=amd_pki._PSS).public_bytes(Encoding.PEM)  # fmt: skip
    with pytest.raises(AttestationError, match="another issuer"):
        verify_amd_revocations(kit.revoked(), above + barred, NOW, roots=amd_pki.pinned())
