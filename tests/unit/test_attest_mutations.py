"""Evidence that was altered is refused, or is the same evidence; nothing but typed errors leaves.

What `verify` accepts of altered bytes must give the very verdict of the unaltered: the vendor's
signature leaves those bytes open (a newline in PEM, zeros behind a quote, s of a signature), and
its identity is the hash of what is signed. 5,000 alterations a format; `PHALA_MUTATIONS=100000` is
the long run. Each format writes a line of a table.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

import pytest
from tests.unit import test_attest_dstack as dstack_kit
from tests.unit.attesting import ALL, LENIENT, ROOT, amd, gpu, read

from phala.attest import (
    PRODUCTION,
    AttestationError,
    Evidence,
    PlatformCode,
    Policy,
    TlsRules,
    nvidia,
    open_evidence,
    ratls,
    snp,
    verify,
    verify_certificate,
    verify_rim,
)
from phala.attest.errors import PolicyMalformed
from phala.attest.eventlog import replay
from phala.attest.intel import verify_intel
from phala.attest.nitro import verify_document
from phala.errors import Invalid
from phala.primitives.types import Moment
from phala.testing import amd_pki, intel_pki, p384_pki
from phala.testing import ratls as ratls_kit

COUNT = int(os.environ.get("PHALA_MUTATIONS", "5000"))
LOCAL = ROOT / "vectors" / "tee" / "intel"

Judge = Callable[[bytes], object]


@dataclass(frozen=True)
class Seed:
    """Bytes that are accepted, and how."""

    data: bytes
    judge: Judge


def intel(platform: PlatformCode, quote: str, collateral: str, now: int) -> Seed:
    items = collateral_of(collateral)
    return Seed(
        (LOCAL / "quotes" / quote).read_bytes(),
        lambda data: verify(Evidence(platform, data), LENIENT, items, Moment(1000 * now)),
    )


def collateral_of(name: str) -> dict[str, bytes]:
    document = json.loads((LOCAL / "collateral" / name).read_text())
    return {field: text.encode() for field, text in document.items()}


TDX = intel(PlatformCode.TDX, "tdx-v4-uptodate.bin", "tdx-B0C06F000000-2025-06.json", 1_751_624_191)


def sgx_v3() -> Sequence[Seed]:
    name = "sgx-v3-phala-swhard-config.bin"
    return [intel(PlatformCode.SGX, name, "sgx-00A067110000-2025-06.json", 1_751_624_924)]


def tdx_v4() -> Sequence[Seed]:
    return [TDX]


def tdx_v5() -> Sequence[Seed]:
    name, collateral = "tdx-v5-uptodate.bin", "tdx-90C06F000000-2026-02.json"
    return [intel(PlatformCode.TDX, name, collateral, 1_772_707_803)]


def intel_collateral() -> Sequence[Seed]:
    """Each item in turn, but the one that is not used."""
    items = collateral_of("tdx-B0C06F000000-2025-06.json")

    def seed(name: str) -> Seed:
        def judge(data: bytes) -> object:
            evidence = Evidence(PlatformCode.TDX, TDX.data)
            return verify(evidence, LENIENT, {**items, name: data}, Moment(1_751_624_191_000))

        return Seed(items[name], judge)

    return [seed(name) for name in items if name != "pck_crl_issuer_chain"]


def snp_report() -> Sequence[Seed]:
    kit = amd_pki.SimulatedAmd()
    given, pins = kit.collateral(), amd_pki.pinned()
    made = Seed(
        kit.report(),
        lambda data: snp.verify_report(data, PRODUCTION, given, amd_pki.NOW, roots=pins),
    )
    if not ALL.exists():
        return [made]
    items = amd("amd/keys/genoa-v3-azure.der", "amd/chains/ask_ark_genoa.pem")
    genuine = Seed(
        read("amd/reports/genoa-v3-azure.bin"),
        lambda data: verify(
            Evidence(PlatformCode.SEV_SNP, data), LENIENT, items, Moment(1_740_277_308_000)
        ),
    )
    return [made, genuine]


def snp_collateral() -> Sequence[Seed]:
    kit = amd_pki.SimulatedAmd()
    given, pins, report = kit.collateral(), amd_pki.pinned(), kit.report()

    def seed(name: str) -> Seed:
        def judge(data: bytes) -> object:
            items = {**given, name: data}
            return snp.verify_report(report, PRODUCTION, items, amd_pki.NOW, roots=pins)

        return Seed(given[name], judge)

    return [seed(name) for name in snp.COLLATERAL]


def gpu_report() -> Sequence[Seed]:
    device = p384_pki.chain(5)
    items, now = {nvidia.CHAIN: device.pem}, p384_pki.NOW
    made = Seed(
        p384_pki.gpu_report(device),
        lambda data: nvidia.verify_device(
            data, LENIENT, items, now, rims={}, root=device.root_hash
        ),
    )
    if not ALL.exists():
        return [made]
    blob, chain = gpu({"evidence": "nvidia/hopper_evidence.json"})
    genuine = Seed(
        blob, lambda data: verify(Evidence(PlatformCode.NVIDIA, data), LENIENT, chain, now)
    )
    return [made, genuine]


def gpu_chain() -> Sequence[Seed]:
    device = p384_pki.chain(5)
    blob = p384_pki.gpu_report(device)
    return [
        Seed(
            device.pem,
            lambda data: nvidia.verify_device(
                blob, LENIENT, {nvidia.CHAIN: data}, p384_pki.NOW, rims={}, root=device.root_hash
            ),
        )
    ]


def manifest() -> Sequence[Seed]:
    signer = p384_pki.chain(4)

    def judge(data: bytes) -> object:
        return replace(verify_rim(data, root=signer.root_hash), digest=None)  # type: ignore[arg-type]

    measured = {index: bytes([index]) * 48 for index in range(8)}
    made = Seed(p384_pki.manifest(signer, "1.2", measured), judge)
    if not ALL.exists():
        return [made]
    genuine = Seed(
        read("nvidia/rim-driver-550.144.03.xml"),
        lambda data: replace(verify_rim(data), digest=None),  # type: ignore[arg-type]
    )
    return [made, genuine]


def nitro() -> Sequence[Seed]:
    enclave, now = p384_pki.chain(5), p384_pki.NOW
    made = Seed(
        p384_pki.nitro_document(enclave),
        lambda data: verify_document(data, LENIENT, {}, now, root=enclave.root_hash),
    )
    if not ALL.exists():
        return [made]
    genuine = Seed(
        read("nitro/dstack-nitro_attestation.cbor"),
        lambda data: verify(
            Evidence(PlatformCode.NITRO, data), LENIENT, {}, Moment(1_766_678_659_346)
        ),
    )
    return [made, genuine]


def azure() -> Sequence[Seed]:
    (opened,) = open_evidence(read("azure/snp-milan-v3.json"))
    items = {**opened.collateral, snp.CHAIN: read("amd/chains/ask_ark_milan.pem")}
    now = Moment(1_770_000_000_000)

    def judged(blob: bytes, name: str = "", data: bytes = b"") -> object:
        given = {**items, **({name: data} if name else {})}
        return verify(Evidence(PlatformCode.AZURE_SNP, blob), LENIENT, given, now)

    def seed(name: str) -> Seed:
        return Seed(items[name], lambda data: judged(opened.evidence.blob, name, data))

    return [
        Seed(opened.evidence.blob, judged),
        *(seed(name) for name in ("tpm_quote", "tpm_signature", "tpm_pcrs")),
    ]


def event_logs() -> Sequence[Seed]:
    """Of a genuine quote each: dstack's, and a boot log. What only describes a digest is open."""
    (opened,) = open_evidence(read("dstack/quote-report.json"))
    dstack = collateral_of("tdx-90C06F000000-2026-02.json")
    google = collateral_of("tdx-00806F050000-2025-10.json")
    quote = (LOCAL / "quotes" / "tdx-v4-gcp-cos.bin").read_bytes()

    def of_dstack(data: bytes) -> object:
        items = {**dstack, "event_log": data}
        return verify(opened.evidence, LENIENT, items, Moment(1_772_707_803_000))

    def of_google(data: bytes) -> object:
        items = {**google, "ccel": data}
        evidence = Evidence(PlatformCode.TDX, quote)
        return verify(evidence, LENIENT, items, Moment(1_761_920_231_000))

    log = read("ccel/ccel_data.dat").rstrip(b"\xff").rstrip(b"\0") + b"\xff" * 64
    return [Seed(opened.collateral["event_log"], of_dstack), Seed(log, of_google)]


