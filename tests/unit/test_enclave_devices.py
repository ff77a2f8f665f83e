"""GPUs beside an enclave: their evidence is bound into its own, and open ones are not offered."""

from dataclasses import dataclass, field

import pytest

from phala.attest.quote import QUOTE
from phala.messages.host import Attest
from phala.messages.registration import (
    PURPOSE_REGISTER,
    Device,
    device_nonce,
    devices_digest,
    report_data,
)
from phala.primitives.types import Hash
from phala.sealed import platforms
from phala.sealed.platforms import Gpus, GpuTooOpen
from phala.tee.gpu import GpuAbsent, GpuEvidence
from phala.testing.enclave import SimWorker
from phala.testing.sim_chain import SimChain

MANIFESTS = (Hash(b"m" * 32),)


@dataclass
class OneGpu:
    asked: list[bytes] = field(default_factory=list)

    def evidence(self, nonce: bytes) -> tuple[Device, ...]:
        self.asked.append(nonce)
        return (Device(b"report of " + nonce, b"chain", MANIFESTS),)


def test_evidence_of_gpus_is_asked_for_the_worker_and_block_and_bound() -> None:
    chain, gpu = SimChain(), OneGpu()
    worker = SimWorker(chain, devices=gpu)
    chain.seal()
    worker.follow()

    body = worker.enclave.attest(Attest(operator=None, endpoints=())).registration.body

    nonce = device_nonce(worker.identity.worker, body.block_hash)
    assert gpu.asked == [nonce]
    assert body.devices == (Device(b"report of " + nonce, b"chain", MANIFESTS),)
    said = QUOTE.decode(body.evidence.blob).report.report_data
    bound = devices_digest(body.devices)
    assert said == report_data(PURPOSE_REGISTER, body.manifest, body.block_hash, body.height, bound)
    assert said != report_data(PURPOSE_REGISTER, body.manifest, body.block_hash, body.height)


def gpu(*, confidential: bool = True, dev_tools: bool = False) -> GpuEvidence:
    return GpuEvidence("a GPU", b"report", b"chain", confidential=confidential, dev_tools=dev_tools)


def test_a_gpu_that_others_can_read_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    for open_ in (gpu(confidential=False), gpu(dev_tools=True)):
        monkeypatch.setattr(platforms, "gpu_evidence", lambda _, found=open_: (gpu(), found))
        with pytest.raises(GpuTooOpen, match="a GPU"):
            Gpus(MANIFESTS).evidence(bytes(32))


def test_gpus_come_with_the_manifests_that_the_operator_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(platforms, "gpu_evidence", lambda _: (gpu(),))
    assert Gpus(MANIFESTS).evidence(bytes(32)) == (Device(b"report", b"chain", MANIFESTS),)


def test_a_machine_without_gpus_has_no_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(nonce: bytes) -> tuple[GpuEvidence, ...]:
        del nonce
        raise GpuAbsent("nothing is there")

    monkeypatch.setattr(platforms, "gpu_evidence", absent)
    assert Gpus(MANIFESTS).evidence(bytes(32)) == ()
