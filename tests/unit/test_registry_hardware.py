"""Registration of hardware through the real runtime, by collateral that the chain keeps."""

import random
from dataclasses import fields, replace
from functools import cache, partial
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.unit.attesting import index, intel, read
from tests.unit.hardware import DAY_MS, RUNTIME_ID, Ground, ground, host_table

from phala.attest import DEV, PRODUCTION
from phala.errors import Invalid
from phala.frame import Root, Unsigned
from phala.messages.collateral import INTEL_ITEMS
from phala.messages.registration import (
    PURPOSE_REGISTER,
    Device,
    Evidence,
    device_nonce,
    devices_digest,
    report_data,
)
from phala.messages.state import WORKER_ACTIVE
from phala.messages.types import WorkerId
from phala.pallets.registry.errors import PolicyRefused
from phala.pallets.registry.records import BLOCK_MACHINE, Blocked, Signer
from phala.primitives.types import BlockNumber, Hash, Moment
from phala.runtime import GenesisConfig, InvalidTransaction, Problem
from phala.runtime.world import World
from phala.sdk.judge import time_of
from phala.tee.platform import ReportData
from phala.tee.simulated import SimulatedPlatform, measure
from phala.tee.simulated_key import SimulatedKey
from phala.testing import p384_pki
from phala.testing.chain import MemoryChain
from phala.testing.intel_pki import NOW, TD_PLAIN
from phala.testing.vendors import Hardware, NitroMachine, Vendors, submit_amd, submit_intel
from phala.testing.worker import WorkerKeys, register_extrinsic

# Orders of the curves: SEC 2, sections 2.4.2 and 2.5.1.
P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
P384 = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffff"
    "c7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
EVIDENCE_REFUSED, REPORT_DATA, MEASUREMENT, USED, HEIGHT, FORK = 7, 8, 9, 11, 2, 3
NO_COLLATERAL, BLOCKED, DEVICES_REFUSED = 16, 17, 18


@pytest.fixture
def site() -> Ground:
    """A chain that has both vendors' collateral."""
    made = ground()
    chain, vendors = made.chain, made.vendors
    chain.block(
        submit_intel(vendors.tdx.collateral()),
        submit_intel(vendors.sgx.collateral()),
        submit_amd(vendors.amd),
    )
    return made


def refused(site: Ground, extrinsic: bytes) -> int:
    """The number of the registry's error; the pool says the same as a block."""
    with pytest.raises(InvalidTransaction) as pool:
        site.chain.validator().validate(extrinsic)
    with pytest.raises(InvalidTransaction) as block:
        site.chain.block(extrinsic)
    assert pool.value.problem == block.value.problem == Problem.CUSTOM
    assert pool.value.custom == block.value.custom
    return int(block.value.custom)


@pytest.mark.parametrize("kind", ["tdx", "sgx", "amd"])
def test_hardware_registers_by_the_chains_collateral(site: Ground, kind: str) -> None:
    vendor = getattr(site.vendors, kind)
    info = site.register(site.worker(Hardware(vendor)))

    assert (info.state, info.confidence) == (WORKER_ACTIVE, 1)
    assert info.platform == Hardware(vendor).code
    assert info.collateral == (b"\2" if kind == "amd" else vendor.fmspc)
    assert info.product == (b"\2" if kind == "amd" else vendor.fmspc)
    assert info.platform_id == (vendor.chip if kind == "amd" else vendor.ppid)
    assert info.number == (0 if kind == "amd" else 20)


@pytest.mark.parametrize("kind", ["tdx", "sgx", "amd"])
def test_without_collateral_on_the_chain_nothing_registers(kind: str) -> None:
    bare = ground()
    worker = bare.worker(Hardware(getattr(bare.vendors, kind)))

    assert refused(bare, worker.register(bare.chain.header)) == NO_COLLATERAL


# ---- what fooled others: reference/tee.md §10, the chain's part


def test_stale_replay_an_old_height_is_refused(site: Ground) -> None:
    worker, bound = site.worker(Hardware(site.vendors.tdx)), site.chain.header
    early = worker.register(bound)
    for _ in range(600):
        site.chain.block()

    assert refused(site, early) == HEIGHT


