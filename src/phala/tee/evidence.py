"""What each platform asks of the evidence that it was handed, before anyone sees it."""

from typing import NoReturn

from phala.errors import Refused, Unavailable
from phala.tee.platform import ReportData


def check_ours(said: bytes, report_data: ReportData, platform: str) -> None:
    """The evidence says what we asked it to.

    Raises:
        NotOurs: it says something else.
    """
    if said != report_data:
        raise NotOurs(said, report_data, platform)


def check_report_data(report_data: ReportData) -> None:
    assert len(report_data) == 64, f"report data of {len(report_data)} bytes, not 64"


def seals_nothing(platform: str) -> NoReturn:
    raise SealingAbsent(
        f"{platform} gives no key to seal with",
        mend="keep the secret in memory, or take it from a key service after attesting",
    )


class NotOurs(Unavailable):
    """The evidence is another request's."""

    def __init__(self, said: bytes, report_data: ReportData, platform: str) -> None:
        super().__init__(
            f"the {platform} evidence says {said.hex() or 'nothing'}, not our {report_data.hex()}",
            mend="ask again; where it stays, another process answers for this interface",
        )


class EvidenceUnknown(Refused):
    """The platform handed out evidence that no verifier of ours takes."""


class ProviderWrong(Refused):
    """The kernel's interface speaks for another platform than the one meant."""

    def __init__(self, found: str, wanted: str) -> None:
        super().__init__(
            f"the kernel's reports come from {found!r}, not from {wanted!r}",
            mend="let `detect_platform` choose the platform",
        )


class SealingAbsent(Refused):
    """`seals` is false here."""
