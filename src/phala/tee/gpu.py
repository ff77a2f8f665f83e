"""Evidence of NVIDIA's GPUs through NVML, of a machine whose CPU's evidence then has to bind it.

Source: NVIDIA Management Library, "Confidential Computing" functions (driver 535 and later). The
library is NVIDIA's own, of the driver; `nvidia-ml-py` calls it and is installed where there are
GPUs: `phala[gpu]`.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from phala.errors import Invalid, Refused
from phala.tee.ops import InterfaceFailed

NONCE_BYTES: Final = 32
GPUS_MAX: Final = 64
_NONCE: Final = slice(4, 4 + NONCE_BYTES)  # in the request that a report begins with


@dataclass(frozen=True, slots=True)
class GpuEvidence:
    """Of one GPU: `attest` judges the report under PlatformCode.NVIDIA, with the chain."""

    name: str
    report: bytes  # SPDM request and answer
    chain: bytes  # PEM, leaf first
    confidential: bool  # as the driver says: not in the report
    dev_tools: bool  # likewise: debuggers reach the GPU's memory


def gpu_evidence(nonce: bytes) -> tuple[GpuEvidence, ...]:
    """A report of each GPU under this process.

    Raises:
        Invalid: the nonce is not of 32 bytes.
        GpuAbsent: there is no GPU, no driver, or no `nvidia-ml-py`.
        InterfaceFailed: the driver did not answer as it should.
    """
    if len(nonce) != NONCE_BYTES:
        raise Invalid(f"a nonce of {len(nonce)} bytes", mend=f"give {NONCE_BYTES} bytes")
    with _library() as nvml:
        state = nvml.nvmlSystemGetConfComputeState()
        count = nvml.nvmlDeviceGetCount()
        if not 1 <= count <= GPUS_MAX:
            raise GpuAbsent(f"the driver counts {count} GPUs")
        return tuple(
            _of(nvml, nvml.nvmlDeviceGetHandleByIndex(index), nonce, state)
            for index in range(count)
        )


def _of(nvml: Any, device: Any, nonce: bytes, state: Any) -> GpuEvidence:
    report = nvml.nvmlDeviceGetConfComputeGpuAttestationReport(device, nonce)
    certificate = nvml.nvmlDeviceGetConfComputeGpuCertificate(device)
    data = bytes(report.attestationReport)[: report.attestationReportSize]
    chain = bytes(certificate.attestationCertChain)[: certificate.attestationCertChainSize]
    if data[_NONCE] != nonce:
        raise InterfaceFailed(
            "the GPU's report does not say our nonce", mend="ask again; look into the driver's log"
        )
    name = nvml.nvmlDeviceGetName(device)
    return GpuEvidence(
        name=name if isinstance(name, str) else name.decode("utf-8", "replace"),
        report=data,
        chain=chain,
        confidential=bool(state.ccFeature),
        dev_tools=bool(state.devToolsMode),
    )


@contextmanager
def _library() -> Iterator[Any]:
    """NVML, for as long as it is needed; its errors in our words."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        raise GpuAbsent("nvidia-ml-py is not installed") from None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise GpuAbsent(f"NVML does not start: {error}") from None
    try:
        yield nvml
    except nvml.NVMLError as error:
        raise InterfaceFailed(
            f"NVML answers: {error}",
            mend="use a GPU in confidential mode, and a driver of 535 or later",
        ) from None
    finally:
        nvml.nvmlShutdown()


class GpuAbsent(Refused):
    """No GPU gives evidence here."""

    def __init__(self, what: str) -> None:
        super().__init__(
            what, mend="install NVIDIA's driver and phala[gpu], and give this guest a GPU"
        )