def test_stale_replay_the_last_height_of_the_window_is_taken(site: Ground) -> None:
    worker, bound = site.worker(Hardware(site.vendors.tdx)), site.chain.header
    for _ in range(599):
        site.chain.block()

    assert site.register_bound(worker, bound).attested_height == bound.number


@pytest.mark.parametrize("ahead", [1, 2, 1000])
def test_stale_replay_a_future_height_is_refused(site: Ground, ahead: int) -> None:
    worker, head = site.worker(Hardware(site.vendors.tdx)), site.chain.header
    later = replace(head, number=BlockNumber(head.number + ahead))

    assert refused(site, worker.register(later)) == HEIGHT


def test_stale_replay_a_block_of_another_fork_is_refused(site: Ground) -> None:
    worker, head = site.worker(Hardware(site.vendors.tdx)), site.chain.header

    assert refused(site, worker.register(replace(head, state_root=Hash(bytes(32))))) == FORK


def test_stale_replay_the_same_quote_counts_once(site: Ground) -> None:
    extrinsic = site.worker(Hardware(site.vendors.tdx)).register(site.chain.header)
    site.chain.block(extrinsic)

    assert refused(site, extrinsic) == USED


def test_stale_replay_two_uses_of_a_quote_in_one_block_are_one(site: Ground) -> None:
    worker = site.worker(Hardware(site.vendors.tdx))
    body = worker.registration(site.chain.header)
    first = register_extrinsic(worker.signed(body))
    padded = replace(body.evidence, blob=body.evidence.blob + bytes(64))
    second = register_extrinsic(worker.signed(replace(body, evidence=padded)))
    site.chain.validator().validate(second)  # alone it would be good

    builder = site.chain.open()
    builder.apply(first)
    with pytest.raises(InvalidTransaction) as refusal:
        builder.apply(second)
    assert refusal.value.custom == USED


@pytest.mark.parametrize("kind", ["tdx", "sgx", "amd"])
def test_stale_replay_a_malleated_copy_of_a_used_quote_is_refused(site: Ground, kind: str) -> None:
    worker = site.worker(Hardware(getattr(site.vendors, kind)))
    body = worker.registration(site.chain.header)
    site.chain.block(register_extrinsic(worker.signed(body)))
    blob = malleated(kind, body.evidence.blob)
    assert blob != body.evidence.blob

    copy = replace(body, evidence=replace(body.evidence, blob=blob))

    assert refused(site, register_extrinsic(worker.signed(copy))) == USED


def malleated(kind: str, blob: bytes) -> bytes:
    """Another signature over the same bytes, that verifies as well: (r, n - s)."""
    at, size, order, byteorder = {
        "tdx": (48 + 584 + 4 + 32, 32, P256, "big"),
        "sgx": (48 + 384 + 4 + 32, 32, P256, "big"),
        "amd": (0x2E8, 72, P384, "little"),
    }[kind]
    s = int.from_bytes(blob[at : at + size], byteorder)  # type: ignore[arg-type]
    other = (order - s).to_bytes(size, byteorder)  # type: ignore[arg-type]
    return blob[:at] + other + blob[at + size :]


def test_stale_replay_evidence_of_another_worker_is_refused(site: Ground) -> None:
    mine, thief = (site.worker(Hardware(site.vendors.tdx), seed) for seed in (1, 2))
    body, stolen = thief.registration(site.chain.header), mine.registration(site.chain.header)

    taken = replace(body, evidence=stolen.evidence)

    assert refused(site, register_extrinsic(thief.signed(taken))) == REPORT_DATA


@pytest.mark.parametrize("purpose", [b"user", b"ra-tls", b"key-release", b""])
def test_quote_repurposing_evidence_of_another_purpose_is_refused(
    site: Ground, purpose: bytes
) -> None:
    worker, head = site.worker(Hardware(site.vendors.tdx)), site.chain.header
    body = worker.registration(head)
    said = report_data(purpose, body.manifest, body.block_hash, body.height)
    other = replace(body.evidence, blob=worker.platform.quote(ReportData(said)))

    body = replace(body, evidence=other)

    assert refused(site, register_extrinsic(worker.signed(body))) == REPORT_DATA