def policies() -> Sequence[Seed]:
    """A policy has one text: what is read from another is another."""

    def judge(data: bytes) -> object:
        assert Policy.decode(data).encode() == data
        raise PolicyMalformed("another policy", mend="none is needed")

    return [Seed(PRODUCTION.encode(), judge)]


def envelopes() -> Sequence[Seed]:
    """Whatever is found in them, is judged elsewhere."""

    def judge(data: bytes) -> object:
        open_evidence(data)
        raise PolicyMalformed("something is found", mend="none is needed")

    names = (
        "dstack/quote-report.json",
        "dstack/tdx-lite-attestation.json",
        "dstack/sev-snp-attestation.json",
        "dstack/attestation.bin",
        "azure/snp-milan-v3.json",
        "nvidia/hopper_evidence.json",
        "nvidia/h100-535.report.txt",
    )
    events = [*dstack_kit.BOOT, *dstack_kit.RUNTIME]
    newer = dstack_kit.tdx(dstack_kit.told(events), replay(events))
    return [Seed(data, judge) for data in (*map(read, names), newer)]


def ratls_certificates() -> Sequence[Seed]:
    """Ours and Gramine's sign themselves, dstack's is another's: names and dates in it are open."""
    vendor = intel_pki.SimulatedIntel()
    items, key = vendor.collateral(), ratls_kit.new_key()

    def verified(
        evidence: Evidence, policy: Policy, collateral: Mapping[str, bytes], now: Moment
    ) -> object:
        platform = PlatformCode(evidence.platform)
        return verify_intel(platform, evidence.blob, policy, collateral, now, root=vendor.root_der)

    def judge(data: bytes) -> object:
        rules = TlsRules(legacy=True)
        found = verify_certificate(
            data,
            LENIENT,
            items,
            intel_pki.NOW,
            rules,
            judge=verified,  # type: ignore[arg-type]
        )
        return found.form, found.spki, found.verdict, found.nonce, found.binding

    def quote(said: bytes) -> bytes:
        return vendor.quote(report_data=said)

    older = {ratls.OID_GRAMINE: ratls_kit.gramine_quote(quote, key)}
    made = (ratls_kit.dice(quote, key), ratls_kit.dstack(quote, key))
    return [Seed(data, judge) for data in (*made, ratls_kit.certificate_of(key, older))]


