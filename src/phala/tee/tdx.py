"""Intel TDX: quotes through configfs-tsm."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from phala.errors import Invalid
from phala.tee.configfs import TDX_PROVIDER, Tsm
from phala.tee.evidence import (
    EvidenceUnknown,
    ProviderWrong,
    check_ours,
    check_report_data,
    seals_nothing,
)
from phala.tee.ops import explained
from phala.tee.platform import ReportData

# Intel TDX DCAP Quote Library API, appendix A.3: header, then in version 5 a body's type and size.
_HEADER_BYTES: Final = 48
_BODY_HEAD_BYTES: Final = 6
_BODY_BYTES: Final = 584  # of version 4; what TD 1.5 adds comes behind
_TEE_TDX: Final = 0x81
_MRTD, _RTMRS, _REPORT_DATA = 136, 328, 520  # offsets in the body
_REGISTER_BYTES: Final = 48
# Linux 6.16, Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest.
REGISTERS: Final = Path("/sys/devices/virtual/misc/tdx_guest/measurements")
EXTENDABLE: Final = (2, 3)  # 0 and 1 are the firmware's and the boot's
# Where a quote of DICE begins: a COSE message or a CWT, tagged or not (RFC 8392, section 6).
_CWT: Final = (b"\xd2\x84", b"\xd8\x3d", b"\x84")


class TdxPlatform:
    """A trust domain. It has no key of its own to seal with: each boot is a new identity."""

    word = "tdx"
    seals = False

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm
        self._measurements: Mapping[str, bytes] | None = None

    def quote(self, report_data: ReportData) -> bytes:
        check_report_data(report_data)
        report = self._tsm.report(report_data)
        if report.provider != TDX_PROVIDER:
            raise ProviderWrong(report.provider, TDX_PROVIDER)
        body = body_of(report.blob)
        check_ours(body[_REPORT_DATA : _REPORT_DATA + 64], report_data, self.word)
        self._measurements = measurements_of(body)
        return report.blob

    @property
    def measurements(self) -> Mapping[str, bytes]:
        """As the newest quote says: a register may have been extended since."""
        if self._measurements is None:
            self.quote(ReportData(bytes(64)))
        assert self._measurements is not None
        return self._measurements

    def extend(self, register: int, digest: bytes) -> None:
        """Put a SHA-384 into a run-time register for good: each later quote says so.

        A register becomes SHA-384(itself, digest). Whoever verifies replays the digests in order.

        Raises:
            Invalid: no register of software, or no SHA-384.
            InterfaceAbsent: the kernel is older than 6.16.
        """
        if register not in EXTENDABLE or len(digest) != _REGISTER_BYTES:
            raise Invalid(
                f"register {register} and {len(digest)} bytes",
                mend=f"extend register 2 or 3 by the {_REGISTER_BYTES} bytes of a SHA-384",
            )
        path = REGISTERS / f"rtmr{register}:sha384"
        try:
            self._tsm.ops.write(path, digest)
        except OSError as error:
            raise explained(error, path) from error
        self._measurements = None

    def seal(self, plaintext: bytes, *, label: bytes) -> bytes:  # noqa: ARG002 - the Protocol's
        seals_nothing(self.word)

    def unseal(self, sealed: bytes, *, label: bytes) -> bytes:  # noqa: ARG002 - the Protocol's
        seals_nothing(self.word)


def body_of(quote: bytes) -> bytes:
    """The TD report in a quote of version 4 or 5.

    Raises:
        EvidenceUnknown: it is a quote of DICE, as newer modules may make, or none at all.
    """
    version = int.from_bytes(quote[:2], "little")
    if version in (4, 5) and int.from_bytes(quote[4:8], "little") == _TEE_TDX:
        start = _HEADER_BYTES + (_BODY_HEAD_BYTES if version == 5 else 0)
        body = quote[start : start + _BODY_BYTES]
        if len(body) == _BODY_BYTES:
            return body
    if quote.startswith(_CWT):
        raise EvidenceUnknown(
            f"the TDX module made a DICE quote of {len(quote)} bytes (CWT), not a DCAP one",
            mend="have the host run its quote generation service with DCAP quotes",
        )
    raise EvidenceUnknown(
        f"{len(quote)} bytes that begin with {quote[:8].hex()} are no TDX quote of version 4 or 5",
        mend="have the host run Intel's quote generation service, with vsock or TDVMCALL set up",
    )


def measurements_of(body: bytes) -> Mapping[str, bytes]:
    found = {"mrtd": body[_MRTD : _MRTD + _REGISTER_BYTES]}
    for index in range(4):
        start = _RTMRS + index * _REGISTER_BYTES
        found[f"rtmr{index}"] = body[start : start + _REGISTER_BYTES]
    return MappingProxyType(found)