def test_another_chains_genesis_is_bound(site: Ground) -> None:
    worker, head = site.worker(Hardware(site.vendors.tdx)), site.chain.header
    body = worker.registration(head)
    elsewhere = replace(body.manifest, genesis=Hash(bytes(32)))
    said = report_data(PURPOSE_REGISTER, elsewhere, body.block_hash, body.height)
    other = replace(body.evidence, blob=worker.platform.quote(ReportData(said)))

    assert refused(site, register_extrinsic(worker.signed(replace(body, evidence=other)))) == (
        REPORT_DATA
    )


def test_prover_chosen_collateral_there_is_no_place_for_it(site: Ground) -> None:
    """What an SEV-SNP report's own table names beside its key is not looked at."""
    worker = site.worker(Hardware(site.vendors.amd))
    body = worker.registration(site.chain.header)
    assert {each.name for each in fields(body)} == {
        *("version", "manifest", "height", "block_hash", "evidence", "encryption_key"),
        *("key_signature", "devices"),
    }
    report, key = body.evidence.blob[:1184], site.vendors.amd.key()
    table = host_table({"VCEK": key, "ASK": b"forged", "ARK": b"forged"})
    forged = replace(body, evidence=replace(body.evidence, blob=report + table))

    site.chain.block(register_extrinsic(worker.signed(forged)))

    assert site.info(worker.worker).state == WORKER_ACTIVE


@pytest.mark.parametrize("attributes", [TD_PLAIN | 1, TD_PLAIN | 1 << 63])
def test_debug_accepted_no_debuggable_or_odd_enclave_registers(
    site: Ground, attributes: int
) -> None:
    worker = site.worker(Hardware(site.vendors.tdx, attributes))

    assert refused(site, worker.register(site.chain.header)) == EVIDENCE_REFUSED


def test_self_signed_evidence_is_refused(site: Ground) -> None:
    worker = site.worker(Hardware(Vendors().tdx))

    assert refused(site, worker.register(site.chain.header)) == EVIDENCE_REFUSED


def test_attestation_bypass_simulated_evidence_is_refused_whatever_the_worker_says(
    site: Ground,
) -> None:
    simulated = SimulatedPlatform(measurement=measure(b"code"), key=SimulatedKey.generate())
    worker = WorkerKeys(b"s" * 32, site.chain.genesis, simulated, 0, RUNTIME_ID)
    assert refused(site, worker.register(site.chain.header)) == 6  # PlatformNotAccepted
    worker.platform_code = 2  # it says that it is TDX
    assert refused(site, worker.register(site.chain.header)) == EVIDENCE_REFUSED


def test_no_chain_but_a_development_one_can_accept_simulated_evidence() -> None:
    key = SimulatedKey.generate()
    dev = GenesisConfig.dev(
        authority=b"a" * 32,
        simulated_root=key.public_root,
        measurement=measure(b"code"),
        runtime_id=RUNTIME_ID,
    )
    for chain_type in ("Local", "Live"):
        with pytest.raises(Invalid, match="accepts simulated evidence"):
            replace(dev, chain_type=chain_type)
        text = dev.to_json().replace('"Development"', f'"{chain_type}"', 1)
        with pytest.raises(Invalid, match="accepts simulated evidence"):
            GenesisConfig.from_json(text)


def test_governance_cannot_turn_a_chain_of_hardware_into_a_simulated_one(site: Ground) -> None:
    dev = DEV.trusting(SimulatedKey.generate().public_root).encode()
    with pytest.raises(PolicyRefused):
        site.govern(lambda world: world.registry.set_policy(Root(), dev, 0))


@pytest.mark.parametrize("what", ["tdx", "sgx", "amd"])
def test_another_code_is_refused(site: Ground, what: str) -> None:
    vendor = getattr(site.vendors, what)
    site.govern(lambda world: world.registry.allowed_measurements.put((b"other",)))
    worker = site.worker(Hardware(vendor))

    assert refused(site, worker.register(site.chain.header)) == MEASUREMENT


