"""Evidence through the kernel's one interface for it: configfs-tsm, as TDX and SEV-SNP have it.

Source: Linux, Documentation/ABI/testing/configfs-tsm-report (since 6.7). A directory made under
`report` is a request; the kernel fills it with attributes. The interface is the whole machine's:
anyone with root may write to our request, so a counter tells whether someone did.
"""

import errno
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from phala.errors import Unavailable
from phala.tee.ops import InterfaceFailed, Ops, explained, read_whole
from phala.tee.platform import ReportData

CONFIGFS: Final = Path("/sys/kernel/config")
REPORTS: Final = CONFIGFS / "tsm" / "report"
TDX_PROVIDER, SEV_PROVIDER = "tdx_guest", "sev_guest"

OUTBLOB_BYTES_MAX: Final = 32 * 1024  # TSM_REPORT_OUTBLOB_MAX of Linux 6.7
AUXBLOB_BYTES_MAX: Final = 32 * 1024
_WORD_BYTES_MAX: Final = 4096  # a text attribute is at most one page
_RACES_MAX: Final = 3
_BUSY_MAX: Final = 50
_BUSY_PAUSE_S: Final = 0.1  # with the number above: five seconds a step
_BUSY: Final = (errno.EBUSY, errno.EWOULDBLOCK)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Report:
    """What one request brought."""

    provider: str
    blob: bytes
    auxiliary: bytes  # SEV-SNP: the host's table of certificates; else nothing


class Tsm:
    """Requests to configfs-tsm."""

    def __init__(
        self, ops: Ops, *, root: Path = REPORTS, pause: Callable[[float], None] = time.sleep
    ) -> None:
        """The pause, in seconds, is what passes while the kernel says that it is busy."""
        self.ops = ops
        self._root = root
        self._pause = pause

    @property
    def present(self) -> bool:
        return self.ops.isdir(self._root)

    def provider(self) -> str:
        """Who answers: `tdx_guest`, `sev_guest`, `arm_cca_guest`."""
        return self._with_request(self._provider)

    def report(self, report_data: ReportData) -> Report:
        """A report that says `report_data`, asked anew where another process got between.

        Raises:
            RequestRaced: that happened each time.
            InterfaceAbsent, InterfaceClosed, InterfaceFailed, TooLarge: what the kernel says.
        """
        for _ in range(_RACES_MAX):
            found = self._with_request(lambda entry: self._attempt(entry, report_data))
            if found is not None:
                return found
        raise RequestRaced(self._root)

    def _with_request(self, use: Callable[[Path], T]) -> T:
        """The request is gone afterwards, whatever happened."""
        entry = self._root / f"phala-{secrets.token_hex(8)}"
        self._busy(entry, lambda: self.ops.mkdir(entry))
        try:
            return use(entry)
        finally:
            self._busy(entry, lambda: self.ops.rmdir(entry))

    def _attempt(self, entry: Path, report_data: ReportData) -> Report | None:
        """The report, or nothing where the counter says that others wrote to the request."""
        generation = self._generation(entry)
        provider = self._provider(entry)
        generation += self._raise_level(entry)
        self._busy(entry, lambda: self.ops.write(entry / "inblob", report_data))
        generation += 1
        blob = self._read(entry / "outblob", OUTBLOB_BYTES_MAX)
        auxiliary = b""
        if self.ops.exists(entry / "auxblob"):
            auxiliary = self._read(entry / "auxblob", AUXBLOB_BYTES_MAX)
        if self._generation(entry) != generation:
            return None
        return Report(provider, blob, auxiliary)

    def _raise_level(self, entry: Path) -> int:
        """Ask at the lowest privilege number that the guest may name; how many writes it took."""
        floor = entry / "privlevel_floor"
        if not self.ops.exists(floor):
            return 0
        level = self._number(floor)
        if level == 0:
            return 0
        self._busy(entry, lambda: self.ops.write(entry / "privlevel", str(level).encode()))
        return 1

    def _provider(self, entry: Path) -> str:
        return self._read(entry / "provider", _WORD_BYTES_MAX).decode("ascii", "replace").strip()

    def _generation(self, entry: Path) -> int:
        return self._number(entry / "generation")

    def _number(self, path: Path) -> int:
        text = self._read(path, _WORD_BYTES_MAX).strip()
        if not text.isdigit() or len(text) > 20:
            raise InterfaceFailed(f"{path} holds {text[:40]!r}, no number", mend="ask again")
        return int(text)

    def _read(self, path: Path, size_max: int) -> bytes:
        return self._busy(path, lambda: read_whole(self.ops, path, size_max=size_max))

    def _busy(self, path: Path, act: Callable[[], T]) -> T:
        """Do it, again while the kernel is busy with a request."""
        for _ in range(_BUSY_MAX):
            try:
                return act()
            except OSError as error:
                if error.errno not in _BUSY:
                    raise explained(error, path) from error
            self._pause(_BUSY_PAUSE_S)
        raise InterfaceBusy(path)


class InterfaceBusy(Unavailable):
    """The kernel was busy for as long as we wait."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path} was busy {_BUSY_MAX} times in a row", mend="ask again in some seconds"
        )


class RequestRaced(Unavailable):
    """Another process wrote to each of our requests."""

    def __init__(self, root: Path) -> None:
        super().__init__(
            f"another process wrote to {_RACES_MAX} requests of ours in {root}",
            mend="find what else writes there as root, stop it, then ask again",
        )
