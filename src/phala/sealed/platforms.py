"""Which machine is under the enclave, and how its evidence is named on the wire."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from phala.attest.verdict import PlatformCode
from phala.messages.registration import PLATFORM_SIMULATED
from phala.primitives.types import Hash
from phala.sealed.measurement import simulated_measurement
from phala.tee.detect import detect_platform
from phala.tee.platform import Platform
from phala.tee.simulated import SimulatedPlatform
from phala.tee.simulated_key import load_simulated_key

CODES: Final = {code.word: int(code) for code in PlatformCode}


@dataclass(frozen=True, slots=True)
class Under:
    """The platform, and its number in `messages.registration`."""

    platform: Platform
    code: int


def platform_under(simulated_key: Path | None, runtime_id: Hash) -> Under:
    """The hardware under this process; the simulated platform only where its key is named.

    Raises:
        PlatformAbsent: no key is named, and there is no hardware: the error says what is missing.
    """
    if simulated_key is not None:
        key = load_simulated_key(simulated_key)
        measurement = simulated_measurement(runtime_id)
        return Under(SimulatedPlatform(measurement=measurement, key=key), PLATFORM_SIMULATED)
    found = detect_platform()
    return Under(found, CODES[found.word])