def test_what_an_allowed_signer_signs_registers_from_a_version_on(site: Ground) -> None:
    worker = site.worker(Hardware(site.vendors.sgx))
    site.govern(lambda world: world.registry.allowed_measurements.put((b"other",)))
    for signer, good in (
        (Signer(b"\x44" * 32, 7, 2), False),
        (Signer(b"\x44" * 32, 8, 1), False),
        (Signer(b"\x45" * 32, 7, 1), False),
        (Signer(b"\x44" * 32, 7, 1), True),
    ):
        site.govern(partial(_allow, signer))
        extrinsic = worker.register(site.chain.header)
        if good:
            site.chain.block(extrinsic)
        else:
            assert refused(site, extrinsic) == MEASUREMENT
    assert site.info(worker.worker).signer == b"\x44" * 32


def test_an_enclave_of_nitro_registers_without_collateral(site: Ground) -> None:
    machine = NitroMachine(site.vendors.tdx)
    worker = site.worker(machine)
    assert refused(site, worker.register(site.chain.header)) == MEASUREMENT
    said = Evidence(machine.code, machine.quote(ReportData(bytes(64))))
    code = site.vendors.verifier.verify(said, PRODUCTION.encode(), {}, NOW).measurement
    site.govern(lambda world: world.registry.allow_measurement(Root(), code))
    info = site.register(worker)

    assert (info.platform, info.state, info.confidence) == (4, WORKER_ACTIVE, 3)
    assert (info.platform_id, info.product) == (b"i-0123456789abcdef0", b"nitro")
    day = Moment(info.attested_at + DAY_MS)
    body = worker.registration(site.chain.header)
    assert time_of(body, info, day) == info.attested_at, "its client judges it as the chain did"
    other = site.worker(Hardware(site.vendors.tdx), 4).registration(site.chain.header)
    assert time_of(other, info, day) == day
    late = site.worker(NitroMachine(site.vendors.tdx, made=Moment(NOW - 10 * 60 * 1000)), 2)
    assert refused(site, late.register(site.chain.header)) == EVIDENCE_REFUSED
    long = site.worker(NitroMachine(site.vendors.tdx, module="i" * 65 + "-enc1"), 3)
    assert refused(site, long.register(site.chain.header)) == EVIDENCE_REFUSED


def test_a_guest_of_amds_registers_by_who_signed_it_from_a_version_on(site: Ground) -> None:
    vendor = replace(site.vendors.amd, id_key=b"\x66" * 48, guest_svn=3)
    worker = site.worker(Hardware(vendor))
    site.govern(lambda world: world.registry.allowed_measurements.put((b"other",)))
    site.govern(partial(_allow, Signer(b"\x66" * 48, 0, 4)))
    assert refused(site, worker.register(site.chain.header)) == MEASUREMENT
    site.govern(partial(_allow, Signer(b"\x66" * 48, 0, 3)))

    assert site.register(worker).signer == b"\x66" * 48


def _allow(signer: Signer, world: World) -> None:
    world.registry.allow_signer(Root(), signer)


def test_an_earlier_evaluation_is_tried_where_a_later_one_refuses(site: Ground) -> None:
    vendors, worker = site.vendors, site.worker(Hardware(site.vendors.tdx))
    site.chain.block(
        submit_intel(vendors.tdx.collateral(levels=[("OutOfDate", ["INTEL-SA-00001"])], number=21))
    )
    assert site.register(worker).number == 20

    site.govern(lambda world: world.collateral.raise_floor(Root(), 21, 0))
    worker.epoch = 2

    assert refused(site, worker.register(site.chain.header)) == EVIDENCE_REFUSED


@pytest.mark.parametrize("status", ["OutOfDate", "Revoked", "ConfigurationNeeded"])
def test_a_platform_that_is_not_up_to_date_is_refused(status: str) -> None:
    site = ground()
    levels: list[tuple[str, list[str]]] = [(status, [])]
    site.chain.block(submit_intel(site.vendors.tdx.collateral(levels=levels)))

    worker = site.worker(Hardware(site.vendors.tdx))

    assert refused(site, worker.register(site.chain.header)) == EVIDENCE_REFUSED