FORMATS: dict[str, Callable[[], Sequence[Seed]]] = {
    "sgx-v3": sgx_v3,
    "tdx-v4": tdx_v4,
    "tdx-v5": tdx_v5,
    "intel-collateral": intel_collateral,
    "snp-report": snp_report,
    "snp-collateral": snp_collateral,
    "gpu-report": gpu_report,
    "gpu-chain": gpu_chain,
    "gpu-manifest": manifest,
    "nitro": nitro,
    "azure": azure,
    "event-logs": event_logs,
    "ra-tls": ratls_certificates,
    "policies": policies,
    "envelopes": envelopes,
}
# What no alteration at all may leave accepted: every byte is signed, or checked.
CLOSED = ("snp-report", "gpu-report", "policies", "envelopes")


def altered(data: bytes, random: Random) -> bytes:
    """Other bytes: bits flipped, a stretch overwritten, cut, grown, moved or repeated."""
    while True:
        out = bytearray(data)
        at = random.randrange(len(out))
        size = random.choice((1, 1, 2, 4, 8, 48))
        match random.randrange(9):
            case 0 | 1 | 2:
                out[at] ^= 1 << random.randrange(8)
            case 3:
                out[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
            case 4:
                out[at : at + size] = random.randbytes(size)
            case 5:
                del out[at : at + size]
            case 6:
                out[at:at] = random.randbytes(size)
            case 7:
                other = random.randrange(len(out))
                out[at : at + size], out[other : other + size] = (
                    out[other : other + size],
                    out[at : at + size],
                )
            case _:
                del out[at:]
        if out != data:
            return bytes(out)


@pytest.mark.timeout(4 * 3600 if COUNT > 5000 else 300)
@pytest.mark.parametrize("name", FORMATS)
def test_altered_evidence_is_refused_or_the_same(
    name: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    random = Random(name)
    seeds = FORMATS[name]()
    genuine = [None if name in CLOSED[2:] else seed.judge(seed.data) for seed in seeds]
    found: Counter[str] = Counter()
    for turn in range(COUNT):
        seed = seeds[turn % len(seeds)]
        data = altered(seed.data, random)
        try:
            verdict = seed.judge(data)
        except AttestationError as error:
            if error.__cause__ is not None:  # a reader's mistake
                raise
            found[f"check {error.check}"] += 1
        except Invalid:
            found["policy"] += 1
        else:
            assert name not in CLOSED, f"turn {turn}: accepted"
            assert verdict == genuine[turn % len(seeds)], f"turn {turn}: another verdict"
            found["the same"] += 1
    counts = ", ".join(f"{what}: {found[what]}" for what in sorted(found))
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        with capsys.disabled():
            reporter.ensure_newline()
            reporter.write_line(f"{name:<17} {COUNT:>7} altered  {counts}")
