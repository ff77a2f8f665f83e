"""Each signer of a vendor's in each other's place: what one may sign, no other may."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from phala.attest import (
    PRODUCTION,
    AttestationError,
    Evidence,
    PlatformCode,
    nvidia,
    snp,
    verify,
    verify_intel_collateral,
)
from phala.attest.certs import decode_certificate, encode_pem
from phala.attest.intel import TCB_SIGNER, verify_intel
from phala.attest.nitro import verify_document
from phala.attest.verify import check_verdict
from phala.testing import amd_pki, intel_pki, p384_pki
from phala.testing.intel_pki import SimulatedIntel, sgx_extension, signed
from phala.testing.x509 import certificate, name, revocation_list

INTEL = SimulatedIntel()
ITEMS = INTEL.collateral()
SHA256 = hashes.SHA256()
Key = ec.EllipticCurvePrivateKey


def made(
    common: str, key: Key, issuer: str, signer: Key, *, ca: bool = False, sgx: bool = False
) -> x509.Certificate:
    extensions = {"1.2.840.113741.1.13.1": sgx_extension(INTEL.ppid, INTEL.fmspc)} if sgx else None
    return certificate(name(common), key.public_key(), name(issuer), signer, ca=ca,
                       extensions=extensions, algorithm=SHA256)  # fmt: skip


def pem(*chain: x509.Certificate) -> bytes:
    return encode_pem([decode_certificate(each.public_bytes(Encoding.DER)) for each in chain])


PCK, CA, ROOT = "Simulated PCK Certificate", "Simulated Platform CA", "Simulated Root CA"
PLATFORM, TOP, TCB = INTEL.platform_ca, INTEL.root, INTEL.tcb
NEW = ec.generate_private_key(ec.SECP256R1())


def judged(quote: bytes, items: Mapping[str, bytes] = ITEMS) -> None:
    verdict = verify_intel(PlatformCode.TDX, quote, PRODUCTION, items, intel_pki.NOW,
                           root=INTEL.root_der)  # fmt: skip
    check_verdict(verdict, PRODUCTION)


def test_the_quote_and_the_collateral_are_good_as_they_are() -> None:
    judged(INTEL.quote())
    judged(INTEL.quote(certifying=(INTEL.pck_key, (INTEL.pck, PLATFORM, TOP))))
    verify_intel_collateral(ITEMS, intel_pki.NOW, root=pin())


def pin() -> str:
    public = INTEL.root_key.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


CERTIFYING: dict[str, tuple[Key, tuple[x509.Certificate, ...]]] = {
    "the signer of TCB info": (INTEL.tcb_key, (TCB, TOP)),
    "the signer of TCB info, below the platforms' CA": (INTEL.tcb_key, (TCB, PLATFORM, TOP)),
    "the platforms' CA itself": (INTEL.platform_ca_key, (PLATFORM, TOP)),
    "the root itself": (INTEL.root_key, (TOP, TOP)),
    "a platform's key made by a platform's key": (
        NEW,
        (made(PCK, NEW, PCK, INTEL.pck_key, sgx=True), INTEL.pck, PLATFORM, TOP),
    ),
    "a platform's key made by the signer of TCB info": (
        NEW,
        (made(PCK, NEW, TCB_SIGNER, INTEL.tcb_key, sgx=True), TCB, TOP),
    ),
    "a platform's key that says nothing of its platform": (
        NEW,
        (made(PCK, NEW, CA, INTEL.platform_ca_key), PLATFORM, TOP),
    ),
    "a platform's key under a CA of its own": (
        NEW,
        (made(PCK, NEW, CA, NEW, sgx=True), made(CA, NEW, CA, NEW, ca=True), TOP),
    ),
    "another's key with the right chain": (NEW, (INTEL.pck, PLATFORM, TOP)),
}


@pytest.mark.parametrize("who", CERTIFYING)
def test_nobody_but_a_platforms_key_certifies_a_quoting_enclave(who: str) -> None:
    with pytest.raises(AttestationError):
        judged(INTEL.quote(certifying=CERTIFYING[who]))


def under_platform_ca() -> tuple[Key, tuple[x509.Certificate, ...]]:
    return NEW, (made(TCB_SIGNER, NEW, CA, INTEL.platform_ca_key), PLATFORM)


TCB_SIGNERS: dict[str, Callable[[], tuple[Key, tuple[x509.Certificate, ...]]]] = {
    "a platform's key": lambda: (INTEL.pck_key, (INTEL.pck, PLATFORM)),
    "the platforms' CA": lambda: (INTEL.platform_ca_key, (PLATFORM,)),
    "the root": lambda: (INTEL.root_key, ()),
    "a signer of that name under the platforms' CA": under_platform_ca,
    "a signer of that name under a platform's key": lambda: (
        NEW,
        (made(TCB_SIGNER, NEW, PCK, INTEL.pck_key), INTEL.pck, PLATFORM),
    ),
    "a signer of that name with a platform's extension": lambda: (
        NEW,
        (made(TCB_SIGNER, NEW, ROOT, INTEL.root_key, sgx=True),),
    ),
    "a signer of that name that signed itself": lambda: (
        NEW,
        (made(TCB_SIGNER, NEW, ROOT, NEW),),
    ),
}


@pytest.mark.parametrize("who", TCB_SIGNERS)
def test_nobody_but_intels_signer_signs_tcb_info(who: str) -> None:
    items = INTEL.collateral(tcb_signer=TCB_SIGNERS[who]())
    with pytest.raises(AttestationError):
        judged(INTEL.quote(), items)
    with pytest.raises(AttestationError):
        verify_intel_collateral(items, intel_pki.NOW, root=pin())


def crl(issuer: str, key: Key) -> bytes:
    return revocation_list(name(issuer), key, algorithm=SHA256).hex().encode()


LISTS: dict[str, dict[str, bytes]] = {
    "platforms' list by the root": {"pck_crl": crl(CA, INTEL.root_key)},
    "platforms' list by the signer of TCB info": {"pck_crl": crl(CA, INTEL.tcb_key)},
    "platforms' list by a platform": {"pck_crl": crl(CA, INTEL.pck_key)},
    "root's list by the platforms' CA": {"root_ca_crl": crl(ROOT, INTEL.platform_ca_key)},
    "the one list for the other": {"pck_crl": ITEMS["root_ca_crl"]},
    "the other list for the one": {"root_ca_crl": ITEMS["pck_crl"]},
}


@pytest.mark.parametrize("which", LISTS)
def test_nobody_but_their_issuer_signs_lists(which: str) -> None:
    items = {**ITEMS, **LISTS[which]}
    with pytest.raises(AttestationError):
        judged(INTEL.quote(), items)
    with pytest.raises(AttestationError):
        verify_intel_collateral(items, intel_pki.NOW, root=pin())


def test_texts_do_not_stand_for_each_other() -> None:
    for one, other in (("tcb_info", "qe_identity"), ("qe_identity", "tcb_info")):
        names = (one, f"{one}_signature")
        items = {**ITEMS, **{each: ITEMS[each.replace(one, other)] for each in names}}
        with pytest.raises(AttestationError):
            judged(INTEL.quote(), items)
        with pytest.raises(AttestationError):
            verify_intel_collateral(items, intel_pki.NOW, root=pin())


def test_a_quote_that_its_platforms_key_signed_itself_is_refused() -> None:
    """The platform's key certifies the quoting enclave's; it signs no quote."""
    quote = bytearray(INTEL.quote())
    quote[48 + 584 + 4 : 48 + 584 + 4 + 64] = signed(INTEL.pck_key, bytes(quote[: 48 + 584]))
    with pytest.raises(AttestationError):
        judged(bytes(quote))


# ---- AMD

AMD, VLEK = amd_pki.SimulatedAmd(), amd_pki.SimulatedAmd(signer="VLEK")
GIVEN = AMD.collateral()


def amd_judged(report: bytes, **changes: bytes) -> None:
    items = {**GIVEN, **changes}
    snp.verify_report(report, PRODUCTION, items, amd_pki.NOW, roots=amd_pki.pinned())


def test_amds_keys_do_not_stand_for_each_other() -> None:
    amd_judged(AMD.report())
    ask, ark = (each + b"-----END CERTIFICATE-----\n" for each in
                GIVEN[snp.CHAIN].split(b"-----END CERTIFICATE-----\n")[:2])  # fmt: skip
    turin = amd_pki.SimulatedAmd("Turin")
    for changes in (
        {snp.CHAIN: ark + ask},
        {snp.CHAIN: ask + ask},
        {snp.CHAIN: ark + ark},
        {snp.CHAIN: turin.chain()},
        {snp.CHAIN: VLEK.chain()},
        {snp.KEY: VLEK.key()},
        {snp.KEY: decode_certificate(der_of(ask)).der},
        {snp.KEY: decode_certificate(der_of(ark)).der},
        {snp.KEY: turin.key()},
        {snp.REVOKED: turin.revoked()},
    ):
        with pytest.raises(AttestationError):
            amd_judged(AMD.report(), **changes)


def der_of(text: bytes) -> bytes:
    return x509.load_pem_x509_certificate(text).public_bytes(Encoding.DER)


# ---- NVIDIA and Amazon


def test_a_ca_of_a_chain_makes_no_evidence_of_its_own() -> None:
    """The one above the device signs a report with a chain that begins with itself."""
    device, enclave = p384_pki.chain(5), p384_pki.chain(5)
    shorter = b"".join(each.public_bytes(Encoding.PEM) for each in device.certificates[1:])
    for chain in (shorter, device.certificates[1].public_bytes(Encoding.PEM) + shorter):
        with pytest.raises(AttestationError):
            nvidia.verify_device(
                p384_pki.gpu_report(device), PRODUCTION, {nvidia.CHAIN: chain}, p384_pki.NOW,
                rims={}, root=device.root_hash,
            )  # fmt: skip
    _, *above = enclave.der
    for leaf, bundle in ((above[0], above[1:]), (enclave.der[0], above[1:]), (above[-1], above)):
        changes: dict[int | str, p384_pki.Cbor] = {
            "certificate": leaf,
            "cabundle": list(reversed(bundle)),
        }
        document = p384_pki.nitro_document(enclave, changes=changes)
        with pytest.raises(AttestationError):
            verify_document(document, PRODUCTION, {}, p384_pki.NOW, root=enclave.root_hash)


def test_a_vendors_evidence_is_no_other_vendors() -> None:
    """Every verifier on every other platform's evidence."""
    blobs = (INTEL.quote(), AMD.report(), p384_pki.nitro_document(p384_pki.chain(5)),
             p384_pki.gpu_report(p384_pki.chain(5)))  # fmt: skip
    own = (PlatformCode.TDX, PlatformCode.SEV_SNP, PlatformCode.NITRO, PlatformCode.NVIDIA)
    every = tuple(code for code in PlatformCode if code is not PlatformCode.SIMULATED)
    for blob, code in zip(blobs, own, strict=True):
        for other in every:
            if other is not code:
                policy = replace(PRODUCTION, platforms=(other,))
                with pytest.raises(AttestationError, match=r"check [45]"):
                    verify(Evidence(other, blob), policy, {}, intel_pki.NOW)