def test_a_revoked_platform_is_refused() -> None:
    site = ground()
    serial = site.vendors.tdx.pck.serial_number
    site.chain.block(submit_intel(site.vendors.tdx.collateral(revoked=[serial])))

    worker = site.worker(Hardware(site.vendors.tdx))

    assert refused(site, worker.register(site.chain.header)) == EVIDENCE_REFUSED


@pytest.mark.parametrize("size", [0, 1, 47, 432, 4095, 16 * 1024])
@pytest.mark.parametrize("platform", [1, 2, 3, 4, 5, 6, 7, 200])
def test_parser_bombs_random_evidence_is_refused_by_a_number(
    site: Ground, size: int, platform: int
) -> None:
    worker = site.worker(Hardware(site.vendors.tdx))
    body = worker.registration(site.chain.header)
    blob = random.Random(size).randbytes(size)
    for head in (b"", body.evidence.blob[:632], site.vendors.amd.report()[:1184]):
        bomb = Evidence(platform, (head + blob)[: 16 * 1024])
        with pytest.raises(InvalidTransaction):
            site.chain.block(register_extrinsic(worker.signed(replace(body, evidence=bomb))))


# ---- devices: reference/tee.md §3.4

DRIVER, VBIOS = b"999.01\0", "96.00.5E.00.01"
GPU_MEASURED = {index: bytes([index + 1]) * 48 for index in range(8)}


@cache
def documents() -> tuple[bytes, bytes]:
    """A driver's manifest and a VBIOS's, which the measurements are of."""
    signer = p384_pki.chain(4)
    return (
        p384_pki.manifest(signer, "999.01", GPU_MEASURED),
        p384_pki.manifest(signer, VBIOS, GPU_MEASURED),
    )


def equip(site: Ground) -> tuple[Hash, ...]:
    """Governance lists the manifests, and somebody brings them."""
    hashes = tuple(Hash(sha256(each).digest()) for each in documents())

    def act(world: World) -> None:
        for each, document in zip(hashes, documents(), strict=True):
            world.collateral.allow_manifest(Root(), each)
            world.collateral.submit_manifest(Unsigned(), document)

    site.govern(act)
    return hashes


def with_devices(
    worker: WorkerKeys, site: Ground, devices: tuple[Device, ...], *, bound: bool = True
) -> bytes:
    """A registration with GPUs' evidence beside it, bound by its digest."""
    body = worker.registration(site.chain.header)
    gpu = devices_digest(devices) if bound else b""
    said = report_data(PURPOSE_REGISTER, body.manifest, body.block_hash, body.height, gpu)
    evidence = Evidence(body.evidence.platform, worker.platform.quote(ReportData(said)))
    return register_extrinsic(worker.signed(replace(body, evidence=evidence, devices=devices)))


def gpu(nonce: bytes, manifests: tuple[Hash, ...]) -> Device:
    device = p384_pki.chain(5)
    return Device(p384_pki.gpu_report(device, nonce=nonce, driver=DRIVER), device.pem, manifests)


def test_a_worker_registers_with_the_gpus_that_it_binds(site: Ground) -> None:
    worker, hashes = site.worker(Hardware(site.vendors.tdx)), equip(site)
    nonce = device_nonce(worker.worker, site.chain.header.hash())

    site.chain.block(with_devices(worker, site, (gpu(nonce, hashes),)))

    assert site.info(worker.worker).devices == 1


@pytest.mark.parametrize("whose", ["another worker's", "another block's", "nobody's"])
def test_unbound_gpu_evidence_made_for_something_else_is_refused(site: Ground, whose: str) -> None:
    worker, hashes = site.worker(Hardware(site.vendors.tdx)), equip(site)
    head = site.chain.header.hash()
    nonce = {
        "another worker's": device_nonce(WorkerId(bytes(32)), head),
        "another block's": device_nonce(worker.worker, Hash(bytes(32))),
        "nobody's": bytes(32),
    }[whose]

    assert refused(site, with_devices(worker, site, (gpu(nonce, hashes),))) == DEVICES_REFUSED


