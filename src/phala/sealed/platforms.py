"""Which machine is under the enclave, and how its evidence is named on the wire."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phala.attest.verdict import PlatformCode
from phala.enclave.ports import Devices, NoDevices
from phala.errors import Refused
from phala.messages.registration import DEVICES_MAX, PLATFORM_SIMULATED, Device
from phala.primitives.types import Hash
from phala.sealed.log import log
from phala.sealed.measurement import simulated_measurement
from phala.tee.detect import detect_platform
from phala.tee.gpu import GpuAbsent, gpu_evidence
from phala.tee.platform import Platform
from phala.tee.simulated import SimulatedPlatform
from phala.tee.simulated_key import load_simulated_key

CODES: Final = {code.word: int(code) for code in PlatformCode}


@dataclass(frozen=True, slots=True)
class Under:
    """The platform, its number in `messages.registration`, and the GPUs beside it."""

    platform: Platform
    code: int
    devices: Devices


class GpuTooOpen(Refused):
    """A GPU's memory is open to others than this guest."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is not in confidential mode, or its developers' tools are on",
            mend="have the host set the GPU's confidential mode, or give this guest none",
        )


@dataclass(frozen=True, slots=True)
class Gpus:
    """All of this guest's, through NVML. What a report does not say, is asserted here: this code
    is measured."""

    manifests: tuple[Hash, ...]  # that the chain is to hold each of them against

    def evidence(self, nonce: bytes) -> tuple[Device, ...]:
        try:
            found = gpu_evidence(nonce)
        except GpuAbsent as error:
            log("no GPU", why=error.what)
            return ()
        for each in found:
            if each.dev_tools or not each.confidential:
                raise GpuTooOpen(each.name)
        return tuple(
            Device(each.report, each.chain, self.manifests) for each in found[:DEVICES_MAX]
        )


def platform_under(
    simulated_key: Path | None, runtime_id: Hash, gpu_manifests: tuple[Hash, ...] = ()
) -> Under:
    """The hardware under this process; the simulated platform only where its key is named.

    Raises:
        PlatformAbsent: no key is named, and there is no hardware: the error says what is missing.
    """
    if simulated_key is not None:
        key = load_simulated_key(simulated_key)
        measurement = simulated_measurement(runtime_id)
        simulated = SimulatedPlatform(measurement=measurement, key=key)
        return Under(simulated, PLATFORM_SIMULATED, NoDevices())
    found = detect_platform()
    return Under(found, CODES[found.word], Gpus(gpu_manifests))
