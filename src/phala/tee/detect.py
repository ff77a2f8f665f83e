"""Finds the platform under this process, in the order in which one hides another."""

from pathlib import Path
from typing import Final, TypeAlias

from phala.errors import Refused
from phala.tee.configfs import CONFIGFS, REPORTS, SEV_PROVIDER, TDX_PROVIDER, Tsm
from phala.tee.evidence import EvidenceUnknown
from phala.tee.gramine import ATTESTATION, TYPE, GraminePlatform
from phala.tee.nitro import DEVICE as NITRO
from phala.tee.nitro import NitroPlatform
from phala.tee.ops import KernelOps, Ops, explained, read_whole
from phala.tee.sev import SevPlatform
from phala.tee.tdx import TdxPlatform

Hardware: TypeAlias = GraminePlatform | NitroPlatform | SevPlatform | TdxPlatform

TDX_DEVICE: Final = Path("/dev/tdx_guest")
SEV_DEVICE: Final = Path("/dev/sev-guest")
DSTACK: Final = (
    Path("/var/run/dstack.sock"),
    Path("/run/dstack.sock"),
    Path("/var/run/dstack/dstack.sock"),
)
DMI_VENDOR: Final = Path("/sys/class/dmi/id/sys_vendor")
_VENDOR_BYTES_MAX: Final = 4096
_AZURE: Final = b"Microsoft Corporation"


def detect_platform(ops: Ops | None = None) -> Hardware:
    """The hardware that this process can get evidence from.

    Never the simulated one: whoever wants that makes it by name.

    Raises:
        PlatformAbsent: there is none, or no way to ask it: the error says what is missing.
        InterfaceAbsent, InterfaceClosed, InterfaceFailed: the kernel's, of an interface found.
    """
    ops = KernelOps() if ops is None else ops
    if ops.exists(ATTESTATION / TYPE):
        return GraminePlatform(ops)
    if ops.exists(NITRO):
        return NitroPlatform(ops)
    tsm = Tsm(ops)
    if tsm.present:
        return _of_provider(tsm)
    raise _absent(ops)


def _of_provider(tsm: Tsm) -> Hardware:
    provider = tsm.provider()
    if provider == TDX_PROVIDER:
        return TdxPlatform(tsm)
    if provider == SEV_PROVIDER:
        return SevPlatform(tsm)
    raise EvidenceUnknown(
        f"the kernel's reports come from {provider!r}, which no verifier here judges",
        mend="run on Intel TDX, AMD SEV-SNP, or SGX under Gramine",
    )


def _absent(ops: Ops) -> "PlatformAbsent":
    """Why there is nothing, as far as signs tell; signs are the host's, and no evidence."""
    for device, word in ((TDX_DEVICE, "Intel TDX"), (SEV_DEVICE, "AMD SEV-SNP")):
        if ops.exists(device):
            return PlatformAbsent(
                f"{device} says {word}, but {REPORTS} is missing",
                mend=f"run Linux 6.7 or later and mount -t configfs none {CONFIGFS}",
            )
    for socket in DSTACK:
        if ops.exists(socket):
            return PlatformAbsent(
                f"{socket} says that dstack runs this container, but {REPORTS} is missing",
                mend=f"mount {CONFIGFS} into the container",
            )
    if ops.exists(DMI_VENDOR) and _AZURE in _vendor(ops):
        return PlatformAbsent(
            f"this is a machine of Azure's, and {REPORTS} is missing: evidence would be its vTPM's,"
            " which this version does not ask",
            mend="run on a machine whose guest has TDX or SEV-SNP without a paravisor",
        )
    return PlatformAbsent(
        f"no trusted hardware is under this process: none of {ATTESTATION}, {NITRO}, {REPORTS},"
        f" {TDX_DEVICE}, {SEV_DEVICE} exists",
        mend="run inside a TDX or SEV-SNP guest, or under gramine-sgx",
    )


def _vendor(ops: Ops) -> bytes:
    try:
        return read_whole(ops, DMI_VENDOR, size_max=_VENDOR_BYTES_MAX)
    except OSError as error:
        raise explained(error, DMI_VENDOR) from error


class PlatformAbsent(Refused):
    """No platform gives evidence here."""
