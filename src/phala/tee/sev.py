"""AMD SEV-SNP: reports through configfs-tsm."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from phala.tee.configfs import SEV_PROVIDER, Report, Tsm
from phala.tee.evidence import (
    EvidenceUnknown,
    ProviderWrong,
    check_ours,
    check_report_data,
    seals_nothing,
)
from phala.tee.platform import ReportData

# AMD SEV Secure Nested Paging Firmware ABI, 56860, table 23.
REPORT_BYTES: Final = 1184
_REPORT_DATA, _MEASUREMENT, _HOST_DATA, _HOST_DATA_END = 0x50, 0x90, 0xC0, 0xE0


class SevPlatform:
    """A guest of SEV-SNP.

    The firmware can derive keys for a guest, but we do not seal with them: such a key is the
    chip's, equal for all guests of equal fields, does not survive a move to another chip, and
    asking for it goes by another device than reports do. Each boot is a new identity.
    """

    word = "sev-snp"
    seals = False

    def __init__(self, tsm: Tsm) -> None:
        self._tsm = tsm
        self._measurements: Mapping[str, bytes] | None = None

    def quote(self, report_data: ReportData) -> bytes:
        """The report, then the table of certificates where the host hands one out: without its
        key's, which the host alone may have, nobody can judge a report."""
        report = self._report(report_data)
        return report.blob + report.auxiliary

    @property
    def measurements(self) -> Mapping[str, bytes]:
        """What the firmware measured at launch, and what the host set then (`host_data`)."""
        if self._measurements is None:
            self._report(ReportData(bytes(64)))
        assert self._measurements is not None
        return self._measurements

    def seal(self, plaintext: bytes, *, label: bytes) -> bytes:  # noqa: ARG002 - the Protocol's
        seals_nothing(self.word)

    def unseal(self, sealed: bytes, *, label: bytes) -> bytes:  # noqa: ARG002 - the Protocol's
        seals_nothing(self.word)

    def _report(self, report_data: ReportData) -> Report:
        check_report_data(report_data)
        report = self._tsm.report(report_data)
        if report.provider != SEV_PROVIDER:
            raise ProviderWrong(report.provider, SEV_PROVIDER)
        blob = report.blob
        if len(blob) != REPORT_BYTES or not 2 <= int.from_bytes(blob[:4], "little") <= 5:
            raise EvidenceUnknown(
                f"{len(blob)} bytes of version {int.from_bytes(blob[:4], 'little')} are no report"
                f" of {REPORT_BYTES} bytes and version 2 to 5",
                mend="update the guest's kernel, and this program",
            )
        check_ours(blob[_REPORT_DATA:_MEASUREMENT], report_data, self.word)
        self._measurements = MappingProxyType(
            {
                "measurement": blob[_MEASUREMENT:_HOST_DATA],
                "host_data": blob[_HOST_DATA:_HOST_DATA_END],
            }
        )
        return report
