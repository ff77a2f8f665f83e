"""What a verdict costs in time of the processor, against its goal: each at most its milliseconds.

Genuine evidence where it lies beside the repository, else of made-up vendors' chips; the row says
which. The goal is the baseline, so a ratio above 1 misses it. Vendors' chains and collateral were
seen before, as on a chain that many workers register at; manifests are kept by their hash.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.unit.attesting import ALL, LENIENT, amd, gpu, read

from benches.report import Figure, times_of
from phala.attest import (
    Evidence,
    PlatformCode,
    Policy,
    Verdict,
    snp,
    verify,
    verify_certificate,
    verify_rim,
)
from phala.attest.intel import verify_intel
from phala.primitives.types import Moment
from phala.testing import amd_pki, intel_pki, p384_pki
from phala.testing import ratls as ratls_kit

LOCAL = Path(__file__).parents[1] / "vectors" / "tee" / "intel"
TURNS, QUICK_TURNS = 300, 20
GOAL_INTEL_MS, GOAL_SNP_MS, GOAL_GPU_MS, GOAL_RIM_MS = 2.0, 3.0, 6.0, 6.0

Work = Callable[[], object]


def run(*, quick: bool) -> Iterator[Figure]:
    for name, goal_ms, work in works():
        work()  # what is loaded once
        times = times_of(cpu_timed(work, QUICK_TURNS if quick else TURNS))
        yield Figure(
            name, "ms", times.p50 / 1000, "goal", goal_ms,
            more={"p50_us": times.p50, "p99_us": times.p99},
        )  # fmt: skip


def cpu_timed(work: Work, times: int) -> list[int]:
    """Nanoseconds of each, of this thread's time: other work on the machine counts little."""
    clock = time.thread_time_ns
    taken = []
    for _ in range(times):
        began = clock()
        work()
        taken.append(clock() - began)
    return taken


def works() -> Iterator[tuple[str, float, Work]]:
    """A name, its goal in milliseconds, and one verification."""
    yield "verify SGX v3, genuine", GOAL_INTEL_MS, intel(
        PlatformCode.SGX, "sgx-v3-phala-swhard-config.bin", "sgx-00A067110000-2025-06.json",
        1_751_624_924,
    )  # fmt: skip
    yield (
        "verify TDX v4, genuine",
        GOAL_INTEL_MS,
        intel(
            PlatformCode.TDX, "tdx-v4-uptodate.bin", "tdx-B0C06F000000-2025-06.json", 1_751_624_191
        ),
    )
    yield (
        "verify TDX v5, genuine",
        GOAL_INTEL_MS,
        intel(
            PlatformCode.TDX, "tdx-v5-uptodate.bin", "tdx-90C06F000000-2026-02.json", 1_772_707_803
        ),
    )
    yield "verify SEV-SNP with its revocation list, made up", GOAL_SNP_MS, snp_made_up()
    yield "verify RA-TLS certificate of TDX, made up", GOAL_INTEL_MS, ratls_made_up()
    if ALL.exists():
        items = amd("amd/keys/genoa-v3-azure.der", "amd/chains/ask_ark_genoa.pem")
        report = Evidence(PlatformCode.SEV_SNP, read("amd/reports/genoa-v3-azure.bin"))
        yield (
            "verify SEV-SNP without a list, genuine",
            GOAL_SNP_MS,
            lambda: verify(report, LENIENT, items, Moment(1_740_277_308_000)),
        )
        blob, chain = gpu({"evidence": "nvidia/hopper_evidence.json"})
        device = Evidence(PlatformCode.NVIDIA, blob)
        yield (
            "verify GPU report with its chain, genuine",
            GOAL_GPU_MS,
            lambda: verify(device, LENIENT, chain, p384_pki.NOW),
        )
        for name in ("rim-driver-550.144.03.xml", "rim-vbios-1010_0200_882_96005E0001.xml",
                     "rim-switch-LS10.xml"):  # fmt: skip
            yield f"verify manifest {name}, once", GOAL_RIM_MS, manifest(name)


def intel(platform: PlatformCode, quote: str, collateral: str, now: int) -> Work:
    fields = json.loads((LOCAL / "collateral" / collateral).read_text())
    items = {field: text.encode() for field, text in fields.items()}
    evidence = Evidence(platform, (LOCAL / "quotes" / quote).read_bytes())
    return lambda: verify(evidence, LENIENT, items, Moment(1000 * now))


def snp_made_up() -> Work:
    kit = amd_pki.SimulatedAmd()
    items, pins, report = kit.collateral(), amd_pki.pinned(), kit.report()
    return lambda: snp.verify_report(report, LENIENT, items, amd_pki.NOW, roots=pins)


def ratls_made_up() -> Work:
    vendor, key = intel_pki.SimulatedIntel(), ratls_kit.new_key()
    items = vendor.collateral()
    data = ratls_kit.dice(lambda said: vendor.quote(report_data=said), key)

    def judge(
        evidence: Evidence, policy: Policy, given: Mapping[str, bytes], now: Moment
    ) -> Verdict:
        return verify_intel(
            PlatformCode.TDX,
            evidence.blob,
            policy,
            given,
            now,
            root=vendor.root_der,
        )

    return lambda: verify_certificate(
        data,
        LENIENT,
        items,
        intel_pki.NOW,
        judge=judge,
    )


def manifest(name: str) -> Work:
    data = read(f"nvidia/{name}")
    return lambda: verify_rim(data)
