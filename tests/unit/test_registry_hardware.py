"""Registration of hardware through the real runtime, by collateral that the chain keeps."""

from dataclasses import replace

import pytest
from tests.unit.hardware import DAY_MS, HOUR_MS, Ground, ground

from phala.attest import PRODUCTION
from phala.messages.collateral import CollateralKey
from phala.messages.state import WORKER_ACTIVE
from phala.primitives.types import BlockNumber, Hash
from phala.runtime import InvalidTransaction, Problem
from phala.testing.vendors import Hardware, submit_amd, submit_intel
from phala.testing.worker import WorkerKeys, register_extrinsic

EVIDENCE_REFUSED, REPORT_DATA, MEASUREMENT, USED, HEIGHT, FORK = 7, 8, 9, 11, 2, 3
NO_COLLATERAL, BLOCKED = 16, 17


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