def test_unbound_gpu_evidence_that_the_cpu_did_not_bind_is_refused(site: Ground) -> None:
    worker, hashes = site.worker(Hardware(site.vendors.tdx)), equip(site)
    devices = (gpu(device_nonce(worker.worker, site.chain.header.hash()), hashes),)

    assert refused(site, with_devices(worker, site, devices, bound=False)) == REPORT_DATA
    site.chain.block(with_devices(worker, site, ()))
    assert site.info(worker.worker).devices == 0


def test_a_gpu_counts_once(site: Ground) -> None:
    worker, hashes = site.worker(Hardware(site.vendors.tdx)), equip(site)
    one = gpu(device_nonce(worker.worker, site.chain.header.hash()), hashes)

    assert refused(site, with_devices(worker, site, (one, one))) == DEVICES_REFUSED


def test_a_gpu_that_is_asked_twice_counts_as_none(site: Ground) -> None:
    """Two reports of one device are no two devices."""
    worker, hashes = site.worker(Hardware(site.vendors.tdx)), equip(site)
    nonce = device_nonce(worker.worker, site.chain.header.hash())
    device = p384_pki.chain(5)
    other = p384_pki.gpu_report(device, nonce=nonce, driver=DRIVER, fwid=None)
    pair = (gpu(nonce, hashes), Device(other, device.pem, hashes))

    assert refused(site, with_devices(worker, site, pair)) == DEVICES_REFUSED
    site.chain.block(with_devices(worker, site, pair[1:]))


def test_a_gpu_on_the_block_list_is_refused_by_its_key(site: Ground) -> None:
    """TEE.fail: a GPU's key can be taken, too."""
    worker, hashes = site.worker(Hardware(site.vendors.tdx)), equip(site)
    key = p384_pki.chain(5).certificates[0].public_key()
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    broken = Blocked(BLOCK_MACHINE, sha256(spki).digest())
    site.govern(lambda world: world.registry.block_platform(Root(), broken))
    nonce = device_nonce(worker.worker, site.chain.header.hash())

    assert refused(site, with_devices(worker, site, (gpu(nonce, hashes),))) == BLOCKED
    site.chain.block(with_devices(worker, site, ()))


def test_a_gpu_without_kept_manifests_is_refused(site: Ground) -> None:
    worker = site.worker(Hardware(site.vendors.tdx))
    nonce = device_nonce(worker.worker, site.chain.header.hash())
    hashes = tuple(Hash(sha256(each).digest()) for each in documents())

    for manifests in ((), hashes, hashes[:1]):
        extrinsic = with_devices(worker, site, (gpu(nonce, manifests),))
        assert refused(site, extrinsic) == DEVICES_REFUSED


# ---- genuine evidence


def genuine() -> list[dict[str, Any]]:
    return [
        each
        for each in index()["intel_dcap"]
        if each["ok"] and each["status"] == "UpToDate" and each["collateral"]
    ]


def test_genuine_quotes_pass_all_but_what_binds_them_to_another_worker() -> None:
    """Intel's own roots, the chain's collateral: only their report data is not this worker's."""
    judged = 0
    for case in genuine():
        items = {
            name: item for name, item in intel(case["collateral"]).items() if name in INTEL_ITEMS
        }
        config = GenesisConfig.hardware(
            authority=b"a" * 32, measurements=(b"m",), runtime_id=RUNTIME_ID
        )
        chain = MemoryChain(config)
        chain.now = Moment(case["now"] * 1000)
        chain.block()
        chain.block(submit_intel(items))
        site = Ground(chain, Vendors())
        worker = site.worker(Hardware(site.vendors.tdx))
        body = worker.registration(chain.header)
        quote = read(case["quote"])
        tee = 1 if int.from_bytes(quote[:2], "little") == 3 else 2
        theirs = replace(body, evidence=Evidence(tee, quote))

        assert refused(site, register_extrinsic(worker.signed(theirs))) == REPORT_DATA
        judged += 1
    assert judged >= 7
